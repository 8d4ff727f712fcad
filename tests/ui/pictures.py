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
    page.set_viewport_size({"width": 1200, "height": 640})
    page.goto(pages.front(name))
    page.get_by_role("gridcell").get_by_role("link").first.wait_for(timeout=60_000)
    page.wait_for_timeout(1500)
    page.screenshot(path=folder / "front_view.png")
    page.goto(pages.run())
    page.get_by_text("on the front: no other trial").wait_for(timeout=60_000)
    page.screenshot(path=folder / "sweep.png")
    page.goto(pages.run("/artifacts"))
    page.get_by_text("front.html", exact=True).first.click()
    points = page.frame_locator("iframe").locator(".scatterlayer path.point")
    points.first.wait_for(timeout=60_000)
    points.last.hover(force=True)
    page.wait_for_timeout(500)
    page.screenshot(path=folder / "front.png")
    page.goto(pages.comparison())
    page.get_by_role("tab", name="Parallel Coordinates Plot").wait_for(timeout=60_000)
    page.wait_for_timeout(3000)
    page.screenshot(path=folder / "parallel.png")


if __name__ == "__main__":
    main()
