"""A run repeats itself exactly: budgets, indices, accuracies and weights."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.sweeps.conftest import SMALL, FinishedSweep, run_sweep_process


@pytest.fixture(scope="module")
def again(sweep: FinishedSweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same sweep once more, by one worker.

    All trials begin on the judged front, so that none depends on which ended before it.
    """
    cwd = tmp_path_factory.mktemp("again")
    none = ["--tasks", "none", "--concurrency", "1"]
    run_sweep_process(cwd, *SMALL, *none, "--name", "small", "--trials", "4")
    return cwd / "runs" / "small"


@pytest.mark.parametrize("table", ["judged", "trials", "front"])
def test_a_table_is_the_same_but_for_seconds(
    table: str, sweep: FinishedSweep, again: Path
) -> None:
    ours, theirs = (
        pd.read_csv(folder / f"{table}.csv").drop(columns="seconds")
        for folder in (sweep.folder, again)
    )
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


@pytest.mark.parametrize(
    "network", ["dense", "search", "shared", *(f"models/{number}" for number in range(4))]
)
def test_a_network_is_the_same_to_the_bit(network: str, sweep: FinishedSweep, again: Path) -> None:
    ours, theirs = (
        {path.name: path.read_bytes() for path in (folder / network).glob("*.safetensors")}
        for folder in (sweep.folder, again)
    )
    assert ours
    assert ours == theirs


def test_each_network_keeps_the_same_indices(sweep: FinishedSweep, again: Path) -> None:
    for number in range(4):
        ours, theirs = (
            json.loads((folder / "models" / str(number) / "config.json").read_text())
            for folder in (sweep.folder, again)
        )
        assert ours["architecture"]["tokens"]
        assert ours["architecture"] == theirs["architecture"]
