"""One small sweep over all stages on real data, Ray, Optuna and MLflow, run once and looked at."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SMALL = [
    *("--data", "digits", "--tasks", "mnist", "--cluster", "local"),
    *("--vit.img_size", "8", "--vit.patch_size", "2", "--vit.embed_dim", "32"),
    *("--vit.depth", "3", "--vit.num_heads", "2"),
    *("--dense.epochs", "10", "--search.epochs", "1", "--search.score", "taylor"),
    *("--method", "share", "--share.epochs", "1", "--finetune.epochs", "1"),
    *("--judge.budgets", "24", "--judge.batch", "4", "--judge.extra_trials", "0"),
    *("--judge.images", "200"),
    *("--transfer.epochs", "1", "--space.uniform", "[0.5]"),
]


@dataclass(frozen=True)
class FinishedSweep:
    """A finished run: its working folder, run folder, tracking URI and what it printed."""

    cwd: Path
    folder: Path
    tracking_uri: str
    output: str

    @property
    def trials(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "trials.csv")


def begin_from(sweep: FinishedSweep, cwd: Path, name: str, changes: dict[str, Any]) -> Path:
    """The folder, beside that of a finished run, of one that takes its search when resumed."""
    folder = sweep.folder.with_name(name)
    (folder / "state").mkdir(parents=True)
    values = yaml.safe_load((sweep.folder / "config.yaml").read_text())
    about = {"name": name, "searched": sweep.folder.name, "storage": str(folder.parent)}
    about |= {"tracking_uri": f"sqlite:///{cwd / 'mlflow.db'}", "register": False}
    for key, value in (about | changes).items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder


def run_sweep_process(
    cwd: Path, *arguments: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, in a process of its own."""
    command = [sys.executable, str(ROOT / "run_sweep.py"), *arguments]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env=environment, timeout=400, check=False
    )
    if check:
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> FinishedSweep:
    cwd = tmp_path_factory.mktemp("sweep")
    done = run_sweep_process(cwd, *SMALL, "--name", "small", "--trials", "4", "--register")
    uri = f"sqlite:///{cwd / 'mlflow.db'}"
    return FinishedSweep(cwd, cwd / "runs" / "small", uri, done.stdout + done.stderr)
