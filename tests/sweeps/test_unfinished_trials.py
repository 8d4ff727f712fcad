"""Early stops and failures look the same in Optuna, MLflow, the tables and the front."""

import shutil
from pathlib import Path

import optuna
import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.sweeps.conftest import FinishedSweep, run_sweep_process

STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAILED": "FAILED"}
OPTUNA = {"COMPLETE": "COMPLETE", "PRUNED": "PRUNED", "FAILED": "FAIL"}
FAILING = 2


@pytest.fixture(scope="module")
def stopped(sweep: FinishedSweep, tmp_path_factory: pytest.TempPathFactory) -> FinishedSweep:
    """A sweep over the same dense model and masks with early stops, one trial of which fails."""
    cwd = tmp_path_factory.mktemp("stopped")
    folder, uri = cwd / "runs" / "stopped", f"sqlite:///{cwd / 'mlflow.db'}"
    for name in ("dense", "search"):
        shutil.copytree(sweep.folder / name, folder / name)
    damaged = folder / "state" / "trials" / str(FAILING) / "training.pt"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"not a training state")
    values = yaml.safe_load((sweep.folder / "config.yaml").read_text())
    values |= {"name": "stopped", "storage": str(cwd / "runs"), "tracking_uri": uri}
    values |= {"method": "retrain", "trials": 8, "tasks": "none"}
    values["share"]["epochs"] = values["judge"]["budgets"] = values["judge"]["extra_trials"] = 0
    values["space"]["uniform"] = [0.4, 0.5, 0.45]
    values["finetune"] |= {"epochs": 4, "reduction": 4, "lr": 1e-5}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    done = run_sweep_process(cwd, "--resume", "stopped", "--concurrency", "1")
    return FinishedSweep(cwd, folder, uri, done.stdout + done.stderr)


def test_stopped_and_failed_trials_have_one_state_everywhere(stopped: FinishedSweep) -> None:
    trials = stopped.trials.set_index("trial")
    assert trials.index.tolist() == list(range(8))
    assert trials.state[FAILING] == "FAILED"
    assert trials.state[0] == "COMPLETE"
    assert (trials.state == "PRUNED").any()
    journal = JournalFileBackend(str(stopped.folder / "state" / "study.journal"))
    study = optuna.load_study(study_name="budgets", storage=JournalStorage(journal))
    assert [trial.state.name for trial in study.trials] == [OPTUNA[s] for s in trials.state]
    client = MlflowClient(stopped.tracking_uri)
    experiment = client.get_experiment_by_name("vit-slim")
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")
    assert sorted(int(run.data.tags["trial"]) for run in runs) == list(range(8))
    for run in runs:
        state = trials.state[int(run.data.tags["trial"])]
        assert run.data.tags["state"] == state
        assert run.info.status == STATUS[state]
        assert ("reason" in run.data.tags) == (state != "COMPLETE")


def test_only_complete_trials_are_on_the_front_and_known_to_the_sampler(
    stopped: FinishedSweep,
) -> None:
    trials = stopped.trials
    complete = trials[trials.state == "COMPLETE"]
    others = trials[trials.state != "COMPLETE"]
    front = pd.read_csv(stopped.folder / "front.csv")
    assert set(front.trial) <= set(complete.trial)
    assert others.val_top1.isna().all()
    assert others.test_top1.isna().all()
    assert complete.epochs.eq(4).all()
    pruned = trials[trials.state == "PRUNED"]
    assert pruned.epochs.eq(1).all()
    saved = {path.name for path in (stopped.folder / "models").iterdir() if path.is_dir()}
    assert saved == {str(number) for number in complete.trial}
    journal = JournalFileBackend(str(stopped.folder / "state" / "study.journal"))
    study = optuna.load_study(study_name="budgets", storage=JournalStorage(journal))
    assert all(study.trials[number].values is None for number in others.trial)


def test_the_terminal_says_what_was_stopped_and_why(stopped: FinishedSweep) -> None:
    pruned = stopped.trials[stopped.trials.state == "PRUNED"].trial
    for number in pruned:
        assert f"trial {number} pruned: not among the best 1/4 after 1 epochs" in stopped.output
    assert f"trial {FAILING} failed: " in stopped.output


def test_a_network_slower_than_the_limit_is_pruned_untrained(
    sweep: FinishedSweep, tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "slow"
    for name in ("dense", "search", "shared"):
        shutil.copytree(sweep.folder / name, folder / name)
    values = yaml.safe_load((sweep.folder / "config.yaml").read_text())
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    values |= {"name": "slow", "storage": str(tmp_path / "runs"), "tracking_uri": uri}
    values |= {"trials": 3, "tasks": "none", "max_latency_ms": 1e-6, "repeats": 3}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    damaged = folder / "state" / "repeats" / "states" / "0-2" / "training.pt"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"not a training state")
    done = run_sweep_process(tmp_path, "--resume", "slow")
    assert "repeat 2 of trial 0 failed: " in done.stdout
    trials = pd.read_csv(folder / "trials.csv")
    assert trials.state.tolist() == ["COMPLETE", "PRUNED", "PRUNED"]
    assert (trials.latency_ms > 1e-6).all()
    assert (pd.read_csv(folder / "judged.csv").latency_ms > 1e-6).all()
    repeats = pd.read_csv(folder / "repeats.csv")
    assert repeats[["trial", "repeat"]].values.tolist() == [[0, 0], [0, 1]]
    assert (repeats.epochs == trials.epochs[0]).all()
    assert (repeats.seconds > 0).all()
    assert repeats.val_top1[0] == trials.val_top1[0]
    assert repeats.test_top1[0] == trials.test_top1[0]
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("vit-slim")
    (run,) = client.search_runs([experiment.experiment_id], "tags.trial = '0'")
    assert run.data.metrics["val_top1_mean"] == pytest.approx(repeats.val_top1.mean())
    assert run.data.metrics["test_top1_std"] == pytest.approx(repeats.test_top1.std())
    told = f"{repeats.val_top1.mean():.2f} ± {repeats.val_top1.std():.2f}"
    assert told in done.stdout  # the front's table
    card = client.download_artifacts(run.info.run_id, "model/README.md", str(tmp_path))
    for text in (Path(card).read_text(), (folder / "models" / "0" / "README.md").read_text()):
        assert f"| {told} % |" in text
    assert (
        "1 network of the front was trained again"
        in (folder / "reports" / "front.html").read_text()
    )
