"""What training is expected to make of an untrained network."""

from itertools import pairwise

import numpy as np
import pytest

from slim import Budget
from sweeps.proposals import Observation
from sweeps.regained import Regained

UNTOLD = Regained(dense=90.0, dense_top1=88.0, chance=10.0)


def after(regained: Regained, top1: float) -> float:
    return float(regained.foretold(Observation(Budget(), top1, 1.0)).val_top1 or 0.0)


def test_most_of_a_small_loss_is_regained_and_little_of_a_large_one() -> None:
    shares = [UNTOLD.share(top1) for top1 in (95, 90, 70, 50, 10, 5)]
    assert shares == pytest.approx([0.9, 0.9, 0.7, 0.5, 0.1, 0.1])
    left = [88 - after(UNTOLD, top1) for top1 in (90, 70, 50, 10)]
    assert left == pytest.approx([0, 0.3 * 20, 0.5 * 40, 0.9 * 80])


def test_a_line_through_what_trained_networks_tell_and_both_ends() -> None:
    told = UNTOLD.told_by([(70, 88 - 0.4 * 20), (30, 88 - 0.6 * 60)])
    slope, first = np.polyfit([0, 1, 0.25, 0.75], [0.9, 0.1, 0.6, 0.4], 1)
    assert (told.of_little, told.of_all) == pytest.approx((first, first + slope))
    assert UNTOLD.told_by([]) == replace_ends(0.9, 0.1)


def test_what_was_told_before_is_not_told_twice() -> None:
    pairs = [(70.0, 80.0), (30.0, 60.0)]
    assert UNTOLD.told_by(pairs[:1]).told_by(pairs) == UNTOLD.told_by(pairs)


def test_no_share_is_beyond_all_or_nothing() -> None:
    beyond = UNTOLD.told_by([(80, 95)] * 50 + [(20, 5)] * 50)
    assert (beyond.of_little, beyond.of_all) == (1.0, pytest.approx(0.0, abs=0.03))
    assert UNTOLD.told_by([(80, 99)]) == UNTOLD.told_by([(80, 88)])


def test_a_network_that_lost_next_to_nothing_tells_nothing() -> None:
    assert UNTOLD.told_by([(89.5, 80), (91, 70), (90, 88)]) == UNTOLD.told_by([])


@pytest.mark.parametrize(
    "pairs",
    [[], [(70, 86), (60, 84)], [(85, 60)] * 9 + [(30, 86)] * 9, [(50, 88)] * 40, [(50, 10)] * 40],
)
def test_the_order_is_that_of_judging(pairs: list[tuple[float, float]]) -> None:
    told = UNTOLD.told_by(pairs)
    assert 0 <= told.of_all <= told.of_little <= 1
    foretold = [after(told, top1) for top1 in (2, 10, 20, 40, 60, 80, 89, 90)]
    assert all(one < next_one for one, next_one in pairwise(foretold))
    assert after(told, 91) >= foretold[-1] == 88


def test_a_dense_model_that_guesses_breaks_nothing() -> None:
    guessing = Regained(dense=10.0, dense_top1=10.0, chance=10.0)
    assert after(guessing, 10.0) == 10.0
    assert after(guessing, 8.0) < 10.0


def replace_ends(of_little: float, of_all: float) -> Regained:
    return Regained(90.0, 88.0, 10.0, pytest.approx(of_little), pytest.approx(of_all))
