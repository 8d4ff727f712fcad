"""Readings of a smooth function of the budgets lose their noise when they are read together."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slim import Budget
from sweeps.config import SweepConfig, resolved
from sweeps.front import non_dominated
from sweeps.judged import JudgedStudy
from sweeps.pooled import FEWEST, pooled, smoothed
from sweeps.proposals import Observation
from sweeps.study import first_budgets
from tests.sweeps.small_checkpoint import space_of
from tests.sweeps.test_judged import judged_rows

JUDGING = resolved(SweepConfig(trials=8, seed=3))
JUDGING = replace(JUDGING, judge=replace(JUDGING.judge, budgets=96))


def budgets(count: int, seed: int = 0) -> np.ndarray:
    """Shares kept, by chance: (count, 3)."""
    return np.random.default_rng(seed).uniform([0.2, 0.1, 0.05], 1.0, (count, 3))


def worth(shares: np.ndarray) -> np.ndarray:
    """Percent; steep where little is kept, and flat where much is."""
    accuracy: np.ndarray = 90 - 25 * np.exp(-3 * shares @ [1.0, 0.7, 0.4])
    return accuracy


def error(found: np.ndarray, shares: np.ndarray) -> float:
    """Root mean square of what is not the mean's, which no comparison of budgets sees."""
    return float((found - worth(shares)).std())


@pytest.mark.parametrize("count", [FEWEST, 100, 3000])
def test_noise_is_taken_out(count: int) -> None:
    shares = budgets(count)
    readings = worth(shares) + np.random.default_rng(1).normal(0, 0.6, count)
    assert 0.45 < error(readings, shares) < 0.75
    assert error(smoothed(shares, readings), shares) < (0.5 if count == FEWEST else 0.3)


def test_readings_without_noise_stay() -> None:
    shares = budgets(100)
    assert np.abs(smoothed(shares, worth(shares)) - worth(shares)).max() < 0.1


def test_what_does_not_vary_tells_nothing() -> None:
    shares = budgets(40)
    same = np.full(40, 71.5)
    assert (smoothed(shares, same) == same).all()
    assert (smoothed(np.ones((40, 3)), worth(shares)) == worth(shares)).all()
    flat = np.concatenate([shares[:, :2], np.ones((40, 1))], axis=1)
    assert error(smoothed(flat, worth(flat)), flat) < 0.1


@pytest.mark.parametrize("top1", [0.0, 100.0])
def test_the_ends_of_the_scale_can_be_read(top1: float) -> None:
    readings = np.concatenate([[top1], worth(budgets(40))[1:]])
    found = smoothed(budgets(40), readings)
    assert np.isfinite(found).all()
    assert ((found >= 0) & (found <= 100)).all()


def test_only_what_has_an_accuracy_is_read_and_nothing_else_changes() -> None:
    shares = budgets(50)
    told = [
        Observation(Budget(*kept), None if n % 10 == 9 else accuracy, 1.0 * n, 0.1 * n)
        for n, (kept, accuracy) in enumerate(zip(shares.tolist(), worth(shares), strict=True))
    ]
    found = pooled(told)
    assert [one.val_top1 is None for one in found] == [n % 10 == 9 for n in range(50)]
    same = [replace(one, val_top1=old.val_top1) for one, old in zip(found, told, strict=True)]
    assert same == told
    assert found != told
    assert pooled(told) == found
    assert pooled(told[:FEWEST]) == told[:FEWEST]


def test_the_sweep_does_not_start_from_a_lucky_reading(tmp_path: Path) -> None:
    space, many = space_of(JUDGING), replace(JUDGING, trials=40)
    study = JudgedStudy(tmp_path / "journal", JUDGING, space)
    while batch := study.ask():
        study.tell(judged_rows(study, len(study.rows()), batch))
    started = first_budgets(many, space, study.pooled())
    lifted = (replace(row, val_top1=row.val_top1 + 3) for row in study.rows()[48:])
    lucky = next(
        row
        for row in lifted
        if row.budget not in started and row in non_dominated([*study.front(), row])
    )
    other = JudgedStudy(tmp_path / "lucky", JUDGING, space)
    other.tell([lucky if row.number == lucky.number else row for row in study.rows()])
    assert lucky in other.front()
    assert lucky.budget not in first_budgets(many, space, other.pooled())
