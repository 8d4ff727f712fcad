"""The stage that judges budgets on the broadcast weights."""

import time

from sweeps.judged import JudgedStudy
from sweeps.judging import judge_budgets
from sweeps.publishing import publish_judged
from sweeps.session import Session
from sweeps.stages import naming_stage
from sweeps.trial import TrialJob


def judging_stage(session: Session, job: TrialJob, study: JudgedStudy) -> JudgedStudy:
    """Judge budgets until there are as many as asked, and log them as one table.

    Args:
        session: The run's.
        job: What every trial of the sweep shares.
        study: Of the budgets judged before.

    Returns:
        The study.

    Raises:
        InterruptedRun: If the user asked to stop.
    """
    folder, tracker = session.folder, session.tracker
    total = int(session.config.judge.budgets or 0)
    if not total:
        return study
    if folder.recall("judged") == len(study.rows()):
        session.progress.skip("judge")
        return study
    session.progress.begin("judge")
    session.progress.credit("judge", len(study.rows()) / total)
    started = time.monotonic()
    with naming_stage("judge"):
        for done in judge_budgets(job, study, session.resources):
            session.end_if_asked()
            detail = f"{done}/{total} budgets, {len(study.front())} on their front"
            session.progress.advance("judge", done / total, detail)
    rows = study.rows()
    publish_judged(tracker, folder, rows, study.front())
    figures = {"judged": float(len(rows)), "judged_front": float(len(study.front()))}
    seconds = {"judge_seconds": time.monotonic() - started}
    tracker.metrics(tracker.parent, figures | seconds)
    folder.remember("judged", len(rows))
    return study
