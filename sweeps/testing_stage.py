"""The stage that looks at the test split, once per network."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import slim
from slim.evaluation import top1
from slim.subnetwork import architecture_of
from slim.tasks import Task
from sweeps.config import dense_epochs
from sweeps.dense import saved_preprocessing
from sweeps.recorder import run_of
from sweeps.session import Session
from sweeps.stages import raised
from sweeps.study import BudgetStudy
from sweeps.trials import COMPLETE, TrialRow
from sweeps.worker import worker_device

DENSE_KEY, DENSE_RUN = "dense", "dense.dense"


def testing_stage(session: Session, study: BudgetStudy) -> list[TrialRow]:
    """Test the complete networks and the dense one, now that nothing is left to decide.

    Returns:
        All trials, with what was found.

    Raises:
        InterruptedRun: If the user asked to stop.
    """
    folder, progress = session.folder, session.progress
    known: dict[str, float] = folder.recall("test_top1", {})
    complete = [str(row.trial) for row in study.rows() if row.state == COMPLETE]
    missing = [key for key in [DENSE_KEY, *complete] if key not in known]
    progress.begin("test")
    before, total = len(complete) + 1 - len(missing), len(complete) + 1
    progress.credit("test", before / total)
    jobs = [(_network(session, key), session.task_reference) for key in missing]
    for done, (index, result) in enumerate(session.spread(top1_on_test, jobs), 1):
        known[missing[index]] = raised(result)
        _add(session, missing[index], {"test_top1": known[missing[index]]})
        detail = f"network {before + done}/{total}"
        progress.advance("test", (before + done) / total, detail)
    steps = {str(row.trial): row.epochs for row in study.rows()}
    for key in missing:
        _log(session, key, known[key], steps.get(key, dense_epochs(session.config)))
    folder.remember("test_top1", known)
    return [replace(row, test_top1=known.get(str(row.trial))) for row in study.rows()]


def top1_on_test(folder: Path, task: Task) -> float:
    """Test top-1 of a saved network, on a worker."""
    device = worker_device()
    vit = slim.load(folder).to(device)
    return top1(vit, task, "test", saved_preprocessing(folder), device=device)


def tell_of_network(session: Session, key: str, about: dict[str, Any]) -> None:
    """Add to what is kept beside a trial's network, or the dense one, and to its run in MLflow."""
    _add(session, key, about)
    _log_files(session, key)


def _log(session: Session, key: str, test_top1: float, epochs: int) -> None:
    """Tell MLflow of one network, trained so long, whose files say it too now."""
    tracker, (run, _) = session.tracker, _place(key)
    tracker.metrics(run, {"test_top1": test_top1}, step=epochs)
    _log_files(session, key)
    if key == DENSE_KEY:
        cost = slim.count(architecture_of(slim.load(_network(session, key))))
        tracker.metrics(run, {"gmacs": cost.macs / 1e9, "params_m": cost.params / 1e6})


def _add(session: Session, key: str, about: dict[str, Any]) -> None:
    network, mirror = _network(session, key), session.folder.mirror
    mirror.fetch(network)
    slim.add_about(network, about)
    mirror.keep(*_told(network))


def _log_files(session: Session, key: str) -> None:
    run, place = _place(key)
    for file in _told(_network(session, key)):
        session.tracker.artifact(run, file, place)


def _told(network: Path) -> list[Path]:
    """The files of a network that say what is known of it."""
    return [network / name for name in (slim.serving.CARD, slim.serving.HEADER)]


def _place(key: str) -> tuple[str, str]:
    """Key of a network's run, and the folder of its files there."""
    return (DENSE_RUN, DENSE_KEY) if key == DENSE_KEY else (run_of(int(key)), "model")


def _network(session: Session, key: str) -> Path:
    """Folder of a trial's network, or of the dense one."""
    return session.folder.dense if key == DENSE_KEY else session.folder.models / key
