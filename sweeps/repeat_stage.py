"""The stage that trains the networks of the front again, with other seeds."""

from sweeps.recorder import run_of
from sweeps.repeats import (
    RepeatRow,
    Spreads,
    finished_repeat,
    plan_repeats,
    repeat_trial,
    spread_of,
)
from sweeps.session import Session
from sweeps.testing_stage import tell_of_network
from sweeps.trial import TrialJob
from sweeps.trials import TrialRow, write_table


def repeat_stage(session: Session, shared: TrialJob, front: list[TrialRow]) -> list[RepeatRow]:
    """Train each network of the front as often again as asked.

    A training that fails by itself is noted, and the others go on; what may succeed another time
    ends the run after the others.

    Args:
        session: Of the run.
        shared: What every trial of the sweep shares.
        front: The networks.

    Returns:
        A row for each training that came to its end, none where none is asked for.

    Raises:
        InterruptedRun: If the user asked to stop.
        StoppedRun: If a worker or a disk failed one.
        BaseException: What else one raised, other than a `SlimError`.
    """
    folder, progress = session.folder, session.progress
    jobs = plan_repeats(front, session.config.repeats, folder.repeats)
    if not jobs:
        return []
    progress.begin("repeats")
    finished = {job: row for job in jobs if (row := finished_repeat(job))}
    folder.forget_all(folder.repeats, [job.state for job in finished])
    progress.credit("repeats", len(finished) / len(jobs))
    rows, failure = list(finished.values()), None
    todo = [job for job in jobs if job not in finished]
    workers = session.resources.workers_per_trial
    ended = session.spread(repeat_trial, [(job, shared) for job in todo], workers)
    for done, (index, result) in enumerate(ended, len(finished) + 1):
        job = todo[index]
        if isinstance(result, BaseException):
            what = f"repeat {job.repeat} of trial {job.row.trial}"
            failure = session.note_failure(what, result, job.state) or failure
        else:
            rows.append(result)
            folder.forget(job.state)
        progress.advance("repeats", done / len(jobs), f"training {done}/{len(jobs)}")
    if failure:
        raise failure
    return rows


def publish_repeats(session: Session, rows: list[TrialRow], repeats: list[RepeatRow]) -> Spreads:
    """Write repeats.csv; mean and spread go to the trials' runs and beside their networks.

    Args:
        session: Of the run.
        rows: All trials, tested.
        repeats: What `repeat_stage` gave.

    Returns:
        What they say together with the trials' own trainings.
    """
    again = {row.trial for row in repeats}
    if not again:
        return {}
    first = [
        RepeatRow(
            row.trial,
            repeat=0,
            gmacs=row.gmacs,
            val_top1=float(row.val_top1 or 0),
            test_top1=float(row.test_top1 or 0),
            epochs=row.epochs,
            seconds=row.seconds,
        )
        for row in rows
        if row.trial in again
    ]
    table = sorted([*first, *repeats], key=lambda row: (row.gmacs, row.trial, row.repeat))
    path, tracker = session.folder.path / "repeats.csv", session.tracker
    write_table(path, RepeatRow, table)
    tracker.artifact(tracker.parent, path)
    took = {"repeats_epochs": sum(row.epochs for row in repeats)}
    tracker.metrics(tracker.parent, took | {"repeats_seconds": sum(r.seconds for r in repeats)})
    spreads = {
        number: spread_of([row for row in table if row.trial == number])
        for number in sorted(again)
    }
    for number, figures in spreads.items():
        tracker.metrics(run_of(number), figures)
        tell_of_network(session, str(number), {"repeats": figures})
    return spreads
