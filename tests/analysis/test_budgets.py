"""The three budgets against accuracy."""

import math

import pytest

from analysis.budgets import (
    budgets_data,
    budgets_sentence,
    budgets_table,
    cut_modules,
    draw_accuracy_by_budget,
    draw_budgets,
    modules_sentence,
    modules_table,
)
from analysis.runs import Run
from tests.analysis.tables import trials_table


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ((1, 1, 1), "dense"),
        ((1, 0.5, 1), "MHSA"),
        ((1, 0.5, 0.7), "MHSA + MLP"),
        ((0.9, 1, 0.7), "Tokens + MLP"),
    ],
)
def test_a_budget_is_named_by_what_it_cuts(budget, expected: str) -> None:
    assert cut_modules(*budget) == expected


def test_accuracy_is_ranked_against_each_budget() -> None:
    trials = trials_table(
        gmacs=[5, 4, 3, 2, 1],
        val_top1=[90, 80, 70, 60, 50],
        tokens=[1, 1, 1, 1, 1],
        mhsa=[1, 0.8, 0.6, 0.4, 0.3],
        mlp=[1, 0.5, 0.6, 0.4, 0.3],
    )
    data = budgets_data(trials)
    # MLP: of ten pairs one is in the other order, so tau = (9 - 1) / 10.
    assert data.tau["mhsa"] == pytest.approx(1)
    assert data.tau["mlp"] == pytest.approx(0.8)
    assert math.isnan(data.tau["tokens"])
    sentence = budgets_sentence(data)
    assert sentence.startswith("Over 5 complete trials, ")
    assert "MHSA +1.00 and MLP +0.80" in sentence
    assert "here accuracy follows MHSA most closely" in sentence
    alike = budgets_sentence(budgets_data(trials.assign(mlp=trials["mhsa"])))
    assert "here accuracy follows MHSA and MLP most closely" in alike
    judged = trials.assign(val_top1=trials["val_top1"] - trials["mlp"] * 200)
    sentence = budgets_sentence(budgets_data(trials, judged))
    assert sentence.startswith("Over 5 judged budgets, ")
    assert "MHSA -" in sentence


def test_what_a_network_cuts_is_read_off_it(full_run: Run) -> None:
    trials = full_run.trials.assign(tokens=0.9999)
    told = budgets_data(trials, None, full_run.architectures).trials.set_index("trial")["cut"]
    assert told[0] == "dense"
    assert budgets_data(trials).trials.set_index("trial")["cut"][0] == "Tokens"
    assert told[3] == "MHSA + MLP"


def test_a_budget_that_hardly_orders_the_networks_is_not_named() -> None:
    trials = trials_table(gmacs=[5, 4, 3, 2, 1], val_top1=[80, 90, 70, 85, 81])
    trials["mhsa"] = [1.0, 0.9, 0.8, 0.7, 0.6]  # tau 0
    trials["tokens"] = trials["mlp"] = 1.0
    sentence = budgets_sentence(budgets_data(trials))
    assert "here accuracy follows none of them closely" in sentence


def test_only_complete_trials_count_dearest_first_in_the_table() -> None:
    trials = trials_table(
        gmacs=[4, 1, 2], val_top1=[90, 60, 70], state=["COMPLETE", "COMPLETE", "PRUNED"]
    )
    table = budgets_table(budgets_data(trials))
    assert table["Trial"].tolist() == [0, 1]
    assert table["Cut"].tolist() == ["dense", "Tokens + MHSA + MLP"]
    assert table.loc[1, ["MHSA", "Params (M)", "GMACs"]].tolist() == ["50 %", "2.00", "1.00"]


def test_too_few_trials_are_said_to_be_too_few() -> None:
    one = budgets_data(trials_table(gmacs=[4], val_top1=[90]))
    assert "too few, or too alike, to rank" in budgets_sentence(one)
    none = budgets_data(trials_table(gmacs=[], val_top1=[]))
    assert "no budgets to compare" in budgets_sentence(none)
    assert list(draw_budgets(one).data[0].dimensions[3].range) == [0, 8]


def test_the_pictures_hold_one_axis_per_number() -> None:
    data = budgets_data(trials_table(gmacs=[4, 2], val_top1=[90, 80]))
    labels = [axis.label for axis in draw_budgets(data).data[0].dimensions]
    assert labels == ["Tokens", "MHSA", "MLP", "GMACs", "Val top-1 (%)"]
    assert list(draw_accuracy_by_budget(data).data[2].x) == [50, 100]


def test_networks_that_cut_one_module_and_several_have_tables_of_their_own() -> None:
    trials = trials_table(
        gmacs=[4, 3, 2, 1],
        val_top1=[90, 80, 70, 60],
        tokens=[1, 1, 1, 1],
        mhsa=[1, 0.8, 1, 0.4],
        mlp=[1, 1, 0.6, 0.4],
    )
    data = budgets_data(trials)
    assert modules_table(data, single=True)["Cut"].tolist() == ["dense", "MHSA", "MLP"]
    assert modules_table(data, single=False)["Cut"].tolist() == ["dense", "MHSA + MLP"]
    assert modules_sentence(data).endswith("1 of dense, 1 of MHSA, 1 of MLP and 1 of MHSA + MLP.")


def test_a_run_that_always_cuts_everything_says_how_to_fill_the_papers_columns() -> None:
    data = budgets_data(trials_table(gmacs=[4, 1], val_top1=[90, 80]))
    assert modules_table(data, single=True).empty
    assert "--space.mlp_min 1" in modules_sentence(data)
    assert "no complete trial" in modules_sentence(budgets_data(trials_table([], [])))
