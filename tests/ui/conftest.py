"""A small real run under MLflow's own page, and a browser that is told off for errors."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.sweeps.conftest import ROOT, SMALL, run_sweep_process

collect_ignore = [] if find_spec("playwright") else ["test_mlflow_page.py"]
if not collect_ignore:
    from playwright.sync_api import Browser, ConsoleMessage, Page

    from tests.ui.mlflow_page import SweepPages, new_page, opened_browser, served

SCREENSHOTS = ROOT / "build" / "ui"
NOT_OURS = ("/users/current",)
"""Addresses of which MLflow's own page asks more than its own server has."""


@dataclass(frozen=True)
class ShownSweep:
    """A finished run: its pages, its folder and what its terminal showed."""

    pages: "SweepPages"
    folder: Path
    printed: str


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[ShownSweep]":
    cwd = tmp_path_factory.mktemp("ui")
    printed = run_sweep_process(cwd, *SMALL, "--name", "shown", "--trials", "5").stdout
    with served(f"sqlite:///{cwd / 'mlflow.db'}", "shown", cwd / "ui.log") as pages:
        yield ShownSweep(pages, cwd / "runs" / "shown", printed)


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    with opened_browser() as browser:
        yield browser


@pytest.fixture
def page(browser: "Browser", request: pytest.FixtureRequest) -> "Iterator[Page]":
    """A fresh page; it must end without an error, and its last picture is kept in build/ui."""
    page, errors = new_page(browser), []

    def hear(message: "ConsoleMessage") -> None:
        foreign = any(part in message.location["url"] for part in NOT_OURS)
        if message.type == "error" and not foreign:
            errors.append(message.text)

    page.on("console", hear)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    name = request.node.name.removeprefix("test_").replace("[", "-").rstrip("]")
    page.screenshot(path=SCREENSHOTS / f"{name}.png")
    page.close()
    assert errors == []
