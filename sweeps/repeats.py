"""How much a network of the front owes to its seed: the same budget trained again."""

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

import ray

import slim
from slim.evaluation import top1
from sweeps.trial import TrialJob, train_budget
from sweeps.trials import TableRow, TrialRow
from sweeps.worker import worker_device


@dataclass(frozen=True)
class RepeatRow(TableRow):
    """One training of a network of the front; repeat 0 is the trial itself."""

    trial: int
    repeat: int
    gmacs: float
    val_top1: float
    test_top1: float


def plan_repeats(front: list[TrialRow], repeats: int) -> list[tuple[TrialRow, int]]:
    """Which trainings follow the trials' own."""
    return [(row, repeat) for row in front for repeat in range(1, repeats)]


def repeat_trial(row: TrialRow, repeat: int, job: TrialJob, folder: Path) -> RepeatRow:
    """Train a budget again with another seed, on a worker; a finished one is only read.

    Args:
        row: The trial.
        repeat: Which one, from 1.
        job: What every trial of the sweep shares.
        folder: Of all repeats; the network stays there.
    """
    network = repeated(row, repeat, folder)
    if not (network / slim.serving.HEADER).is_file():
        again = replace(job, models=folder, states=folder / "states")
        budget = {"tokens": row.tokens, "mhsa": row.mhsa, "mlp": row.mlp}
        for _ in train_budget({"number": row.trial, "repeat": repeat, **budget}, again):
            pass
    device, preprocessing = worker_device(), job.shared.preprocessing
    vit = slim.load(network).to(device)
    task = ray.get(job.shared.task)
    return RepeatRow(
        trial=row.trial,
        repeat=repeat,
        gmacs=row.gmacs,
        val_top1=slim.serving.load_about(network)["val_top1"],
        test_top1=top1(vit, task, "test", preprocessing, device=device),
    )


def repeated(row: TrialRow, repeat: int, folder: Path) -> Path:
    """Where the network of a training is once it is finished, in the folder of all repeats."""
    return folder / f"{row.trial}-{repeat}"


Spreads = dict[int, dict[str, float]]
"""By trial what `spread_of` says of its trainings; only of those that were trained again."""


def spread_of(rows: list[RepeatRow]) -> dict[str, float]:
    """Number, mean and, of more than one, standard deviation of the trainings of one budget."""
    figures: dict[str, float] = {"trainings": len(rows)}
    for name in ("val_top1", "test_top1"):
        values = [getattr(row, name) for row in rows]
        figures[f"{name}_mean"] = fmean(values)
        if len(values) > 1:
            figures[f"{name}_std"] = stdev(values)
    return figures
