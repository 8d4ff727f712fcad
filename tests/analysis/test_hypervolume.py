"""The hypervolume against areas worked out by hand."""

import math

import pytest

from analysis.hypervolume import draw_hypervolume, hypervolume_data, hypervolume_sentence
from tests.analysis.tables import trials_table


def test_it_is_the_share_of_the_box_that_is_dominated() -> None:
    # Dense at 10 GMACs: the box is 11 GMACs x 100 %. Trial 0 covers (11 - 10) * 80 = 80, trial 1
    # adds (10 - 5) * 60 = 300: 380 of 1100.
    data = hypervolume_data(trials_table(gmacs=[10, 5], val_top1=[80, 60]))
    assert data.reference_gmacs == pytest.approx(11)
    assert data.value == pytest.approx((80 / 1100, 380 / 1100))


def test_chance_is_the_reference_where_the_classes_are_known() -> None:
    # Chance is 20 %: the box is 11 x 80; trial 0 covers 1 * 60.
    data = hypervolume_data(trials_table(gmacs=[10], val_top1=[80]), num_classes=5)
    assert data.reference_top1 == 20
    assert data.value == pytest.approx((60 / 880,))


def test_trials_count_in_order_of_number_and_only_complete_ones_add() -> None:
    trials = trials_table(
        gmacs=[10, 5, 5, 5],
        val_top1=[80, 99, 60, 99],
        state=["COMPLETE", "PRUNED", "COMPLETE", "RUNNING"],
    )
    data = hypervolume_data(trials.iloc[::-1])
    assert data.trial == (0, 1, 2)
    assert data.value == pytest.approx((80 / 1100, 80 / 1100, 380 / 1100))


def test_a_point_outside_the_box_adds_nothing() -> None:
    data = hypervolume_data(trials_table(gmacs=[10, 20], val_top1=[5, 90]), num_classes=10)
    assert data.value == (0, 0)
    assert "no hypervolume" in hypervolume_sentence(data)


def test_without_a_complete_trial_it_is_zero() -> None:
    data = hypervolume_data(trials_table(gmacs=[10], val_top1=[80], state=["FAILED"]))
    assert data.value == (0,)
    assert math.isnan(data.reference_gmacs)
    assert hypervolume_data(trials_table(gmacs=[], val_top1=[])).trial == ()


def test_the_sentence_names_the_last_trial_that_helped() -> None:
    data = hypervolume_data(trials_table(gmacs=[10, 5, 6], val_top1=[80, 60, 50]))
    assert "Trial 1 was the last to enlarge it; 1 came after" in hypervolume_sentence(data)
    assert "34.5 %" in hypervolume_sentence(data)


def test_the_picture_is_in_percent() -> None:
    figure = draw_hypervolume(hypervolume_data(trials_table(gmacs=[10, 5], val_top1=[80, 60])))
    assert list(figure.data[0].y) == pytest.approx([100 * 80 / 1100, 100 * 380 / 1100])
