"""Notebooks become pages that read well and need no network."""

import json
import re
import signal
from pathlib import Path

import nbformat
import pytest

from analysis import ReportError
from analysis.reports import NOTEBOOKS, REPORTS, make_reports
from tests.analysis.conftest import EMPTY, FAILED, FULL, JUDGED, ONE, RUNNING

PLOTLY = "plotly.js v"


def body_of(page: Path) -> str:
    """What the notebook adds to the page."""
    text = page.read_text(encoding="utf-8")
    return text[text.index("<body>") :]


@pytest.fixture(scope="module")
def full_pages(tracking_uri: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports") / "new" / "folder"
    pages = make_reports(tracking_uri, FULL.name, folder)
    assert sorted(folder.iterdir()) == sorted(pages)
    return dict(zip(REPORTS, pages, strict=True))


@pytest.mark.parametrize("name", REPORTS)
def test_a_page_shows_its_figures_without_code_or_network(
    full_pages: dict[str, Path], name: str
) -> None:
    text = full_pages[name].read_text(encoding="utf-8")
    body = body_of(full_pages[name])
    assert text.count(PLOTLY) == 1
    assert "Plotly.newPlot(" in body
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", text)
    assert not re.search(r"https?://", body)
    assert "import" not in body.replace("important", "")
    assert "load_run" not in body
    assert "full &lt;run&gt; of *all*" in text


@pytest.mark.parametrize("name", REPORTS)
def test_a_page_has_no_raw_value(full_pages: dict[str, Path], name: str) -> None:
    shown = re.sub(r"<script.*?</script>|<[^>]+>", " ", body_of(full_pages[name]), flags=re.DOTALL)
    assert not re.search(r"\d\.\d{8}|\bnan\b|\bNaN\b|\{'|Timestamp|dtype", shown)


def test_the_figures_on_the_page_are_those_of_the_data(full_pages: dict[str, Path]) -> None:
    call = re.search(r"Plotly\.newPlot\(\s*\"[^\"]+\",\s*(\[.*?\]),\s*\{\"", body_of(full_pages["front"]), re.DOTALL)  # fmt: skip # noqa: E501
    assert call is not None
    traces = json.loads(call.group(1))
    assert [trace["name"] for trace in traces] == ["dominated", "front", "knee", "dense model"]


def test_a_failed_run_is_reported_whatever_kernels_are_installed(
    tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    broken.parent.mkdir(parents=True)
    broken.write_text(json.dumps({"argv": ["/nowhere/python"], "display_name": "x"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    before = signal.getsignal(signal.SIGINT)
    pages = make_reports(tracking_uri, FAILED.name, tmp_path, ["transfer", "front"])
    assert [page.name for page in pages] == ["transfer.html", "front.html"]
    assert "This run has no transfer results" in body_of(pages[0])
    assert "2 trials (2 failed)" in body_of(pages[1])
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("name", [EMPTY.name, ONE.name, FAILED.name, RUNNING.name, JUDGED.name])
@pytest.mark.parametrize("report", REPORTS)
def test_every_notebook_runs_for_every_shape_of_run(
    tracking_uri: str, name: str, report: str
) -> None:
    cells = nbformat.read(NOTEBOOKS / f"{report}.ipynb", as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"][1:]
    exec("\n".join(code), {"tracking_uri": tracking_uri, "run_name": name})


@pytest.mark.parametrize("report", REPORTS)
def test_a_notebook_is_clean_and_takes_two_parameters(report: str) -> None:
    notebook = nbformat.read(NOTEBOOKS / f"{report}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert code[0].metadata.tags == ["parameters"]
    assert re.findall(r"^(\w+) =", code[0].source, re.MULTILINE) == ["tracking_uri", "run_name"]


def test_a_report_that_fails_is_an_error_of_one_line_and_keeps_the_old_page(
    tracking_uri: str, tmp_path: Path
) -> None:
    old = tmp_path / "front.html"
    old.write_text("old")
    with pytest.raises(ReportError, match="report front: RunNotFoundError: no sweep") as caught:
        make_reports(tracking_uri, "nobody", tmp_path, ["front"])
    assert "\n" not in str(caught.value)
    assert old.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["front.html"]


def test_an_unknown_report_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no report named 'fronts'; choose from front, budgets"):
        make_reports("sqlite:///none.db", "x", tmp_path / "new", ["fronts"])
    assert not (tmp_path / "new").exists()


def test_a_long_folder_for_temporary_files_is_not_too_long_for_the_kernels_sockets(
    tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    (page,) = make_reports(tracking_uri, FULL.name, tmp_path / "pages", ["front"])
    assert page.is_file()


def test_a_kernel_that_cannot_start_is_an_error_of_one_line(
    tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    monkeypatch.setattr("analysis.reports.LONGEST_FOLDER", 1000)
    with pytest.raises(ReportError, match="kernel does not start") as caught:
        make_reports(tracking_uri, FULL.name, tmp_path / "pages", ["front"])
    assert "\n" not in str(caught.value)
