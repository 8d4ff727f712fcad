"""How much a network of the front owes to its seed: the same budget trained again."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

import ray

import slim
from slim.evaluation import top1
from slim.processes import Processes
from sweeps.trial import TrialJob, train_budget
from sweeps.trials import TableRow, TrialRow
from sweeps.worker import worker_device

TEST = "test_top1"


@dataclass(frozen=True)
class RepeatRow(TableRow):
    """One training of a network of the front; repeat 0 is the trial itself."""

    trial: int
    repeat: int
    gmacs: float
    val_top1: float
    test_top1: float
    epochs: int
    seconds: float


@dataclass(frozen=True)
class RepeatJob:
    """A budget to be trained again.

    Args:
        row: The trial.
        repeat: Which one, from 1.
        folder: Of all repeats.
    """

    row: TrialRow
    repeat: int
    folder: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """What it reads and writes."""
        return (self.network, self.state)

    @property
    def network(self) -> Path:
        """Where the network is once it is finished."""
        return self.folder / f"{self.row.trial}-{self.repeat}"

    @property
    def state(self) -> Path:
        """Folder of the state of its training, until that has ended."""
        return self.folder / "states" / self.network.name


def plan_repeats(front: list[TrialRow], repeats: int, folder: Path) -> list[RepeatJob]:
    """Which trainings follow the trials' own; the dense model as it stands had none."""
    trained = [row for row in front if row.epochs]
    return [RepeatJob(row, repeat, folder) for row in trained for repeat in range(1, repeats)]


def repeat_trial(job: RepeatJob, shared: TrialJob) -> Iterator[RepeatRow | None]:
    """Train a budget again with another seed, and test what came of it.

    The workers of a trial train it together, and one of them tests it.

    Args:
        job: Which.
        shared: What every trial of the sweep shares.

    Yields:
        None after each epoch, then the row.
    """
    row, processes = job.row, Processes.current()
    here = not processes.rank and (job.network / slim.serving.HEADER).is_file()
    if not processes.any(here, worker_device()):
        again = replace(shared, models=job.folder, states=job.state.parent)
        budget = {"tokens": row.tokens, "mhsa": row.mhsa, "mlp": row.mlp}
        for _ in train_budget({"number": row.trial, "repeat": job.repeat, **budget}, again):
            yield None
    if processes.rank:
        return
    device, preprocessing = worker_device(), shared.shared.preprocessing
    vit, task = slim.load(job.network).to(device), ray.get(shared.shared.task)
    tested = {TEST: top1(vit, task, "test", preprocessing, device=device)}
    slim.add_about(job.network, tested)
    yield finished_repeat(job)


def finished_repeat(job: RepeatJob) -> RepeatRow | None:
    """What stands beside the network of a training that has ended, once it was tested."""
    if not (job.network / slim.serving.HEADER).is_file():
        return None
    try:
        about = slim.serving.load_about(job.network)
    except slim.FileFormatError:  # which the worker that is to read it tells
        return None
    if TEST not in about:
        return None
    return RepeatRow(
        trial=job.row.trial,
        repeat=job.repeat,
        gmacs=job.row.gmacs,
        val_top1=about["val_top1"],
        test_top1=about[TEST],
        epochs=about.get("epochs", 0),
        seconds=about.get("seconds", 0.0),
    )


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
