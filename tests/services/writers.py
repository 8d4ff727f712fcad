"""Sweeps that all log at once, several to a process, as their drivers do."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sweeps.tracking import Tracker

TRIALS, EPOCHS = 3, 5


def name_of(sweep: int) -> str:
    """A sweep's name in MLflow."""
    return f"sweep-{sweep}"


def accuracy(sweep: int, trial: int, epoch: int) -> float:
    """What a trial has after an epoch: no two are alike."""
    return sweep + trial / 10 + epoch / 1000


def write_sweeps(uri: str, root: Path, sweeps: list[int]) -> tuple[int, float]:
    """Log so many sweeps at once from this process; messages sent, and the seconds it took."""
    trackers = [Tracker(uri, root / name_of(sweep)) for sweep in sweeps]
    began = time.monotonic()
    with ThreadPoolExecutor(len(sweeps)) as pool:
        list(pool.map(_write, trackers, sweeps))
    taken = time.monotonic() - began
    return sum(sum(1 for _ in tracker.outbox.messages()) for tracker in trackers), taken


def _write(tracker: Tracker, sweep: int) -> None:
    tracker.begin(name_of(sweep))
    tracker.params(tracker.parent, {f"value-{n}": n for n in range(150)})
    for trial in range(TRIALS):
        run = tracker.child(f"trial-{trial}", "trial", {"trial": str(trial)})
        tracker.params(run, {"tokens": 0.5, "mhsa": 0.5, "mlp": 0.5})
        for epoch in range(EPOCHS):
            figures = {"val_top1": accuracy(sweep, trial, epoch), "gmacs": 1.0, "params_m": 2.0}
            tracker.metrics(run, figures, step=epoch)
        tracker.tags(run, {"state": "COMPLETE"})
        tracker.finish(run)
    tracker.finish_parent()
    tracker.flush(600)
    tracker.close()
