"""Take the pictures of docs/mlflow.md from a finished run.

python -m tests.ui.pictures sqlite:///mlflow.db NAME docs/mlflow
"""

import argparse
import tempfile
from pathlib import Path

from playwright.sync_api import Page

from tests.ui.mlflow_page import SweepPages, new_page, opened_browser, served


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tracking_uri")
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "ui.log"
        with served(arguments.tracking_uri, arguments.name, log) as pages, opened_browser() as b:
            take(new_page(b), pages, arguments.name, arguments.folder)


def take(page: Page, pages: SweepPages, name: str, folder: Path) -> None:
    page.set_viewport_size({"width": 1400, "height": 640})
    page.goto(pages.front(name))
    page.get_by_role("gridcell").get_by_role("link").first.wait_for(timeout=60_000)
    page.wait_for_timeout(1500)
    page.screenshot(path=folder / "front_view.png")
    page.goto(pages.run())
    page.get_by_text("on the front: no other trial").wait_for(timeout=60_000)
    page.get_by_role("link", name="hypervolume").wait_for(timeout=60_000)
    page.get_by_text("Show more").click()
    page.screenshot(path=folder / "sweep.png")
    page.goto(pages.run("/artifacts"))
    page.get_by_text("front.html", exact=True).first.click()
    traces = page.frame_locator("iframe").locator(".scatterlayer .trace")
    traces.first.wait_for(timeout=60_000)
    traces.nth(1).locator("path.point").nth(2).hover(force=True)
    page.wait_for_timeout(500)
    where = page.get_by_text("Path:", exact=False).first  # a folder of this machine
    where.evaluate("element => { element.style.visibility = 'hidden'; }")
    page.screenshot(path=folder / "front.png")


if __name__ == "__main__":
    main()
