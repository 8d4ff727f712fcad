"""What training is expected to make of an untrained network."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from slim import Budget
from sweeps.proposals import Observation
from sweeps.regained import Regained
from sweeps.space import DENSE
from tests.sweeps.small_checkpoint import space_of
from tests.sweeps.test_judged import CONFIG

ALONE = ((0.25, 50.0), (0.5, 80.0))
UNTOLD = Regained(dense=90.0, dense_top1=88.0, chance=10.0, tokens_alone=ALONE)


def untrained(top1: float, tokens: float = 1.0) -> Observation:
    return Observation(Budget(tokens, 0.5, 0.5), top1, 1.0)


def after(regained: Regained, top1: float, tokens: float = 1.0) -> float:
    return float(regained.foretold(untrained(top1, tokens)).val_top1 or 0.0)


def test_a_tenth_is_left_of_what_was_lost_with_other_things_than_tokens() -> None:
    assert [after(UNTOLD, top1) for top1 in (90, 80, 40)] == [88, 87, 83]


def test_more_is_left_of_what_was_lost_with_tokens_the_more_that_is() -> None:
    half = 0.4 * 10 + 0.5 * 10 * 10 / 80
    assert after(UNTOLD, 80, tokens=0.5) == pytest.approx(88 - half)
    assert after(UNTOLD, 60, tokens=0.5) == pytest.approx(88 - half - 0.1 * 20)
    quarter = 0.4 * 40 + 0.5 * 40 * 40 / 80
    assert after(UNTOLD, 50, tokens=0.25) == pytest.approx(88 - quarter)
    assert after(UNTOLD, 50, tokens=0.1) == pytest.approx(88 - quarter)
    between = 90 - (50 + 80) / 2
    left = 0.4 * between + 0.5 * between * between / 80 + 0.1 * (50 - between)
    assert after(UNTOLD, 40, tokens=0.125**0.5) == pytest.approx(88 - left)


def test_no_more_is_the_tokens_than_was_lost() -> None:
    assert after(UNTOLD, 86, tokens=0.25) == pytest.approx(88 - 0.4 * 4 - 0.5 * 4 * 4 / 80)


def test_all_is_the_tokens_where_none_tells_how_much() -> None:
    unknown = replace(UNTOLD, tokens_alone=())
    assert after(unknown, 80, tokens=0.5) == after(UNTOLD, 80, tokens=0.5)
    assert after(unknown, 60, tokens=0.5) < after(UNTOLD, 60, tokens=0.5)
    assert after(unknown, 60) == after(UNTOLD, 60)


def test_trained_networks_tell_what_is_left() -> None:
    pairs = [(untrained(top1), 88 - 0.3 * (90 - top1)) for top1 in (85, 80, 70, 60, 50)] * 40
    little, more, rest = UNTOLD.told_by(pairs).left
    assert (little, more) == pytest.approx(UNTOLD.left[:2])
    assert rest == pytest.approx(0.3, abs=0.01)
    alone = [(untrained(80, 0.5), 85.0), (untrained(50, 0.25), 44.0)] * 400
    little, more, rest = UNTOLD.told_by(alone).left
    assert little * 10 + more * 10 * 10 / 80 == pytest.approx(3.0, abs=0.1)
    assert little * 40 + more * 40 * 40 / 80 == pytest.approx(40.0, abs=0.7)
    assert rest == pytest.approx(UNTOLD.left[2])


def test_what_is_left_is_a_least_squares_fit() -> None:
    left = UNTOLD.told_by([(untrained(60, 0.5), 80.0)]).left
    row = np.array([10, 10 * 10 / 80, 20]) / (1 + 30 / 10)
    trust = np.diag([3.0, 2.0, 10.0])
    wanted = [*(trust @ [0.4, 0.5, 0.1]), 8 / (1 + 30 / 10)]
    expected, *_ = np.linalg.lstsq(np.vstack([trust, row]), wanted, rcond=None)
    assert left == pytest.approx(tuple(expected))


def test_nothing_is_told_by_none_and_by_networks_that_lost_next_to_nothing() -> None:
    assert UNTOLD.told_by([]).left == pytest.approx(UNTOLD.left)
    few = [(untrained(top1), 70.0) for top1 in (89.5, 90, 91)]
    assert UNTOLD.told_by(few).left == pytest.approx(UNTOLD.left)


def test_what_was_told_before_is_not_told_twice() -> None:
    pairs = [(untrained(70), 80.0), (untrained(30, 0.5), 60.0)]
    assert UNTOLD.told_by(pairs[:1]).told_by(pairs) == UNTOLD.told_by(pairs)


def test_no_network_gains_beyond_the_dense_model_nor_loses_by_training() -> None:
    better = UNTOLD.told_by([(untrained(70), 99.0)] * 9)
    assert better == UNTOLD.told_by([(untrained(70), 88.0)] * 9)
    assert after(better, 95) == 88
    collapsed = UNTOLD.told_by([(untrained(80, 0.5), 10.0)] * 999)
    assert collapsed.left[0] * 10 + collapsed.left[1] * 10 * 10 / 80 == pytest.approx(10, abs=0.1)
    assert after(collapsed, 50, tokens=0.25) == 88 - 40


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("tokens", [0.2, 0.5, 1.0])
def test_with_as_many_tokens_the_order_is_that_of_judging(tokens: float, share: float) -> None:
    tops = (30, 40, 50, 60, 70, 80, 86)
    told = UNTOLD.told_by([(untrained(t, tokens), 88 - share * (90 - t)) for t in tops])
    assert min(told.left) >= 0
    foretold = [after(told, top1, tokens) for top1 in (2, 10, *tops, 89, 90)]
    assert all(one <= following for one, following in pairwise(foretold))
    assert foretold[0] < foretold[-1] == 88


def test_what_is_judged_tells_the_reference_and_what_tokens_alone_lose() -> None:
    space = space_of(CONFIG)
    one = [Observation(Budget(0.5, 1, 1), 70.0, 1.0), Observation(Budget(0.5, 0.9, 1), 60.0, 1.0)]
    dense = Observation(Budget(), 91.0, 2.0)
    running = Observation(Budget(0.7, 1, 1), None, 0.0)
    told = Regained.untold([*one, dense, running], space, dense_top1=88.0)
    assert told == Regained(91.0, 88.0, 100 / space.spec.num_classes, ((0.5, 70.0),))
    assert Regained.untold(one, space, dense_top1=88.0).dense == 88.0


def test_where_limits_leave_none_that_cuts_tokens_alone_the_best_of_no_more_tokens_tells() -> None:
    whole = space_of(CONFIG).cost(DENSE).params / 1e6
    space = space_of(replace(CONFIG, max_params_m=0.9 * whole))
    assert not space.tokens_alone
    points = ((0.3, 40.0), (0.25, 50.0), (0.9, 45.0), (0.5, 80.0), (1.0, 85.0))
    judged = [Observation(Budget(tokens, 0.5, 0.5), top1, 1.0) for tokens, top1 in points]
    assert Regained.untold(judged, space, dense_top1=88.0).tokens_alone == ALONE


def test_a_dense_model_that_guesses_breaks_nothing() -> None:
    guessing = Regained(dense=10.0, dense_top1=10.0, chance=10.0, tokens_alone=((0.5, 9.0),))
    assert after(guessing, 10.0, tokens=0.5) == 10.0
    assert after(guessing, 8.0, tokens=0.5) < 10.0
