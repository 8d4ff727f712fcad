"""Seconds, epochs and states add up."""

from analysis.compute import (
    MOST_REASONS,
    compute_data,
    compute_sentence,
    compute_table,
    draw_stages,
    draw_trial_times,
    early_stops_sentence,
    states_table,
)
from analysis.learning_curves import curves_data, curves_sentence, draw_curves
from analysis.runs import Run, load_run
from tests.analysis.conftest import EMPTY, FAILED


def test_seconds_are_summed_by_stage(full_run: Run) -> None:
    data = compute_data(full_run.trials, full_run.stages)
    assert data.seconds == {"dense": 120, "search": 60, "trials": 107, "transfer": 45}
    assert data.states == {"COMPLETE": 5, "FAILED": 1, "PRUNED": 1}
    assert data.epochs == 14
    assert compute_table(data)["Share"].tolist() == ["36 %", "18 %", "32 %", "14 %"]
    assert states_table(data)["Epochs"].tolist() == [13, 0, 1]


def test_the_sentence_names_the_largest_stage_and_what_is_not_logged(full_run: Run) -> None:
    told = compute_sentence(compute_data(full_run.trials, full_run.stages.iloc[:0]))
    assert "largest part was trials (100 %)" in told
    assert "No time is logged for dense training and mask search." in told


def test_repeats_count_as_a_stage(full_run: Run) -> None:
    metrics = {"repeats_seconds": 200.0, "repeats_epochs": 12.0}
    data = compute_data(full_run.trials, full_run.stages, metrics=metrics)
    assert list(data.seconds) == ["dense", "search", "trials", "repeats", "transfer"]
    told = compute_sentence(data)
    assert "largest part was repeats" in told
    assert "they trained 14 epochs in all, their repeats 12." in told


def test_judging_counts_as_a_stage(judged_run: Run) -> None:
    data = compute_data(judged_run.trials, judged_run.stages, judged_run.judged)
    assert data.seconds["judge"] == 2 * 27
    assert "largest part was judging" in compute_sentence(data)


def test_early_stops_are_counted_in_epochs(judged_run: Run, full_run: Run) -> None:
    data = compute_data(judged_run.trials, judged_run.stages)
    # One of four trials of two epochs ended after one, a fifth was too slow to be trained.
    told = early_stops_sentence(data)
    assert told == (
        "1 trial of 4 was stopped early, which saved 1 of 8 epochs (12 %). "
        "1 trial ended untrained."
    )
    assert states_table(data)["Why"].tolist() == ["", "9 ms an image"]
    assert "2 of 21 epochs" in early_stops_sentence(compute_data(full_run.trials, full_run.stages))
    complete = full_run.trials[full_run.trials["state"] == "COMPLETE"]
    assert early_stops_sentence(compute_data(complete, full_run.stages)).startswith("No trial")


def test_the_most_frequent_reasons_are_told(full_run: Run) -> None:
    trials = full_run.trials.assign(state="FAILED", reason=["b", "a", "a", "c", "d", "", "a"])
    (told,) = states_table(compute_data(trials, full_run.stages))["Why"]
    assert told.split("; ")[0] == "a"
    assert told.split("; ")[MOST_REASONS:] == ["and 1 more"]


def test_an_empty_and_a_failed_run_have_no_times(tracking_uri: str) -> None:
    for name in (EMPTY.name, FAILED.name):
        run = load_run(tracking_uri, name)
        data = compute_data(run.trials, run.stages)
        assert data.seconds == {}
        assert "No stage has logged" in compute_sentence(data)


def test_bars_are_drawn_by_stage_and_by_state(full_run: Run) -> None:
    data = compute_data(full_run.trials, full_run.stages)
    bars = draw_stages(data).data[0]
    assert list(bars.y) == ["Transfer", "Trials", "Mask search", "Dense training"]
    assert list(bars.x)[-1] == 2
    times = {trace.name: list(trace.y) for trace in draw_trial_times(data).data}
    assert times == {"complete": [3, 30, 25, 28, 15], "pruned": [6]}


def test_curves_follow_the_epochs(full_run: Run) -> None:
    curves = curves_data(full_run.trials, full_run.epochs)
    assert [curve.trial for curve in curves] == [0, 1, 2, 3, 4, 5]
    assert curves[3].val_top1 == (60, 84, 83)
    # Trials 1, 2 and 4 ended at their best; 3 fell back; 0 has one epoch and is not judged.
    assert "3 of 4 complete trials" in curves_sentence(curves)
    assert "1 was stopped early" in curves_sentence(curves)
    assert draw_curves(curves).data[5].line.dash == "dot"
