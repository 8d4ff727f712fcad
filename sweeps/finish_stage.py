"""The stage that trains networks of the front on, once all trials have ended."""

from pathlib import Path
from typing import Any

import slim
from sweeps.errors import StoppedRun
from sweeps.finishing import NETWORK, Finished, finish_network
from sweeps.front import pareto_front, spread_over_macs
from sweeps.recorder import COLUMNS, run_of
from sweeps.run_folder import remove
from sweeps.session import Session, raised
from sweeps.study import BudgetStudy
from sweeps.trial import TrialJob
from sweeps.trials import COMPLETE, TrialRow, write_table


def finish_stage(session: Session, job: TrialJob, study: BudgetStudy) -> None:
    """Train networks of the front on, those that are not yet; val says whether they stay so.

    A network that was tested stays as it is.

    Raises:
        InterruptedRun: If the user asked to stop.
        StoppedRun: If the disk is full.
    """
    options, folder = session.config.finetune, session.folder
    if not options.front_epochs:
        return
    states, tested = folder.state / "finish", folder.recall("test_top1", {})
    chosen = spread_over_macs(pareto_front(study.trained_rows()))[: options.front_networks]
    todo = [r for r in chosen if str(r.trial) not in tested and not study.is_finished(r.trial)]
    if not todo:
        session.progress.skip("finish")
        return
    session.progress.begin("finish")
    places = [(folder.models / str(row.trial), states / str(row.trial)) for row in todo]
    jobs = [(row.trial, job, *place) for row, place in zip(todo, places, strict=True)]
    for done, (index, result) in enumerate(session.spread(finish_network, jobs), 1):
        detail = _keep(session, study, todo[index], states / str(todo[index].trial), result)
        session.progress.trials(study.rows(), 0)
        session.progress.advance("finish", done / len(jobs), detail)
    _publish(session, study)


def _keep(session: Session, study: BudgetStudy, row: TrialRow, target: Path, result: Any) -> str:
    """Replace a trial's network by the one that was trained on, if that is better on val.

    The study hears of it last: until then all this can be done again.

    Returns:
        What came of it.
    """
    if isinstance(result, slim.StorageError):
        raise StoppedRun(str(result))
    if isinstance(result, slim.SlimError):
        session.progress.note(f"trial {row.trial} stays as it is: {result}")
        return f"trial {row.trial} failed"
    finished: Finished = raised(result)
    folder, network = session.folder, session.folder.models / str(row.trial)
    if finished.val_top1 > float(row.val_top1 or 0.0):
        trained = target / NETWORK
        folder.mirror.fetch(trained)
        slim.save(slim.load(trained), network, slim.serving.load_about(trained))
        folder.mirror.keep(network)
        run = run_of(row.trial)
        for epoch, accuracy in enumerate(finished.curve, start=row.epochs + 1):
            session.tracker.metrics(run, {"val_top1": accuracy}, step=epoch)
        session.tracker.artifact(run, network, "model")
    study.finish(row.trial, finished.val_top1, finished.epochs, finished.seconds)
    remove(target)
    folder.mirror.drop(target)
    return f"trial {row.trial}: val top-1 {row.val_top1:.2f} -> {finished.val_top1:.2f} %"


def _publish(session: Session, study: BudgetStudy) -> None:
    """Bring tables and MLflow to what the study says now."""
    rows, tracker, path = study.rows(), session.tracker, session.folder.path
    front = pareto_front(rows)
    write_table(path / "trials.csv", TrialRow, rows)
    write_table(path / "front.csv", TrialRow, front)
    on_front = {row.trial for row in front}
    for row in rows:
        if row.state == COMPLETE:
            run = run_of(row.trial)
            tracker.metrics(run, {name: getattr(row, name) for name in COLUMNS}, row.epochs)
            tracker.tags(run, {"front": str(row.trial in on_front).lower()})
    session.folder.keep()
