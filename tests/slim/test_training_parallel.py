"""Two processes train one network as one process does with a batch twice as large."""

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.slim.bars import assert_equal
from tests.slim.two_processes import PENALTY, RECIPE, SAME_AS_ALONE, Results

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Results]]:
    """What every scenario gave, in the first process and in the second."""
    folder = tmp_path_factory.mktemp("pair")
    program = [sys.executable, "-m", "tests.slim.two_processes", str(folder)]
    processes = [
        subprocess.Popen([*program, str(rank)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)[-3000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@cache
def alone(scenario: str) -> Results:
    return SAME_AS_ALONE[scenario](RECIPE)


def assert_close(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scenario", SAME_AS_ALONE)
def test_the_loss_curve_is_that_of_one_process(scenario, pair):
    for rank in range(2):
        assert_close(pair[rank][scenario]["curve"], alone(scenario)["curve"])


@pytest.mark.parametrize("scenario", SAME_AS_ALONE)
def test_weights_and_their_average_are_those_of_one_process(scenario, pair):
    for kept in ("model", "evaluated"):
        assert_close(pair[0][scenario][kept], alone(scenario)[kept])


@pytest.mark.parametrize("scenario", ["masked", "masked_in_parts"])
def test_the_penalty_moves_masks_as_in_one_process(scenario, pair):
    ours, expected = pair[0][scenario]["penalties"], alone(scenario)["penalties"]
    assert_close(ours, expected)
    fresh = PENALTY.tokens + PENALTY.mhsa + PENALTY.mlp
    assert expected[-1] < 0.95 * fresh  # so that it tells something


@pytest.mark.parametrize("scenario", [*SAME_AS_ALONE, "orthogonal", "with_dropout", "stopped"])
def test_processes_end_with_the_same_weights_and_masks_bit_for_bit(scenario, pair):
    ours, theirs = pair[0][scenario], pair[1][scenario]
    assert_equal(ours["model"], theirs["model"])
    assert_equal(ours["evaluated"], theirs["evaluated"])
    assert ours["curve"] == theirs["curve"]


def test_processes_draw_their_dropout_apart(pair):
    for ours, theirs in zip(*(results["with_dropout"]["drawn"] for results in pair), strict=True):
        assert not torch.equal(ours, theirs)


def test_one_request_stops_all_and_they_go_on_as_if_never_stopped(pair):
    for results in pair:
        assert results["stopped"]["error"].startswith(
            "StoppedTraining: stopped as asked; its last state, after step 7 (epoch 2), is "
        )
        assert results["stopped"]["curve"] == results["plain"]["curve"]
        assert_equal(results["stopped"]["model"], results["plain"]["model"])
        assert_equal(results["stopped"]["evaluated"], results["plain"]["evaluated"])


def test_the_first_process_alone_writes_the_state(pair):
    assert [results["stopped"]["writes"] for results in pair] == [3, 0]


def test_a_state_that_not_all_see_is_refused_by_all(pair):
    for results in pair:
        assert "FileFormatError" in results["unseen"]["error"]
        assert "put it where all of them see it" in results["unseen"]["error"]


def test_a_loss_that_is_not_finite_in_one_process_ends_all(pair):
    expected = "DivergenceError: the loss is nan at step 1 (epoch 1); lower the learning rate"
    for results in pair:
        assert results["diverged"]["error"].startswith(expected)
