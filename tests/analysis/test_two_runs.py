"""Two runs are set against each other by their fronts and their configurations."""

from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from analysis import ReportError
from analysis.reports import NOTEBOOKS, make_comparison
from analysis.runs import Run, load_run
from analysis.two_runs import (
    differences_table,
    differing,
    draw_two_runs,
    levels_table,
    two_runs_data,
    two_runs_sentence,
)
from tests.analysis.conftest import EMPTY, FAILED, FULL, JUDGED, ONE, RUNNING
from tests.analysis.tables import trials_table


def run_with(run: Run, name: str, gmacs: list[float], val_top1: list[float]) -> Run:
    return replace(run, name=name, trials=trials_table(gmacs, val_top1))


def test_networks_are_beaten_by_those_that_are_no_dearer_and_no_worse(full_run: Run) -> None:
    one = run_with(full_run, "one", [4, 2, 1], [90, 80, 70])
    two = run_with(full_run, "two", [4, 2, 0.5], [90, 85, 60])
    data = two_runs_data(one, two)
    # Only 2 GMACs at 80 % is beaten; 4 GMACs at 90 % is in both, which beats neither.
    assert (data.first.beaten, data.second.beaten) == (1, 0)
    told = two_runs_sentence(data)
    assert "Of the 3 networks on the front of **one**, 1 is beaten by **two**" in told
    assert "on the front of **two**, none is beaten by **one**." in told
    assert "By hypervolume **two** is ahead" in told
    assert "Their dense models have 90.00 and 90.00 % on val." in told
    assert levels_table(data)["Difference (points)"].tolist()[:4] == ["+0.00", "+5.00"] + [
        "+5.00"
    ] * 1 + ["-10.00"]


def test_runs_of_different_images_are_said_to_be_not_comparable(full_run: Run) -> None:
    one = run_with(full_run, "one", [4, 2], [90, 80])
    assert two_runs_data(one, one).warning == ""

    def beside(**changes: str) -> str:
        names = {name.replace("_", "."): value for name, value in changes.items()}
        other = replace(one, params=one.params | names)
        known = replace(one, params=one.params | {"images.sha256": "a"})
        return two_runs_sentence(two_runs_data(known, other))

    assert not beside(data="/elsewhere/mnist", images_sha256="a").startswith("**")
    assert beside(images_sha256="b").startswith("**The two runs have different images: their")
    assert beside(data="/x/pets").startswith("**The two runs were given different data, mnist and")


def test_both_fronts_and_dense_networks_are_drawn(full_run: Run) -> None:
    one = run_with(full_run, "one", [4, 1], [90, 70])
    data = two_runs_data(one, run_with(full_run, "two", [3, 1], [91, 75]))
    names = [trace.name for trace in draw_two_runs(data).data]
    assert names == ["one", "dense, one", "two", "dense, two"]


def test_values_that_do_not_change_results_are_not_told_apart() -> None:
    first = {"seed": "0", "name": "a", "trials": "18", "storage": "/x"}
    second = {"seed": "1", "name": "b", "trials": "18", "repeats": "3", "max_retries": "1"}
    assert differing(first, second) == (("repeats", "–", "3"), ("seed", "0", "1"))


def test_a_run_may_be_called_as_the_column_beside_it(full_run: Run) -> None:
    one = replace(full_run, name="Value", params={"seed": "0"})
    other = replace(full_run, name="b", params={"seed": "1"})
    table = differences_table(two_runs_data(one, other))
    assert list(table.columns) == ["Value", "Value", "b"]
    assert table.to_numpy().tolist() == [["seed", "0", "1"]]


def test_a_run_without_a_front_is_named(tracking_uri: str, full_run: Run) -> None:
    data = two_runs_data(full_run, load_run(tracking_uri, EMPTY.name))
    assert "There is no complete trial in **empty**" in two_runs_sentence(data)


@pytest.mark.parametrize("one", [EMPTY.name, ONE.name, FAILED.name, RUNNING.name, JUDGED.name])
@pytest.mark.parametrize("other", [EMPTY.name, ONE.name, FAILED.name, FULL.name])
def test_the_notebook_runs_for_every_pair_of_shapes(
    tracking_uri: str, one: str, other: str
) -> None:
    cells = nbformat.read(NOTEBOOKS / "two_runs.ipynb", as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"][1:]
    given = {"tracking_uri": tracking_uri, "first_name": one, "second_name": other}
    exec("\n".join(code), given)


def test_the_page_shows_both_and_an_unknown_run_is_one_line(
    tracking_uri: str, tmp_path: Path
) -> None:
    page = make_comparison(tracking_uri, FULL.name, JUDGED.name, tmp_path / "both.html")
    text = page.read_text(encoding="utf-8")
    assert "By hypervolume" in text
    assert "judged first, val top-1 (%)" in text
    assert "Plotly.newPlot(" in text
    with pytest.raises(ReportError, match="no sweep named 'nobody'") as caught:
        make_comparison(tracking_uri, FULL.name, "nobody", tmp_path / "none.html")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "none.html").exists()
