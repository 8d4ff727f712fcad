"""Networks of the front are trained on once all trials have ended, and kept where val says so."""

import os
import shutil
import signal
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
from sweeps.front import pareto_front
from sweeps.trials import TrialRow
from tests.sweeps.conftest import SMALL, FinishedSweep, run_sweep_process
from tests.sweeps.test_interruption import start, wait_for

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


def better(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials whose network was trained on and kept."""
    return trials[trials.epochs == EPOCHS + FURTHER]


def study_of(run: FinishedSweep) -> optuna.Study:
    backend = JournalFileBackend(str(run.folder / "state" / "study.journal"))
    return optuna.load_study(study_name="budgets", storage=JournalStorage(backend))


def test_some_networks_of_the_front_are_better_now_and_all_others_as_they_were(
    trained_on: FinishedSweep,
) -> None:
    study, trials = study_of(trained_on), trained_on.trials
    tried = {int(key.split()[1]) for key in study.user_attrs if key.startswith("finished")}
    assert len(tried) == MOST
    assert 0 < len(better(trials)) <= MOST
    assert set(better(trials).trial) <= tried
    for row in trials.itertuples():
        short, finished = study.trials[row.trial], row.trial in set(better(trials).trial)
        assert (row.val_top1 > short.values[0]) == finished
        assert finished or (row.val_top1, row.epochs) == (short.values[0], EPOCHS)


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
