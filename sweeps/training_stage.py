"""The stages that train one network each: the dense model, the search, weight sharing."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import slim
from slim.training import Epoch
from sweeps.errors import InterruptedRun, StoppedRun
from sweeps.session import Session
from sweeps.stages import naming_stage, stream
from sweeps.tracking import FAILED


def training_stage(
    session: Session,
    name: str,
    function: Callable[..., Iterator[Epoch]],
    epochs: int,
    folders: tuple[Path, ...],
    tags: Mapping[str, str] | None = None,
) -> None:
    """Train one network as a task of its own, unless it is done.

    Args:
        session: The run's.
        name: Of the stage.
        function: Trains, given the configuration, the task, the folders and a file for its state.
        epochs: How many it trains.
        folders: Those it reads, and last the one it writes.
        tags: Of its run in MLflow, beside the usual ones.

    Raises:
        InterruptedRun: If the user stopped it.
        StoppedRun: If its files cannot be kept.
    """
    folder, tracker = session.folder, session.tracker
    state = folder.state / f"{name}.pt"
    if folder.recall(f"{name}_done"):
        folder.forget(state)  # a killed run may not have
        session.progress.skip(name)
        return
    session.progress.begin(name)
    run = tracker.child(name, name, tags)
    started = time.monotonic() - float(folder.recall(f"{name}_seconds") or 0.0)
    tracker.reopen(run)  # an interrupted one is taken up again
    arguments = (session.config, session.task_reference, *folders, state)
    trained = stream(
        function,
        *arguments,
        workers=session.resources.workers_per_stage if epochs else 1,
        mirror=folder.mirror,
        retries=session.config.max_retries,
        **session.resources.stage,
    )
    try:
        with naming_stage(name):
            _follow(session, name, run, trained, epochs, started)
    except slim.StoppedTraining as error:
        raise InterruptedRun from error
    except slim.StorageError as error:
        raise StoppedRun(str(error)) from error
    except Exception as error:
        tracker.finish(run, FAILED, str(error))
        raise
    folder.mirror.fetch(folders[-1])
    tracker.metrics(run, {"seconds": time.monotonic() - started})
    tracker.artifact(run, folders[-1])
    tracker.finish(run)
    folder.remember(f"{name}_done", True)
    folder.forget(state)


def _follow(
    session: Session, name: str, run: str, trained: Iterator[Epoch], epochs: int, started: float
) -> None:
    """Log and show a stage's epochs as they come, and keep the seconds of all sessions."""
    for epoch in trained:
        session.tracker.metrics(run, {"val_top1": epoch.val_top1}, step=epoch.epoch)
        if epoch.epoch:
            session.tracker.metrics(run, {"loss": epoch.loss}, step=epoch.epoch)
        count = f"epoch {epoch.epoch}/{epochs}, " if epochs else ""
        detail = f"{count}val top-1 {epoch.val_top1:.2f} %"
        if not epoch.before:
            session.progress.advance(name, epoch.epoch / epochs if epochs else 1.0, detail)
        elif epoch.epoch == epoch.before:
            session.progress.credit(name, epoch.epoch / epochs)
            session.progress.note(f"{name}: goes on after {detail}")
        session.folder.remember(f"{name}_seconds", time.monotonic() - started)
