"""The stage that trains networks of the front on, once all trials have ended."""

from collections.abc import Container
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
from sweeps.trials import COMPLETE, TrialRow, trained_on, write_table


def finish_stage(session: Session, job: TrialJob, study: BudgetStudy) -> None:
    """Train networks of the front on until all that are on it had the same training.

    A network that was tested stays as it is.

    Raises:
        InterruptedRun: If the user asked to stop.
        StoppedRun: If the disk is full.
    """
    options, folder = session.config.finetune, session.folder
    if not options.front_epochs:
        return
    most, tested = options.front_networks, {*folder.recall("test_top1", {})}
    if not next_to_finish(study, most, tested):
        session.progress.skip("finish")
        return
    session.progress.begin("finish")
    states = folder.state / "finish"
    while todo := next_to_finish(study, most, tested):
        places = [(folder.models / str(row.trial), states / str(row.trial)) for row in todo]
        jobs = [(row.trial, job, *place) for row, place in zip(todo, places, strict=True)]
        for ended, (index, result) in enumerate(session.spread(finish_network, jobs), 1):
            detail = _keep(session, study, todo[index], places[index][1], result)
            session.progress.trials(study.rows(), 0)
            done = len(study.finished())
            share = done / (done + len(jobs) - ended)
            session.progress.advance("finish", share, detail)
    _publish(session, study)


def next_to_finish(study: BudgetStudy, most: int, tested: Container[str]) -> list[TrialRow]:
    """The trials whose networks are to be trained on now, as they were before that.

    First those of the trials' front, spread over its MACs; then those that came on the front as
    the accuracies of these changed, and so on. What was finished of a round does not change the
    round, so an interrupted stage takes the same networks.

    Args:
        study: Knows trials and further trainings.
        most: How many are trained on, not counting those that were tested already.
        tested: Trials whose networks were tested, by number as text.
    """
    trials, finished = study.trained_rows(), study.finished()
    known = {number: told for number, told in finished.items() if str(number) in tested}
    most += len(known)
    while len(known) < most:
        rows = [trained_on(row, known.get(row.trial)) for row in trials]
        front = spread_over_macs(pareto_front(rows))
        fresh = [row for row in front if row.trial not in known and str(row.trial) not in tested]
        batch = fresh[: most - len(known)]
        missing = [row for row in batch if row.trial not in finished]
        if missing or not batch:
            return missing
        known |= {row.trial: finished[row.trial] for row in batch}
    return []


def _keep(session: Session, study: BudgetStudy, row: TrialRow, target: Path, result: Any) -> str:
    """Replace a trial's network by the one that was trained on.

    It had the same training as all that are compared with it, while the accuracy it had before is
    the luckiest of many. The study hears of it last: until then all this can be done again.

    Returns:
        What came of it.
    """
    if isinstance(result, slim.StorageError):
        raise StoppedRun(str(result))
    if isinstance(result, slim.SlimError):
        session.progress.note(f"trial {row.trial} stays as it is: {result}")
        study.finish(row, float(row.val_top1 or 0.0), epochs=0, seconds=0.0)
        return f"trial {row.trial} failed"
    finished: Finished = raised(result)
    folder, network, run = (
        session.folder,
        session.folder.models / str(row.trial),
        run_of(row.trial),
    )
    trained = target / NETWORK
    folder.mirror.fetch(trained)
    slim.save(slim.load(trained), network, slim.serving.load_about(trained))
    folder.mirror.keep(network)
    for epoch, accuracy in enumerate(finished.curve, start=row.epochs + 1):
        session.tracker.metrics(run, {"val_top1": accuracy}, step=epoch)
    session.tracker.artifact(run, network, "model")
    study.finish(row, finished.val_top1, finished.epochs, finished.seconds)
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
