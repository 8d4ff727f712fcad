"""The sweep: Ray Tune trains the budgets that the study picks, on reused workers."""

import logging
from typing import Any

from ray import tune
from ray.tune import FailureConfig, PlacementGroupFactory, RunConfig, TuneConfig, Tuner

from slim.errors import one_line
from slim.storage import is_out_of_space
from sweeps.cluster import Resources
from sweeps.early_stopping import ParetoHalving
from sweeps.errors import InterruptedRun, StoppedRun
from sweeps.recorder import Recorder
from sweeps.run_folder import RunFolder
from sweeps.searcher import StudySearcher
from sweeps.study import BudgetStudy
from sweeps.trial import TrialJob, run_trial


def sweep_budgets(
    job: TrialJob,
    study: BudgetStudy,
    recorder: Recorder,
    stopper: ParetoHalving | None,
    resources: Resources,
    folder: RunFolder,
    verbose: bool,
) -> None:
    """Train budgets until the study has its number of trials.

    Raises:
        InterruptedRun: If the user stopped it; finished trials are kept.
        StoppedRun: If the disk is full, or what was done cannot be recorded.
    """
    remaining = study.remaining()
    if remaining <= 0:
        return
    logging.getLogger("ray.tune").setLevel(logging.INFO if verbose else logging.CRITICAL)
    tuner = Tuner(
        trainable(job, resources.bundles),
        tune_config=TuneConfig(
            search_alg=StudySearcher(study, recorder.stop),
            scheduler=stopper,
            num_samples=remaining + int(job.config.judge.extra_trials or 0),
            max_concurrent_trials=resources.concurrency,
            reuse_actors=True,
        ),
        run_config=RunConfig(
            name="tune",
            storage_path=str(folder.state),
            callbacks=[recorder],
            failure_config=FailureConfig(max_failures=job.config.max_retries),
            verbose=1 if verbose else 0,
        ),
    )
    tuner.fit()
    if isinstance(recorder.error, OSError) and not is_out_of_space(recorder.error):
        raise StoppedRun(one_line(recorder.error)) from recorder.error
    if recorder.error is not None:
        raise recorder.error
    if recorder.stop.reason:
        raise StoppedRun(recorder.stop.reason)
    if study.remaining() > 0:
        raise InterruptedRun


def trainable(job: TrialJob, bundles: list[dict[str, float]]) -> Any:
    """The function of a trial, with a bundle of resources for each of its workers."""
    with_job = tune.with_parameters(run_trial, job=job)
    return tune.with_resources(with_job, PlacementGroupFactory(bundles))
