"""Who is on the front, where it bends and what it says."""

import math

import pandas as pd
import pytest

from analysis.pareto_front import (
    draw_front,
    front_data,
    front_mask,
    front_sentence,
    front_table,
    knee,
    network_for,
    network_table,
)
from analysis.runs import DenseModel
from tests.analysis.tables import trials_table

DENSE = DenseModel(gmacs=4.0, params_m=8.0, val_top1=90.0, test_top1=89.0)


@pytest.mark.parametrize(
    ("gmacs", "val_top1", "expected"),
    [
        ([1, 2, 3], [70, 80, 90], [True, True, True]),
        ([1, 2, 3], [70, 60, 90], [True, False, True]),
        ([1, 1, 2], [70, 70, 70], [True, True, False]),
        ([1, 1], [70, 71], [False, True]),
        ([2], [50], [True]),
        ([], [], []),
    ],
)
def test_a_trial_is_on_the_front_unless_another_dominates_it(gmacs, val_top1, expected) -> None:
    trials = trials_table(gmacs=gmacs, val_top1=val_top1)
    assert front_mask(trials).tolist() == expected


@pytest.mark.parametrize("state", ["PRUNED", "FAILED", "RUNNING"])
def test_only_complete_trials_are_on_the_front_or_push_others_off(state: str) -> None:
    trials = trials_table(gmacs=[1, 2], val_top1=[99, 80], state=[state, "COMPLETE"])
    assert front_mask(trials).tolist() == [False, True]


def test_a_trial_without_accuracy_is_not_judged() -> None:
    trials = trials_table(gmacs=[1, 2], val_top1=[math.nan, 80])
    assert front_mask(trials).tolist() == [False, True]


def test_the_mask_keeps_the_tables_index() -> None:
    trials = trials_table(gmacs=[1, 2], val_top1=[80, 70]).set_index(pd.Index([7, 5]))
    mask = front_mask(trials)
    assert (mask[7], mask[5]) == (True, False)


def test_points_are_sorted_by_cost_and_dense_is_found() -> None:
    trials = trials_table(gmacs=[4, 1, 2, 3], val_top1=[90, 70, 85, 60])
    data = front_data(trials, DENSE)
    assert [point.trial for point in data.front] == [1, 2, 0]
    assert [point.trial for point in data.dominated] == [3]
    assert data.dense == DENSE
    assert data.dense_trial is not None
    assert data.dense_trial.trial == 0
    assert data.knee is not None
    assert data.knee.trial == 2


def test_the_knee_is_farthest_above_the_line_between_the_ends() -> None:
    # Scaled to the range: (0, 0), (0.25, 0.6), (0.5, 0.7), (1, 1): rises 0, 0.35, 0.2, 0.
    trials = trials_table(gmacs=[1, 2, 3, 5], val_top1=[50, 80, 85, 100])
    bend = knee(front_data(trials).front)
    assert bend is not None
    assert bend.trial == 1


@pytest.mark.parametrize("val_top1", [[50, 60, 70], [50, 51, 70]])
def test_a_straight_or_sagging_front_has_no_knee(val_top1) -> None:
    assert front_data(trials_table(gmacs=[1, 2, 3], val_top1=val_top1)).knee is None


def test_the_network_for_a_cost_is_the_best_that_costs_no_more() -> None:
    front = front_data(trials_table(gmacs=[1, 2, 3], val_top1=[50, 60, 70])).front
    assert network_for(front, 2.5) == front[1]
    assert network_for(front, 2) == front[1]
    assert network_for(front, 0.9) is None


def test_the_tables_are_rounded_for_reading() -> None:
    data = front_data(trials_table(gmacs=[4.123456789, 1.0], val_top1=[90.123456789, 70]))
    row = front_table(data).iloc[1]
    assert (row["GMACs"], row["Val top-1 (%)"], row["Test top-1 (%)"]) == ("4.12", "90.12", "–")
    assert row[""] == "dense budget"
    wished = network_table(data, shares=(0.5, 0.1))
    assert wished["Trial"].tolist() == ["1", "none this cheap"]
    assert network_table(data, shares=(0.9, 0.8, 0.5))["Trial"].tolist() == ["1"]


def test_latency_is_shown_where_it_was_measured() -> None:
    trials = trials_table(gmacs=[4, 1], val_top1=[90, 70])
    assert "Latency (ms)" not in front_table(front_data(trials))
    data = front_data(trials.assign(latency_ms=[None, 1.234]))
    assert front_table(data)["Latency (ms)"].tolist() == ["1.23", "–"]
    shown = {trace.name: trace.hovertext for trace in draw_front(data).data}
    assert [", 1.23 ms<br>" in text for text in shown["front"]] == [True, False]


def test_the_sentence_says_how_the_front_stands_against_dense() -> None:
    better = front_data(trials_table(gmacs=[4, 2], val_top1=[89, 91]), DENSE)
    assert "Trial 1 needs 50 % of the dense model's MACs" in front_sentence(better)
    assert "(91.00 against 90.00 %)" in front_sentence(better)
    assert "trained as all trials (trial 0), has 89.00 %" in front_sentence(better)
    standing = trials_table(gmacs=[4, 2], val_top1=[90, 91]).assign(epochs=[0.0, 3.0])
    assert "trained as all trials" not in front_sentence(front_data(standing, DENSE))
    worse = front_data(trials_table(gmacs=[4, 2], val_top1=[90, 88.5]), DENSE)
    assert "trial 1, -1.50 points at 50 % of its MACs" in front_sentence(worse)
    assert "nothing is compared" in front_sentence(worse._replace(dense=None))
    nothing = front_data(trials_table(gmacs=[], val_top1=[]))
    assert "no front" in front_sentence(nothing)


def test_the_sentence_says_what_the_images_can_tell_apart() -> None:
    data = front_data(trials_table(gmacs=[4, 2], val_top1=[90, 80]), DENSE)
    told = front_sentence(data, 900)
    # With two hits and two misses more, sqrt(812 x 92 / 904 ** 3) is 1.006 %.
    assert "One of the 900 validation images is 0.111 points" in told
    assert "the standard error of 90.00 % on them is 1.01: of two" in told
    assert told.endswith("sets one pair in twenty apart by more than 2.79.")
    perfect = front_data(trials_table(gmacs=[4, 2], val_top1=[90, 100]), DENSE)
    assert "the standard error of 100.00 % on them is 0.156" in front_sentence(perfect, 900)


def test_costs_that_span_more_than_ten_times_are_drawn_on_a_logarithmic_scale() -> None:
    near, far = (front_data(trials_table([4, low], [90, 80])) for low in (1, 0.1))
    assert draw_front(near).layout.xaxis.type is None
    assert draw_front(far).layout.xaxis.type == "log"


def test_the_picture_shows_front_dominated_knee_and_dense() -> None:
    trials = trials_table(gmacs=[4, 1, 2, 3], val_top1=[90, 70, 85, 60])
    trials["url"] = [f"http://mlflow/{trial}" for trial in trials["trial"]]
    figure = draw_front(front_data(trials, DENSE))
    traces = {trace.name: trace for trace in figure.data}
    assert traces.keys() == {"dominated", "front", "knee", "dense model"}
    assert traces["front"].line.shape == "hv"
    assert '<a href="http://mlflow/2">2</a>' in traces["front"].text
    assert "4.00 GMACs" in traces["dense model"].hovertext[0]
