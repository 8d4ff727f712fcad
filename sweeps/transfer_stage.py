"""The stage that carries the front's networks and the dense one to other tasks."""

from dataclasses import replace

import ray

from sweeps.mirror import stamps
from sweeps.publishing import log_transfer
from sweeps.session import Session
from sweeps.transfer import DENSE, finished_transfer, plan_transfer, run_transfer
from sweeps.trials import TransferRow, TrialRow, write_table


def transfer_stage(session: Session, front: list[TrialRow]) -> None:
    """Train the networks of these trials, and the dense one, on each transfer task.

    The trial that is the dense model as it stands has the results of that.

    A training that cannot be, such as one that diverges, is noted, and the others go on; what may
    succeed another time ends the run after the others.

    Raises:
        InterruptedRun: If the user asked to stop.
        StoppedRun: If a worker, a disk or a service failed one.
    """
    folder, config, tracker = session.folder, session.config, session.tracker
    planned = plan_transfer(session.transfers, [row.trial for row in front], folder, config)
    standing = {str(row.trial) for row in front if not row.epochs}
    jobs = [job for job in planned if job.trial not in standing]
    finished = {job: result for job in jobs if (result := finished_transfer(job))}
    todo = [job for job in jobs if job not in finished]
    results = folder.transfers
    folder.mirror.keep(results, known=stamps([results]), lacking=True)  # a killed run may not have
    folder.forget_all(results, [job.state for job in finished])
    for result in finished.values():
        log_transfer(tracker, *result)  # nor have said so
    rows = [row for row, *_ in finished.values()]
    if todo:
        session.progress.begin("transfer")
    for task in {job.task for job in jobs}:
        same = [job for job in jobs if job.task == task]
        before = sum(row.task == task for row in rows)
        session.progress.credit(f"transfer {task}", before / len(same))
    references = {task.name: ray.put(task) for task in session.transfers}
    arguments = [(job, references[job.task], config) for job in todo]
    failure: BaseException | None = None
    for index, result in session.spread(run_transfer, arguments):
        job = todo[index]
        if isinstance(result, BaseException):
            what = f"transfer of {job.trial} to {job.task}"
            failure = session.note_failure(what, result, job.state) or failure
            continue
        folder.forget(job.state)
        finished[job] = result
        rows.append(result[0])
        log_transfer(tracker, *result)
        same = [other for other in jobs if other.task == job.task]
        ended = sum(row.task == job.task for row in rows)
        detail = f"{job.trial}: test top-1 {result[0].test_top1:.2f} %, {ended}/{len(same)}"
        session.progress.advance(f"transfer {job.task}", ended / len(same), detail)
    for row, curve, _ in [result for job, result in finished.items() if job.trial == DENSE]:
        for twin in (replace(row, trial=number) for number in standing):
            rows.append(twin)
            log_transfer(tracker, twin, curve, seconds=0.0)
    order = {(job.task, job.trial, job.method, job.seed): i for i, job in enumerate(planned)}
    rows.sort(key=lambda row: order[row.task, row.trial, row.method, row.seed])
    write_table(folder.path / "transfer.csv", TransferRow, rows)
    tracker.artifact(tracker.parent, folder.path / "transfer.csv")
    if failure:
        raise failure
