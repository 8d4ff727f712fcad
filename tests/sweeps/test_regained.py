"""What training is expected to make of an untrained network."""

import pytest

from slim import Budget
from sweeps.proposals import Observation
from sweeps.regained import Regained


def after(regained: Regained, top1: float) -> float | None:
    return regained.foretold(Observation(Budget(), top1, 1.0)).val_top1


def test_half_of_a_loss_is_regained_before_anything_is_trained() -> None:
    regained = Regained(dense=90.0, dense_top1=88.0)
    assert [after(regained, top1) for top1 in (90, 80, 40)] == [88, 83, 63]


def test_each_trained_network_tells_its_share_and_none_counts_beyond_all_or_nothing() -> None:
    untold = Regained(dense=90.0, dense_top1=88.0)
    assert untold.told_by([(80, 86)]).share == pytest.approx((0.5 + 0.8) / 2)
    assert untold.told_by([(80, 86), (50, 80)]).share == pytest.approx((0.5 + 0.8 + 0.8) / 3)
    assert untold.told_by([(80, 95), (80, 40)]).share == pytest.approx((0.5 + 1 + 0) / 3)


def test_a_network_that_lost_next_to_nothing_tells_nothing() -> None:
    untold = Regained(dense=90.0, dense_top1=88.0)
    assert untold.told_by([(89.5, 80), (91, 70), (90, 88)]) == untold


def test_the_order_is_that_of_judging() -> None:
    regained = Regained(dense=90.0, dense_top1=88.0, share=0.8)
    foretold = [float(after(regained, top1) or 0) for top1 in (20, 60, 89, 90, 91)]
    assert foretold == sorted(set(foretold))
