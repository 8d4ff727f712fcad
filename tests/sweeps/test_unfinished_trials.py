"""Early stops and failures look the same in Optuna, MLflow, the tables and the front."""

from pathlib import Path

import optuna
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import run_sweep
from tests.sweeps.conftest import FinishedSweep, begin_from, run_sweep_process

STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAILED": "FAILED"}
OPTUNA = {"COMPLETE": "COMPLETE", "PRUNED": "PRUNED", "FAILED": "FAIL"}
FAILING = 2


def resumed(folder: Path) -> list[str]:
    """The command that goes on with a run."""
    return ["--resume", folder.name, "--storage", str(folder.parent)]


@pytest.fixture(scope="module")
def stopped(sweep: FinishedSweep, tmp_path_factory: pytest.TempPathFactory) -> FinishedSweep:
    """A sweep over the same dense model and masks with early stops, one trial of which fails."""
    cwd = tmp_path_factory.mktemp("stopped")
    none = {"share": {"epochs": 0}, "judge": {"budgets": 0, "extra_trials": 0}}
    few = {"method": "retrain", "trials": 8, "tasks": "none"}
    changes = none | few | {"space": {"uniform": [0.4, 0.5, 0.45]}}
    changes |= {"finetune": {"epochs": 4, "reduction": 4, "lr": 1e-5, "dense": True}}
    folder = begin_from(sweep, cwd, "stopped", changes)
    damaged = folder / "state" / "trials" / str(FAILING) / "training.pt"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"not a training state")
    done = run_sweep_process(cwd, *resumed(folder), "--concurrency", "1")
    return FinishedSweep(cwd, folder, f"sqlite:///{cwd / 'mlflow.db'}", done.stdout + done.stderr)


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
    changes = {"trials": 3, "tasks": "none", "max_latency_ms": 1e-6, "repeats": 3}
    changes |= {"method": "retrain", "judge": {"budgets": 0, "extra_trials": 0}}
    changes |= {"share": {"epochs": 0}}
    changes |= {"finetune": {"dense": True}}  # the only one to be repeated
    folder = begin_from(sweep, tmp_path, "slow", changes)
    damaged = folder / "state" / "repeats" / "states" / "0-2" / "training.pt"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"not a training state")
    done = run_sweep_process(tmp_path, *resumed(folder))
    assert "repeat 2 of trial 0 failed: " in done.stdout
    trials = pd.read_csv(folder / "trials.csv")
    assert trials.state.tolist() == ["COMPLETE", "PRUNED", "PRUNED"]
    assert (trials.latency_ms > 1e-6).all()
    repeats = pd.read_csv(folder / "repeats.csv")
    assert repeats[["trial", "repeat"]].values.tolist() == [[0, 0], [0, 1]]
    assert (repeats.epochs == trials.epochs[0]).all()
    assert (repeats.seconds > 0).all()
    assert repeats.val_top1[0] == trials.val_top1[0]
    assert repeats.test_top1[0] == trials.test_top1[0]
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
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


def test_a_limit_that_no_judged_network_meets_is_refused_before_any_training(
    sweep: FinishedSweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = ["--storage", str(sweep.folder.parent), "--searched", sweep.folder.name]
    few = ["--cluster", "local", "--tasks", "none", "--judge.budgets", "8"]
    limit = ["--max-latency-ms", "1e-6"]
    done = run_sweep_process(tmp_path, *runs, *few, *limit, "--name", "tight", check=False)
    folder = sweep.folder.with_name("tight")
    fastest = pd.read_csv(folder / "judged.csv").latency_ms.min()
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        f"takes {fastest:.4g} ms an image; what run tight searched is kept: --searched tight "
        f"--storage {folder.parent} begins another with it and a higher limit"
    )
    assert not (folder / "trials.csv").exists()
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("vit-slim")
    (run,) = client.search_runs([experiment.experiment_id], "tags.kind = 'sweep'")
    assert run.info.status == "FAILED"
    assert run_sweep.main([*runs[:3], "tight", "--tasks", "none", "--dry-run"]) == 0
    assert "taken from another run: dense, search" in capsys.readouterr().out


def test_a_run_without_a_finished_trial_says_so_and_ends_with_code_1(
    sweep: FinishedSweep, tmp_path: Path
) -> None:
    diverging = {"trials": 2, "tasks": "none", "finetune": {"lr": 1e30, "clip_grad": 0}}
    folder = begin_from(sweep, tmp_path, "lost", diverging)
    done = run_sweep_process(tmp_path, *resumed(folder), check=False)
    assert done.returncode == 1
    assert "DivergenceError: the loss is nan at step 2" in done.stdout
    assert "lower the learning rate; no state of it was saved" in done.stdout
    assert "no training came to its end: no front" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    trials = pd.read_csv(folder / "trials.csv")
    assert trials["state"].tolist() == ["COMPLETE", "FAILED"]  # the dense model as it stands
    assert pd.read_csv(folder / "front.csv")["trial"].tolist() == [0]
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("vit-slim")
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")
    ended = {run.data.tags["trial"]: run for run in runs}
    assert ended["1"].info.status == ended["1"].data.tags["state"] == "FAILED"
    assert "DivergenceError" in ended["1"].data.tags["reason"]
    assert ended["0"].info.status == "FINISHED"
    parent = ended["1"].data.tags["mlflow.parentRunId"]
    assert client.get_run(parent).info.status == "FAILED"
