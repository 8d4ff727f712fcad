"""The stage that trains the networks of the front again, with other seeds."""

import slim
from sweeps.recorder import run_of
from sweeps.repeats import RepeatRow, Spreads, plan_repeats, repeat_trial, spread_of
from sweeps.session import Session, raised
from sweeps.testing_stage import tell_of_network
from sweeps.trial import TrialJob
from sweeps.trials import TrialRow, write_table


def repeat_stage(session: Session, shared: TrialJob, front: list[TrialRow]) -> list[RepeatRow]:
    """Train each network of the front as often again as asked.

    A training that fails by itself is noted, and the others go on.

    Args:
        session: Of the run.
        shared: What every trial of the sweep shares.
        front: The networks.

    Returns:
        A row for each training that came to its end, none where none is asked for.

    Raises:
        InterruptedRun: If the user asked to stop.
    """
    jobs = plan_repeats(front, session.config.repeats, session.folder.repeats)
    if not jobs:
        return []
    session.progress.begin("repeats")
    before = sum(job.network.is_dir() for job in jobs)
    session.progress.credit("repeats", before / len(jobs))
    rows: list[RepeatRow] = []
    ended = session.spread(repeat_trial, [(job, shared) for job in jobs])
    for done, (index, result) in enumerate(ended, 1):
        job = jobs[index]
        if isinstance(result, slim.SlimError) and not isinstance(result, slim.StorageError):
            trial = job.row.trial  # it would come again
            session.progress.note(f"repeat {job.repeat} of trial {trial} failed: {result}")
        else:
            rows.append(raised(result))
            session.folder.forget(job.state)
        share = max(before, done) / len(jobs)  # those that are only read come first
        session.progress.advance("repeats", share, f"training {done}/{len(jobs)}")
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
