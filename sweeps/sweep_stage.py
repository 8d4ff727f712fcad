"""The stage that trains budgets: what the sweep tells the user and MLflow."""

from collections.abc import Callable
from typing import Any

import slim
from sweeps.config import SweepConfig
from sweeps.early_stopping import ParetoHalving
from sweeps.recorder import Recorder
from sweeps.session import Session
from sweeps.study import BudgetStudy
from sweeps.sweep import sweep_budgets
from sweeps.trial import TrialJob


def sweep_stage(
    session: Session, job: TrialJob, study: BudgetStudy, checkpoint: slim.MaskCheckpoint
) -> None:
    """Train budgets until there are as many as asked.

    Args:
        session: The run's.
        job: What every trial of the sweep shares.
        study: Picks the budgets; it knows all trials in the end.
        checkpoint: What networks are cut from.

    Raises:
        InterruptedRun: If the user asked to stop.
        StoppedRun: If the disk is full.
    """
    config, folder, tracker = session.config, session.folder, session.tracker
    epochs = config.finetune.epochs
    reduction = config.finetune.reduction
    stopper = ParetoHalving(study, epochs, reduction) if reduction else None
    watch = _watch(session, study)
    recorder = Recorder(study, tracker, folder, checkpoint, epochs, stopper, watch, session.stop)
    recorder.reconcile()
    if study.remaining() > 0:
        session.progress.begin("sweep")
        done = sum(_epochs(config, row.trial) for row in study.rows())
        session.progress.credit("sweep", done / _planned_epochs(config))
        sweep_budgets(job, study, recorder, stopper, session.resources, folder, config.verbose)
    else:
        session.progress.skip("sweep")
    if (trained := len(study.rows())) < config.trials:
        session.progress.note(f"{trained} trials: {_why_fewer(config, study)}")
    tau = study.rank_correlation()
    if trained > config.trials and tau is not None:
        session.progress.note(
            f"{trained} trials instead of {config.trials}: judging misled, as Kendall's tau was "
            f"{tau:.2f}, below --judge.trust {config.judge.trust:g}"
        )
    if tau is not None:
        tracker.metrics(tracker.parent, {"kendall_tau": tau})
        session.progress.note(f"Kendall's tau between judged and trained accuracy: {tau:.2f}")


def _why_fewer(config: SweepConfig, study: BudgetStudy) -> str:
    if study.settled():
        return (
            f"the last {config.patience} added less than {config.min_gain:g} % to the front's "
            "hypervolume"
        )
    return "there seem to be no other networks in the space"


def _epochs(config: SweepConfig, number: int) -> int:
    """Of a trial; trial 0 may be the dense model as it stands."""
    return config.finetune.epochs if number or config.finetune.dense else 0


def _planned_epochs(config: SweepConfig) -> int:
    """Of all trials that were asked for, at least 1."""
    return max(1, sum(_epochs(config, number) for number in range(config.trials)))


def _watch(session: Session, study: BudgetStudy) -> Callable[[str, int, dict[str, Any]], None]:
    """Show what happens to trials."""
    config = session.config
    epochs = {row.trial: _epochs(config, row.trial) for row in study.rows()}
    running: set[int] = set()
    total = _planned_epochs(config)

    def watch(event: str, number: int, figures: dict[str, Any]) -> None:
        if event == "started":
            running.add(number)
        elif event != "epoch":
            running.discard(number)
        epochs[number] = int(figures.get("epochs", epochs.get(number, 0)))
        session.progress.trials(study.rows(), len(running))
        if event in ("failed", "pruned"):
            session.progress.note(f"trial {number} {event}: {figures['reason']}")
        if event in ("complete", "failed", "pruned"):
            epochs[number] = _epochs(config, number)  # no more of them are to come
            share = sum(epochs.values()) / total
            session.progress.advance("sweep", share, f"trial {number} {event}")

    return watch
