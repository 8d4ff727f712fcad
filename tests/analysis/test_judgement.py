"""Judged budgets are matched with the trials that trained them."""

import math

import pytest

from analysis.judgement import (
    draw_judged_beside_trained,
    draw_judgement,
    judgement_data,
    judgement_sentence,
)
from analysis.runs import Run


def test_trials_are_matched_with_what_their_budget_was_judged(judged_run: Run) -> None:
    data = judgement_data(judged_run.judged, judged_run.trials)
    assert data.pairs["trial"].tolist() == [0, 1, 2]  # trial 3 was stopped early
    assert data.pairs["judged"].tolist() == pytest.approx([77, 74, 66.8])
    assert data.pairs["trained"].tolist() == [90, 86, 80]
    assert data.tau == 1
    told = judgement_sentence(data)
    assert "27 budgets were judged" in told
    assert "3 trained networks of these budgets: too few" in told


def test_five_of_them_say_how_well_judging_ranks(judged_run: Run) -> None:
    judged = judged_run.judged.head(5)
    gains = [13.0, 12.0, 13.2, 14.0, 15.0]
    trained = judged.assign(trial=range(5), state="COMPLETE", epochs=8)
    trained["val_top1"] += gains
    told = judgement_sentence(judgement_data(judged, trained))
    assert "Over the 5 that were trained too" in told
    assert "is +" in told
    assert "`kendall_tau`" in told
    assert "+13.20 points in the median, from +12.00 (trial 1) to +15.00 (trial 4)" in told


def test_the_dense_model_as_it_stands_was_not_trained(judged_run: Run) -> None:
    trials = judged_run.trials.assign(epochs=[0.0, *judged_run.trials["epochs"][1:]])
    assert judgement_data(judged_run.judged, trials).pairs["trial"].tolist() == [1, 2]


def test_both_are_drawn_over_their_cost(judged_run: Run) -> None:
    data = judgement_data(judged_run.judged, judged_run.trials)
    assert list(draw_judgement(data).data[1].y) == [90, 86, 80]
    traces = {t.name: len(t.x) for t in draw_judged_beside_trained(data, judged_run.trials).data}
    assert traces == {"judged": 27, "trained": 3}


def test_a_run_that_judged_nothing_says_so(full_run: Run) -> None:
    data = judgement_data(full_run.judged, full_run.trials)
    assert math.isnan(data.tau)
    assert "judged no budgets before training" in judgement_sentence(data)


def test_judged_budgets_that_were_not_trained_rank_nothing(judged_run: Run, full_run: Run) -> None:
    told = judgement_sentence(judgement_data(judged_run.judged, full_run.trials))
    assert "too few, or too alike" in told
