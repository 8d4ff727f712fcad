"""What the default run judges and finds, beside --method retrain with the same seeds.

    python benchmarks/default_run.py --seeds 0 1 2

Runs `run_sweep.py --tasks none` both ways for each seed, one after the other, with any further
options of it that are given; runs that are there are gone on with. Hypervolume is that of the
trained networks on val, in percent of the box from chance at 1.1 times the dense MACs to 100 % at
no cost. Gains are the mean of what training alone made of the networks as they are judged. On val
they are too small, as budgets were picked by what they scored there; test decided nothing.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from begun_runs import is_begun
from fashion import show
from front_points import Course, Point
from machine import machine

import slim
from analysis.pareto_front import front_mask
from slim.evaluation import top1
from sweeps.judged_networks import JudgedNetworks
from sweeps.trials import COMPLETE

ROOT = Path(__file__).parents[1]
METHODS = ("judge", "retrain")
CHANCE = 10.0  # of ten digits, in percent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--storage", type=Path, default=Path("runs/benchmarks/default_run"))
    options, further = parser.parse_known_args()
    runs = [(seed, method) for seed in options.seeds for method in METHODS]
    rows = [row_of(options.storage.resolve(), seed, method, further) for seed, method in runs]
    show(f"default runs on {machine()}", pd.DataFrame(rows))


def row_of(storage: Path, seed: int, method: str, further: list[str]) -> dict[str, Any]:
    """Finish a run, and say what it found."""
    folder = storage / f"{method}-{seed}"
    finish(folder, seed, method, further)
    trials = pd.read_csv(folder / "trials.csv")
    complete = trials[trials["state"] == COMPLETE]
    path = folder / "judged.csv"
    judged = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=complete.columns)
    dense, *points = (
        Point(row.trial, row.gmacs, row.val_top1, row.test_top1, row.epochs, 0.0)
        for row in complete.itertuples()
    )
    course = Course(method, seed, 0.0, 0.0, dense, CHANCE, tuple(points))
    return {
        "seed": seed,
        "method": method,
        "judged": len(judged),
        "judged front": int(front_mask(judged.assign(state=COMPLETE)).sum()),
        "trained": len(trials),
        "front": int(front_mask(complete).sum()),
        "epochs of trials": int(trials["epochs"].sum()),
        "hypervolume": course.hypervolumes()[-1],
    } | gains(folder, complete[complete["epochs"] > 0])


def gains(folder: Path, trials: pd.DataFrame) -> dict[str, float]:
    """Mean rise of top-1 from the networks as they are judged to the trained ones, in points."""
    if not (folder / "judged.csv").is_file():
        return {}
    networks = JudgedNetworks(folder)
    budgets = [slim.Budget(row.tokens, row.mhsa, row.mlp) for row in trials.itertuples()]
    untrained = [networks.cut(budget) for budget in budgets]
    return {
        f"gain on {split}": float(
            trials[f"{split}_top1"].mean()
            - np.mean(
                [top1(vit, networks.task, split, networks.preprocessing) for vit in untrained]
            )
        )
        for split in ("val", "test")
    }


def finish(folder: Path, seed: int, method: str, further: list[str]) -> None:
    """Begin a run or go on with it; one that is finished ends at once."""
    command = ["--name", folder.name, "--seed", str(seed), "--method", method, "--tasks", "none"]
    command += ["--tracking-uri", f"sqlite:///{folder.parent / 'mlflow.db'}", "--cluster", "local"]
    command, where = [*command, *further], ["--storage", str(folder.parent)]
    if is_begun(folder, [*command, *where]):
        command = ["--resume", folder.name]
    folder.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, ROOT / "run_sweep.py", *command, *where], check=True)


if __name__ == "__main__":
    main()
