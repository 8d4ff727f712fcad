"""This run beside published networks, each against its own dense model."""

import math

import pytest

from analysis.comparison import (
    PUBLISHED,
    comparison_data,
    comparison_sentence,
    comparison_table,
    draw_comparison,
    sources_sentence,
)
from analysis.pareto_front import FrontData, front_data
from analysis.runs import DenseModel
from tests.analysis.tables import trials_table

DENSE = DenseModel(gmacs=4.0, params_m=8.0, val_top1=90.0, test_top1=math.nan)


def small_front() -> FrontData:
    return front_data(trials_table(gmacs=[4, 1], val_top1=[90, 87]), DENSE)


def test_each_network_is_set_against_its_own_dense_model() -> None:
    data = comparison_data(small_front(), "mine")
    slimmed = data.own[0]
    assert (slimmed.relative_macs, slimmed.change, data.split) == (0.25, -3, "validation")
    isomorphic = next(n for n in data.published if n.method == "Isomorphic Pruning")
    assert isomorphic.relative_macs == pytest.approx(4.16 / 17.7)
    assert isomorphic.change == pytest.approx(82.41 - 83.4)


def test_test_accuracy_counts_once_every_point_has_it() -> None:
    trials = trials_table(gmacs=[4, 1], val_top1=[90, 87]).assign(test_top1=[80.0, 78.0])
    assert comparison_data(front_data(trials, DENSE), "mine").split == "validation"
    data = comparison_data(front_data(trials, DENSE._replace(test_top1=80.0)), "mine")
    assert (data.own[0].change, data.split) == (-2, "test")


def test_a_run_without_dense_cannot_be_placed() -> None:
    trials = trials_table(gmacs=[4, 1], val_top1=[90, 87], state=["FAILED", "COMPLETE"])
    data = comparison_data(front_data(trials), "mine")
    assert data.own == ()
    assert "cannot be placed" in comparison_sentence(data)
    assert "mine" not in {trace.name for trace in draw_comparison(data).data}


def test_the_sentence_finds_the_published_network_of_like_cost() -> None:
    trials = trials_table(gmacs=[100, 15], val_top1=[90, 87])
    dense = DENSE._replace(gmacs=100)
    sentence = comparison_sentence(comparison_data(front_data(trials, dense), "mine"))
    assert "(trial 1) keeps 15 % of the dense MACs" in sentence
    assert "Isomorphic Pruning (15 %, -2.27 points)" in sentence


def test_the_network_that_is_told_is_chosen_on_val() -> None:
    trials = trials_table(gmacs=[4, 2, 1], val_top1=[90, 89, 87])
    trials["test_top1"] = [90.0, 80.0, 89.5]
    data = comparison_data(front_data(trials, DENSE._replace(test_top1=90.0)), "mine")
    assert "(trial 1) keeps 50 %" in comparison_sentence(data)
    assert "changes test top-1 by -10.00 points" in comparison_sentence(data)


def test_every_network_that_was_cut_is_cheaper_than_its_dense_model() -> None:
    cut = [network for network in PUBLISHED if network.method != "AutoFormer"]
    assert all(network.gmacs < network.dense.gmacs for network in cut)


def test_every_source_is_told_once() -> None:
    assert all(network.source for network in PUBLISHED)
    told = sources_sentence(comparison_data(front_data(trials_table([], [])), "mine"))
    assert told.count("ViT-Slim") == 1


def test_no_two_methods_look_alike() -> None:
    data = comparison_data(small_front(), "mine")
    looks = {(trace.marker.color, trace.marker.symbol) for trace in draw_comparison(data).data}
    assert len(looks) == len(draw_comparison(data).data) == 7


def test_the_table_shows_all_and_names_what_is_unknown() -> None:
    data = comparison_data(small_front(), "mine")
    table = comparison_table(data)
    assert len(table) == len(PUBLISHED) + 2
    unknown = sum(math.isnan(network.params_m) for network in PUBLISHED)
    assert (table["Params (M)"] == "–").sum() == unknown
    assert draw_comparison(data).data[0].name == "mine"
