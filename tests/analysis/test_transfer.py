"""Downstream results against the dense network and against the source's order."""

import math

import pandas as pd
import pytest

from analysis.runs import TRANSFER, Run
from analysis.transfer import (
    correlation_sentence,
    draw_transfer,
    transfer_data,
    transfer_sentence,
    transfer_table,
)
from tests.analysis.tables import trials_table


def test_seeds_are_averaged_and_set_against_the_same_methods_dense_row(full_run: Run) -> None:
    networks = transfer_data(full_run.transfer, full_run.trials).networks
    rows = networks.set_index(["task", "method", "trial"])
    first = rows.loc[("digits", "full", "1")]
    assert (first["top1"], first["seeds"], first["difference"]) == (95.0, 2, 0.0)
    assert first["spread"] == pytest.approx(math.sqrt(2))
    assert rows.loc[("digits", "linear", "1"), "difference"] == -0.5
    assert rows.loc[("fashion & co", "full", "2"), "difference"] == 1.0


def test_the_order_is_compared_over_slimmed_networks_only(full_run: Run) -> None:
    correlation = transfer_data(full_run.transfer, full_run.trials).correlation
    rows = correlation.set_index(["task", "method"])
    # Source: trial 1 > 2 > 4; digits: 95 > 93 > 90.
    assert rows.loc[("digits", "full"), "tau"] == pytest.approx(1)
    assert rows.loc[("digits", "full"), "networks"] == 3
    assert math.isnan(rows.loc[("digits", "linear"), "tau"])


def test_a_swapped_pair_lowers_the_rank_correlation() -> None:
    trials = trials_table(gmacs=[4, 3, 2, 1], val_top1=[90, 80, 70, 60])
    rows = [("t", str(trial), "full", 0, 1.0, 1.0, math.nan, top1)
            for trial, top1 in ((1, 50), (2, 60), (3, 40))]  # fmt: skip
    data = transfer_data(pd.DataFrame(rows, columns=list(TRANSFER)), trials)
    assert data.correlation["tau"].tolist() == pytest.approx([1 / 3])
    assert "+0.33 over 3 networks" in correlation_sentence(data)
    assert "no dense row" in transfer_sentence(data)


def test_validation_stands_in_while_no_test_accuracy_is_known() -> None:
    rows = [("t", "dense", "full", 0, 1.0, 1.0, 80.0, math.nan),
            ("t", "1", "full", 0, 0.5, 1.0, 79.0, math.nan)]  # fmt: skip
    trials = trials_table(gmacs=[4, 3], val_top1=[90, 80])
    data = transfer_data(pd.DataFrame(rows, columns=list(TRANSFER)), trials)
    assert data.split == "val"
    assert "validation split" in transfer_sentence(data)
    assert transfer_table(data)["Val top-1 (%)"].tolist() == ["79.00", "80.00"]


def test_networks_that_left_the_front_are_left_out() -> None:
    trials = trials_table(gmacs=[3, 2, 2.5], val_top1=[90, 80, 79])
    rows = [("t", trial, "full", 0, 1.0, 1.0, math.nan, 50)
            for trial in ("dense", "0", "1", "2", "9")]  # fmt: skip
    data = transfer_data(pd.DataFrame(rows, columns=list(TRANSFER)), trials)
    assert set(data.networks["trial"]) == {"dense", "0", "1"}


def test_the_sentences_say_where_slimming_helps(full_run: Run) -> None:
    sentence = transfer_sentence(transfer_data(full_run.transfer, full_run.trials))
    assert "On **digits** by full 1 of 3 slimmed results is at least as good" in sentence
    assert "On **digits** by linear 0 of 1 slimmed result" in sentence
    full = full_run.transfer[full_run.transfer["method"] == "full"]
    sentence = transfer_sentence(transfer_data(full, full_run.trials))
    assert "On **digits** 1 of 3 slimmed results is at least as good" in sentence
    assert "fashion &#38; co" in sentence


def test_without_transfer_it_is_said() -> None:
    empty = pd.DataFrame(columns=list(TRANSFER)).astype(TRANSFER)
    data = transfer_data(empty, trials_table(gmacs=[4], val_top1=[90]))
    assert "no transfer results" in transfer_sentence(data)
    assert "cannot be told" in correlation_sentence(data)


def test_the_picture_has_a_panel_per_task_and_a_line_for_dense(full_run: Run) -> None:
    figure = draw_transfer(transfer_data(full_run.transfer, full_run.trials))
    assert [note.text for note in figure.layout.annotations] == ["digits", "fashion &amp; co"]
    dense = [trace for trace in figure.data if trace.name == "dense, full"]
    assert [list(line.y) for line in dense] == [[95, 95], [85, 85]]


def test_the_dense_budget_trained_is_no_slimmed_network() -> None:
    trials = trials_table(gmacs=[4, 3, 2, 1], val_top1=[90, 80, 70, 60])
    rows = [("t", trial, "full", 0, 1.0, 1.0, math.nan, 50)
            for trial in ("dense", "0", "1", "2", "3")]  # fmt: skip
    data = transfer_data(pd.DataFrame(rows, columns=list(TRANSFER)), trials)
    assert "3 of 3 slimmed results" in transfer_sentence(data)
    assert data.correlation["networks"].tolist() == [3]
    assert list(draw_transfer(data).data[0].y) == [50] * 4


def test_each_name_is_in_the_legend_once_whatever_the_first_task_has() -> None:
    rows = [(task, trial, method, 0, 1.0, 1.0, math.nan, 50.0)
            for task, method in (("a", "full"), ("b", "full"), ("b", "linear"))
            for trial in ("dense", "1")]  # fmt: skip
    trials = trials_table(gmacs=[4, 3], val_top1=[90, 80])
    figure = draw_transfer(transfer_data(pd.DataFrame(rows, columns=list(TRANSFER)), trials))
    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert sorted(shown) == ["dense, full", "dense, linear", "full", "linear"]


def test_error_bars_end_where_accuracy_does() -> None:
    rows = [("a", "dense", 0, 50.0), ("a", "1", 0, 0.0), ("a", "1", 1, 30.0), ("a", "2", 0, 60.0)]
    rows += [("a", "2", 1, 100.0)]
    transfer = pd.DataFrame(rows, columns=["task", "trial", "seed", "test_top1"])
    transfer = transfer.assign(method="finetune", gmacs=1.0, params_m=1.0, val_top1=1.0)
    data = transfer_data(transfer, trials_table(gmacs=[3, 2, 1], val_top1=[90, 80, 70]))
    bars = draw_transfer(data).data[0].error_y
    assert list(bars.arrayminus) == pytest.approx([15.0, 20 * math.sqrt(2)])
    assert list(bars.array) == pytest.approx([15 * math.sqrt(2), 20.0])
