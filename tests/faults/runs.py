"""A tiny run of every stage, as a process of its own, and what must hold after faults."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import pandas as pd
import psutil
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from sweeps.front import pareto_front
from sweeps.trials import TrialRow

ROOT = Path(__file__).parents[2]
TRIALS, EPOCHS = 4, 2
SECRET = "correct-horse-battery-staple"
TINY = [
    *("--data", "digits", "--tasks", "none", "--trials", str(TRIALS)),
    *("--vit.img_size", "8", "--vit.patch_size", "2", "--vit.embed_dim", "16"),
    *("--vit.depth", "2", "--vit.num_heads", "2"),
    *("--dense.epochs", "2", "--search.epochs", "1"),
    *("--method", "share", "--share.epochs", "1"),
    *("--judge.budgets", "4", "--judge.batch", "2", "--judge.extra_trials", "0"),
    *("--finetune.epochs", str(EPOCHS)),
]


@dataclass
class Driver:
    """A started run and what it has printed.

    Args:
        cwd: Where it was started; its database and its folder `runs` lie there.
        process: Leads a process group of its own.
        lines: Printed so far.
    """

    cwd: Path
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def wait_for(self, words: str) -> bool:
        """Whether the run printed the words before it ended."""
        while True:
            ended = self.process.poll() is not None
            if any(words in line for line in self.lines):
                return True
            if ended:
                return False
            time.sleep(0.02)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the whole process group, as a terminal or a scheduler does."""
        os.killpg(self.process.pid, number)

    def end(self) -> int:
        """The exit code, when it has ended."""
        code = self.process.wait(timeout=900)
        self.reader.join(timeout=10)
        return code

    def workers(self, name: str) -> list[psutil.Process]:
        """The run's Ray workers at work on something of that name, such as `ImplicitFunc`."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [each for each in below if f"ray::{name}" in _command(each)]

    def __post_init__(self) -> None:
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def start(cwd: Path, *arguments: str, cluster: str = "local") -> Driver:
    """Start the command line as a user does."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment |= dict.fromkeys(("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY"), SECRET)
    process = subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "run_sweep.py"), *arguments, "--cluster", cluster],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )
    return Driver(cwd, process)


def finish(cwd: Path, *arguments: str, cluster: str = "local") -> Driver:
    """Run to the end, which must be a good one."""
    driver = start(cwd, *arguments, cluster=cluster)
    assert driver.end() == 0, "".join(driver.lines[-30:])
    return driver


def tracked(cwd: Path) -> dict[str, Run]:
    """The runs in MLflow by name; none stands twice."""
    client = MlflowClient(f"sqlite:///{cwd / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("vit-slim")
    runs = list(client.search_runs([experiment.experiment_id]))
    assert len({run.info.run_name for run in runs}) == len(runs), "a run stands twice"
    return {run.info.run_name: run for run in runs}


def assert_whole(cwd: Path, name: str) -> None:
    """Study, MLflow, tables and folders say the same of every trial, once."""
    folder = cwd / "runs" / name
    trials = pd.read_csv(folder / "trials.csv")
    assert trials["trial"].tolist() == list(range(TRIALS))
    assert (trials["state"] == "COMPLETE").all()
    assert not trials.isna().any().any()
    rows = [TrialRow(**row) for row in trials.to_dict("records")]
    front = [row.trial for row in pareto_front(rows)]
    assert pd.read_csv(folder / "front.csv")["trial"].tolist() == front
    assert sorted(int(path.name) for path in (folder / "models").iterdir()) == list(range(TRIALS))
    journal = JournalStorage(JournalFileBackend(str(folder / "state" / "study.journal")))
    study = optuna.load_study(study_name="budgets", storage=journal)
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * TRIALS
    assert [t.values for t in study.trials] == trials[["val_top1", "gmacs"]].to_numpy().tolist()
    runs = tracked(cwd)
    assert set(runs) == {name, "dense", "search", "share", *(f"trial-{n}" for n in range(TRIALS))}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for row in rows:
        run = runs[f"trial-{row.trial}"]
        for figure in ("gmacs", "params_m", "val_top1", "test_top1", "epochs", "seconds"):
            assert run.data.metrics[figure] == getattr(row, figure), (row.trial, figure)
        assert run.data.tags["front"] == str(row.trial in front).lower()
        assert steps(cwd, run) == list(range(row.epochs + 1))
        assert row.epochs == (EPOCHS if row.trial else 0)
    assert steps(cwd, runs["dense"]) == [1, 2]
    assert steps(cwd, runs["search"]) == steps(cwd, runs["share"]) == [1]
    drafts = [path for path in folder.rglob(".*.*") if path.name != ".validate_storage_marker"]
    assert drafts == []
    assert not any((folder / "state" / "trials").iterdir())
    files = [path for path in cwd.rglob("*") if path.is_file()]
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def steps(cwd: Path, run: Run) -> list[int]:
    """Of each point of the accuracy's course."""
    client = MlflowClient(f"sqlite:///{cwd / 'mlflow.db'}")
    return [point.step for point in client.get_metric_history(run.info.run_id, "val_top1")]
