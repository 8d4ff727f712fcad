"""What a plan and a running sweep say of the time that is left."""

from dataclasses import replace

import pytest

from slim.tasks import load_task
from sweeps.config import SweepConfig
from sweeps.dense import make_dense, preprocessing_for
from sweeps.plan import Finished, Speed, Speeds, make_plan, probe_speeds
from sweeps.progress import Progress, front_table
from sweeps.stage_config import VitConfig
from sweeps.trials import COMPLETE, TrialRow

CONFIG = replace(
    SweepConfig(),
    data="digits",
    vit=VitConfig(img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2),
    dense=replace(SweepConfig().dense, epochs=1),
    judge=replace(SweepConfig().judge, budgets=0, extra_trials=0),
    share=replace(SweepConfig().share, epochs=0),
)


def progress(monkeypatch: pytest.MonkeyPatch) -> Progress:
    task = load_task("digits")
    model = make_dense(CONFIG, task)
    plan = make_plan(CONFIG, model, task, [], 1, None, Finished())
    shown = Progress("name", plan)
    monkeypatch.setattr("sweeps.progress.time.monotonic", lambda: shown.started + 60)
    return shown


def test_a_probe_takes_batches_of_fewer_images_than_a_step_has_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, finetune = load_task("digits"), replace(CONFIG.finetune, accumulation=64)
    config = replace(CONFIG, finetune=finetune)
    model = make_dense(config, task)
    monkeypatch.setattr("sweeps.plan.PROBE_GMACS", 1e-9)  # as a large model: one image at a time
    monkeypatch.setattr("sweeps.plan.PROBE_SECONDS", 0.0)
    speeds = probe_speeds(model, task, preprocessing_for(config, model, task), config)
    assert speeds.trial.worker > 0
    assert speeds.stage.worker > 0


def test_a_stage_takes_as_long_as_its_workers_do_of_which_this_machine_holds_some() -> None:
    config = replace(CONFIG, workers_per_trial=2, workers_per_stage=4)
    speeds = Speeds(trial=Speed(10.0, workers=5), stage=Speed(20.0, workers=3))
    task = load_task("digits")
    plan = make_plan(config, make_dense(config, task), task, [], 3, speeds, Finished())
    stages = {stage.name: stage for stage in plan.stages}
    for name, jobs, workers, speed in (
        ("dense", 1, 4, 20.0 * 3),
        ("search", 1, 4, 20.0 * 3),
        ("sweep", 17, 3 * 2, 10.0 * 5),
        ("test", 19, 3 * 2, 10.0 * 5),  # with the dense model
    ):
        stage = stages[name]
        assert (stage.jobs, stage.workers) == (jobs, workers)
        assert stage.seconds == pytest.approx(stage.gmacs_images / speed)
    assert sum(stage.fraction for stage in plan.stages) == pytest.approx(1)
    assert plan.seconds == pytest.approx(sum(stage.seconds or 0 for stage in plan.stages))


def test_what_an_earlier_session_did_says_nothing_of_this_ones_speed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = progress(monkeypatch)
    for stage in ("dense", "search"):
        shown.skip(stage)
    shown.begin("sweep")
    shown.credit("sweep", 15 / 18)
    assert shown.seconds_left() is None
    shown.advance("sweep", 16 / 18, "trial 15 complete")
    test = shown.units["test"] / shown.units["sweep"] * 18 * 60
    assert shown.seconds_left() == pytest.approx(2 * 60 + test)


def test_without_an_earlier_session_all_that_was_done_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = progress(monkeypatch)
    shown.advance("dense", 1.0, "epoch 1/1")
    rest = sum(shown.units.values()) / shown.units["dense"] - 1
    assert shown.seconds_left() == pytest.approx(60 * rest)


@pytest.mark.parametrize("latency", [None, 1.25])
def test_the_front_ends_with_the_dense_model(latency: float | None) -> None:
    small = TrialRow(3, COMPLETE, 0.5, 0.4, 0.3, 0.2, 0.1, 80.0, 79.0, 8, 60.0, latency)
    table = front_table([small], 0.5, {"val_top1": 81.5, "test_top1": 81.25}, {})
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["trial"] == ["3", "dense model"]
    assert columns["of dense"] == ["40%", "100%"]
    assert columns["val %"] == ["80.00", "81.50"]
    assert columns["test %"] == ["79.00", "81.25"]
    assert columns.get("ms") == (None if latency is None else ["1.25", ""])
    assert not {"val mean", "test mean"} & columns.keys()


def test_the_front_shows_means_of_what_was_trained_again() -> None:
    one = TrialRow(3, COMPLETE, 0.5, 0.4, 0.3, 0.2, 0.1, 80.0, 79.0, 8, 60.0)
    spread = {"val_top1_mean": 79.5, "val_top1_std": 0.25}
    spread |= {"test_top1_mean": 79.25, "test_top1_std": 0.5}
    table = front_table([one, replace(one, trial=4)], 0.5, {}, {3: spread})
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["val mean"] == ["79.50 ± 0.25", "", ""]
    assert columns["test mean"] == ["79.25 ± 0.50", "", ""]
