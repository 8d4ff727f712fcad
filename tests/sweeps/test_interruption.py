"""Ctrl-C keeps what is finished, and a resumed run goes on from there."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

import slim
from slim.evaluation import top1
from sweeps.judged_networks import JudgedNetworks
from tests.sweeps.conftest import ROOT, SMALL, run_sweep_process
from tests.sweeps.images import write_image_folder


def start(cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "run_sweep.py"), *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"the run ended without {words!r}")


def run_states(cwd: Path) -> dict[str, str]:
    client = MlflowClient(f"sqlite:///{cwd / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("vit-slim")
    runs = client.search_runs([experiment.experiment_id])
    return {run.info.run_name: run.info.status for run in runs}


def test_an_interrupted_run_keeps_finished_trials_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image_folder(tmp_path / "images", ("red", "green", "blue"), 24)
    data = ["--data", "./images", "--model", "test_vit", "--dense.epochs", "2"]
    data += ["--method", "judge", "--share.epochs", "0", "--judge.budgets", "6"]
    stages = ("dense", "search", "finetune")
    sizes = [word for stage in stages for word in (f"--{stage}.batch_size", "16")]
    arguments = [*SMALL, *data, *sizes, "--tasks", "none", "--name", "stopped", "--trials", "4"]
    process = start(tmp_path, *arguments, "--concurrency", "1", "--pretrained", "false")
    wait_for(process, "trial 1 complete")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors.count("\n") == 1
    assert "--resume stopped" in errors
    folder = tmp_path / "runs" / "stopped"
    kept = pd.read_csv(folder / "trials.csv")
    assert kept["trial"].tolist()[:2] == [0, 1]
    assert (kept["state"] == "COMPLETE").all()
    assert len(pd.read_csv(folder / "front.csv")) >= 1
    assert any((folder / "state" / "outputs").iterdir())
    states = run_states(tmp_path)
    assert states["stopped"] == "KILLED"
    assert states["trial-0"] == "FINISHED"
    assert "RUNNING" not in states.values()

    changed = ["--trials", "5", "--cluster", "local", "--kept-outputs-gb", "0.5"]
    run_sweep_process(tmp_path, "--resume", "stopped", *changed)
    assert not (folder / "state" / "outputs").exists()
    trials = pd.read_csv(folder / "trials.csv")
    assert trials["trial"].tolist() == [0, 1, 2, 3, 4]
    assert (trials["state"] == "COMPLETE").all()
    finished = trials.iloc[: len(kept)].drop(columns="test_top1")
    pd.testing.assert_frame_equal(finished, kept.drop(columns="test_top1"))
    states = run_states(tmp_path)
    assert set(states) == {"stopped", "dense", "search"} | {f"trial-{n}" for n in range(5)}
    assert set(states.values()) == {"FINISHED"}
    monkeypatch.chdir(tmp_path)
    networks = JudgedNetworks("runs/stopped")
    for one in pd.read_csv(folder / "judged.csv").itertuples():
        vit = networks.cut(slim.Budget(one.tokens, one.mhsa, one.mlp))
        assert slim.count(vit.architecture).macs / 1e9 == one.gmacs
        assert top1(vit, networks.task, "val", networks.preprocessing) == one.val_top1
