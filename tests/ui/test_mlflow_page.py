"""A user finds the sweep, its front and its reports in MLflow's page."""

import re

import pandas as pd
import pytest
from playwright.sync_api import FrameLocator, Page, expect

from analysis.reports import REPORTS
from tests.ui.conftest import ShownSweep

SLOW = 30_000
"""Milliseconds that a figure of some megabytes may take."""


def shown_runs(page: Page, count: int) -> list[str]:
    """Names of the runs in the table from top to bottom, once there are so many."""
    links = page.get_by_role("gridcell").get_by_role("link")
    expect(links).to_have_count(count, timeout=SLOW)
    tops = [(link.bounding_box() or {"y": 0})["y"] for link in links.all()]
    return [name for _, name in sorted(zip(tops, links.all_inner_texts(), strict=True))]


def front_of(shown: ShownSweep) -> list[str]:
    """The front's runs, cheapest first, as the table on disk has them."""
    front = pd.read_csv(shown.folder / "front.csv").sort_values("gmacs")
    return [f"trial-{number}" for number in front["trial"]]


def artifact(page: Page, shown: ShownSweep, *path: str) -> FrameLocator:
    """Click through the artifacts to a page in the page."""
    page.goto(shown.pages.run("/artifacts"))
    for part in path:
        page.get_by_text(part, exact=True).first.click()
    return page.frame_locator("iframe")


def test_the_sweep_stands_alone_and_opens_to_its_children(page: Page, shown: ShownSweep) -> None:
    page.goto(shown.pages.runs())
    assert shown_runs(page, 1) == ["shown"]
    page.get_by_role("gridcell").get_by_role("button").first.click()
    for child in ("dense", "search", "trial-0", "trial-4"):
        expect(page.get_by_role("link", name=child, exact=True)).to_be_visible()


def test_the_printed_address_shows_the_front_cheapest_first(page: Page, shown: ShownSweep) -> None:
    address = re.search(r"http://127\.0\.0\.1:5000(/#\S+)", shown.printed)
    assert address, shown.printed[-600:]
    page.goto(shown.pages.address + address[1])
    front = front_of(shown)
    assert shown_runs(page, len(front)) == front
    for column in ("gmacs", "params_m", "val_top1", "test_top1"):
        expect(page.get_by_role("columnheader", name=column).first).to_be_visible()


def test_the_front_tag_filters_and_a_click_on_gmacs_sorts(page: Page, shown: ShownSweep) -> None:
    page.goto(shown.pages.runs())
    box = page.get_by_placeholder("metrics.rmse")
    box.fill('tags.front = "true" and metrics.gmacs > 0')
    box.press("Enter")
    page.wait_for_url("**searchFilter=tags.front**")
    front = front_of(shown)  # MLflow shows them below their sweep while it sorts by date
    page.get_by_role("button", name="Sort").click()
    page.get_by_role("menuitemcheckbox", name="gmacs").first.click()
    page.wait_for_url("**gmacs**")
    page.wait_for_timeout(1000)
    assert sorted(shown_runs(page, len(front))) == sorted(front)
    assert shown_runs(page, len(front)) in (front, front[::-1])


def test_the_front_can_be_hovered(page: Page, shown: ShownSweep) -> None:
    frame = artifact(page, shown, "front.html")
    points = frame.locator(".scatterlayer .trace .points path.point")
    expect(points.first).to_be_visible(timeout=SLOW)
    frame.locator(".scatterlayer .trace").nth(-1).locator("path.point").first.hover(force=True)
    expect(frame.locator(".hoverlayer .hovertext").first).to_contain_text("GMACs")


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_opens_in_the_page(page: Page, shown: ShownSweep, name: str) -> None:
    page.goto(shown.pages.run("/artifacts"))
    folder = page.get_by_text("reports", exact=True)
    folder.first.click()
    inside = page.get_by_role("listitem").filter(has=folder).get_by_role("listitem")
    inside.get_by_text(f"{name}.html", exact=True).click()  # a figure beside it has that name too
    frame = page.frame_locator("iframe")
    expect(frame.get_by_role("heading", level=1)).to_be_visible(timeout=SLOW)
    expect(frame.locator(".main-svg").first).to_be_visible(timeout=SLOW)


def test_the_sweeps_page_says_what_came_out(page: Page, shown: ShownSweep) -> None:
    page.goto(shown.pages.run())
    expect(page.get_by_text("on the front: no other trial")).to_be_visible(timeout=SLOW)
    for trial in front_of(shown):
        expect(page.get_by_text(f"{trial.replace('-', ' ')}:", exact=False).first).to_be_attached()


def test_mlflows_own_plots_take_the_trials(page: Page, shown: ShownSweep) -> None:
    page.goto(shown.pages.comparison())
    expect(page.locator("#compare-run-parcoords, .js-plotly-plot").first).to_be_visible(
        timeout=SLOW
    )
