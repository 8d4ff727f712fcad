"""Networks of the front are trained on once all trials have ended."""

import os
import shutil
import signal
from collections.abc import Container
from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import slim
from slim.evaluation import top1
from slim.tasks import load_task
from sweeps.dense import saved_preprocessing
from sweeps.finish_stage import next_to_finish
from sweeps.front import pareto_front
from sweeps.study import FINISHED, BudgetStudy
from sweeps.trials import TrialRow
from tests.sweeps.conftest import SMALL, FinishedSweep, run_sweep_process
from tests.sweeps.test_interruption import start, wait_for
from tests.sweeps.test_study import CONFIG, begun
from tests.sweeps.test_study import row as made_up

EPOCHS, MOST, FURTHER = 1, 2, 2


ARGUMENTS = [
    *(*SMALL, "--tasks", "none", "--name", "on", "--trials", "4", "--concurrency", "1"),
    *("--dense.epochs", "25", "--share.epochs", "4", "--repeats", "2"),
    *("--finetune.front_epochs", str(FURTHER), "--finetune.front_networks", str(MOST)),
]


@pytest.fixture(scope="module")
def trained_on(tmp_path_factory: pytest.TempPathFactory) -> FinishedSweep:
    cwd = tmp_path_factory.mktemp("finishing")
    done = run_sweep_process(cwd, *ARGUMENTS)
    uri = f"sqlite:///{cwd / 'mlflow.db'}"
    return FinishedSweep(cwd, cwd / "runs" / "on", uri, done.stdout + done.stderr)


def study_of(run: FinishedSweep) -> optuna.Study:
    backend = JournalFileBackend(str(run.folder / "state" / "study.journal"))
    return optuna.load_study(study_name="budgets", storage=JournalStorage(backend))


def test_networks_of_the_front_had_further_training_and_others_are_as_they_were(
    trained_on: FinishedSweep,
) -> None:
    study, trials = study_of(trained_on), trained_on.trials.set_index("trial")
    finished = {int(number): told for number, told in study.user_attrs[FINISHED].items()}
    assert len(finished) == MOST
    for number, row in trials.iterrows():
        asked = study.trials[number].values[0]
        told = finished.get(number, {"trial_top1": asked, "val_top1": asked})
        assert told["trial_top1"] == asked
        assert row.val_top1 == told["val_top1"]
        assert row.epochs == EPOCHS + FURTHER * (number in finished)


def test_saved_networks_tables_and_mlflow_say_the_same(trained_on: FinishedSweep) -> None:
    task, client = load_task("digits"), MlflowClient(trained_on.tracking_uri)
    experiment = client.get_experiment_by_name("vit-slim")
    front = pd.read_csv(trained_on.folder / "front.csv")
    for row in trained_on.trials.itertuples():
        network = trained_on.folder / "models" / str(row.trial)
        accuracies = {
            split: top1(slim.load(network), task, split, saved_preprocessing(network))
            for split in ("val", "test")
        }
        assert accuracies == {"val": row.val_top1, "test": row.test_top1}
        assert slim.serving.load_about(network)["val_top1"] == row.val_top1
        query = f"tags.trial = '{row.trial}' and tags.kind = 'trial'"
        (run,) = client.search_runs([experiment.experiment_id], query)
        assert run.data.metrics["val_top1"] == row.val_top1
        assert run.data.metrics["epochs"] == row.epochs
        assert run.data.tags["front"] == str(row.trial in set(front.trial)).lower()
        history = client.get_metric_history(run.info.run_id, "val_top1")
        assert sorted({point.step for point in history}) == list(range(row.epochs + 1))
        saved = client.download_artifacts(run.info.run_id, "model", str(trained_on.cwd))
        assert _weights(Path(saved)) == _weights(network)


def test_the_front_is_that_of_the_networks_as_they_stand(trained_on: FinishedSweep) -> None:
    columns = trained_on.trials.to_dict("records")
    expected = [row.trial for row in pareto_front([TrialRow(**row) for row in columns])]
    assert pd.read_csv(trained_on.folder / "front.csv").trial.tolist() == expected


def test_a_repeat_is_trained_as_far_as_its_trial(trained_on: FinishedSweep) -> None:
    repeats = pd.read_csv(trained_on.folder / "repeats.csv").set_index(["trial", "repeat"])
    on_front = set(pd.read_csv(trained_on.folder / "front.csv").trial)
    states = trained_on.folder / "state" / "repeats" / "states"
    for row in trained_on.trials[trained_on.trials.trial.isin(on_front)].itertuples():
        assert repeats.val_top1[row.trial, 0] == row.val_top1
        further = states / f"{row.trial}-1" / "finish" / "network"
        assert further.is_dir() == (row.epochs > EPOCHS)


def test_interrupted_and_resumed_it_ends_as_if_it_had_not_been(
    trained_on: FinishedSweep, tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "on"
    for name in ("dense", "search", "shared"):
        shutil.copytree(trained_on.folder / name, folder / name)
    values = yaml.safe_load((trained_on.folder / "config.yaml").read_text())
    values |= {"storage": str(tmp_path / "runs")}
    values |= {"tracking_uri": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    process = start(tmp_path, "--resume", "on")
    wait_for(process, "finish: trial")
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    run_sweep_process(tmp_path, "--resume", "on")
    times = ["seconds"]
    resumed = pd.read_csv(folder / "trials.csv").drop(columns=times)
    pd.testing.assert_frame_equal(resumed, trained_on.trials.drop(columns=times))
    for number in resumed.trial:
        name = Path("models") / str(number)
        assert _weights(folder / name) == _weights(trained_on.folder / name)


def _weights(network: Path) -> bytes:
    return (network / "model.safetensors").read_bytes()


@pytest.fixture
def study(tmp_path: Path) -> BudgetStudy:
    """Four trials, of which trial 3 was the luckiest: it is no dearer than trial 2."""
    study = begun(tmp_path / "journal", CONFIG)
    for gmacs, val_top1 in ((4.0, 80.0), (1.0, 60.0), (2.0, 70.0), (2.0, 71.0)):
        proposal = study.ask()
        assert proposal is not None
        study.complete(replace(made_up(proposal), gmacs=gmacs, val_top1=val_top1))
    return study


def finish(study: BudgetStudy, number: int, val_top1: float) -> None:
    study.finish(study.trained_rows()[number], val_top1, epochs=8, seconds=1.0)


def numbers(study: BudgetStudy, most: int = 10, tested: Container[str] = ()) -> list[int]:
    return [row.trial for row in next_to_finish(study, most, tested)]


def test_rounds_go_on_until_all_on_the_front_had_the_same_training(study: BudgetStudy) -> None:
    assert numbers(study) == [0, 1, 3]
    finish(study, 1, 65.0)
    assert numbers(study) == [0, 3]  # the round stays what it was
    finish(study, 0, 82.0)
    finish(study, 3, 69.0)  # was lucky: trial 2 comes on the front in its place
    assert numbers(study) == [2]
    finish(study, 2, 72.0)
    assert numbers(study) == []


def test_no_more_are_trained_on_than_asked_and_none_that_was_tested(study: BudgetStudy) -> None:
    assert numbers(study, most=2) == [0, 1]
    assert numbers(study, tested={"0"}) == [1, 3]
    finish(study, 0, 82.0)
    finish(study, 1, 65.0)
    assert numbers(study, most=2) == []
    assert numbers(study, most=1, tested={"0", "1"}) == [3]  # resumed with more trials
