"""Judging on the cluster: budgets cut from the broadcast weights and evaluated, none trained."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import ray

import slim
from sweeps.broadcast import receive_checkpoint, receive_teacher
from sweeps.cluster import Resources
from sweeps.judged import JudgedRow, JudgedStudy
from sweeps.stages import spread
from sweeps.trial import TrialJob, measured_latency, repair_where_it_helps
from sweeps.worker import worker_device


def judge_budgets(job: TrialJob, study: JudgedStudy, resources: Resources) -> Iterator[int]:
    """Judge until the study has its number of budgets.

    The next batch is asked for while a batch is judged, so that no worker waits for the sampler.

    Args:
        job: What every trial of the sweep shares.
        study: Picks the budgets and keeps what came of them.
        resources: Of the cluster.

    Yields:
        How many are judged, from time to time.
    """
    judged, batch = len(study.rows()), study.ask()
    while batch:
        following = in_background(study.pick, study.known(batch))
        rows: dict[int, JudgedRow] = {}
        jobs = [(judged + index, budget, job) for index, budget in enumerate(batch)]
        most = resources.concurrency
        for index, row in spread(judge, jobs, most, mirror=job.mirror, **resources.trial):
            if isinstance(row, BaseException):
                raise row
            rows[index] = row
        study.tell([rows[index] for index in range(len(batch))])
        judged += len(batch)
        yield judged
        batch = following.result()


def in_background(function: Callable[..., Any], *args: Any) -> Future[Any]:
    """Call a function in a thread that holds up neither an interruption nor the end."""
    future: Future[Any] = Future()

    def call() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


def judge(number: int, budget: slim.Budget, job: TrialJob) -> JudgedRow:
    """Judge one budget, on a worker."""
    started = time.monotonic()
    device = worker_device()
    checkpoint = receive_checkpoint(job.shared)
    architecture = checkpoint.select(budget)
    cost = slim.count(architecture)
    vit = slim.extract(checkpoint, architecture).to(device)
    task, repairs = ray.get(job.shared.task), bool(job.config.finetune.repair_images)
    teacher = receive_teacher(job.shared).to(device) if repairs else None  # building it takes time
    return JudgedRow(
        number=number,
        tokens=budget.tokens,
        mhsa=budget.mhsa,
        mlp=budget.mlp,
        gmacs=cost.macs / 1e9,
        params_m=cost.params / 1e6,
        val_top1=repair_where_it_helps(vit, teacher, task, job, device),
        latency_ms=measured_latency(vit, job.config),
        seconds=time.monotonic() - started,
    )
