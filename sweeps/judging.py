"""Judging on the cluster: budgets cut from the broadcast weights and evaluated, none trained."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import ray

import slim
from slim import Budget
from sweeps.broadcast import receive_checkpoint
from sweeps.cluster import Resources
from sweeps.judged import JudgedRow, JudgedStudy
from sweeps.stages import raised, spread
from sweeps.trial import TrialJob, measured_latency, receive_calibration
from sweeps.untrained import repaired_top1
from sweeps.worker import worker_device

_CALLS = 4  # of each worker in a batch at least, where a batch has as many networks


def judge_budgets(job: TrialJob, study: JudgedStudy, resources: Resources) -> Iterator[int]:
    """Judge until the study has its number of budgets.

    As long as two batches keep all workers busy, none waits for the sampler, nor for the slowest
    network of a batch: see `Batches`.

    Args:
        job: What every trial of the sweep shares.
        study: Picks the budgets and keeps what came of them.
        resources: Of the cluster.

    Yields:
        How many are judged, from time to time.
    """
    batches, most = Batches(study), resources.workers
    together = max(1, int(job.config.judge.batch) // (_CALLS * most))
    jobs = (some and (*some, job) for some in batches.budgets(together))
    retries, mirror = job.config.max_retries, job.mirror
    place = resources.trial
    ended = spread(judge, jobs, most, retries=retries, workers=1, mirror=mirror, **place)
    for _, rows in ended:
        if batches.add(raised(rows)):
            yield batches.told


class Batches:
    """A study's batches, judged two at a time.

    A batch is picked while the one before is judged, and begun while the last networks of that are
    still judged. The study is told of whole batches in their order, so that what is picked does
    not depend on which networks end first; an interruption loses at most two batches.

    Args:
        study: Picks the budgets and keeps what came of them.
    """

    def __init__(self, study: JudgedStudy) -> None:
        self.study = study
        self.told = len(study.rows())
        self._rows: dict[int, JudgedRow] = {}  # by number; of batches that are not told yet
        self._begun: deque[list[Budget]] = deque()
        self._following: Future[list[Budget]] | None = None

    def budgets(self, together: int = 1) -> Iterator[tuple[int, list[Budget]] | None]:
        """At most so many of a batch together, and the number of the first.

        None while the next batch waits for the end of the one before.
        """
        number, batch = self.told, self.study.ask()
        while batch:
            self._begun.append(batch)
            self._look_ahead()
            for first in range(0, len(batch), together):
                yield number + first, batch[first : first + together]
            number += len(batch)
            while self._following is None:
                yield None
            batch, self._following = self._following.result(), None

    def add(self, rows: list[JudgedRow]) -> bool:
        """Take what came of some budgets; whether a batch is complete by it."""
        self._rows |= {row.number: row for row in rows}
        before = self.told
        while self._begun and (rows := self._complete(len(self._begun[0]))):
            self.study.tell(rows)
            self.told += len(rows)
            self._begun.popleft()
            self._look_ahead()
        return self.told > before

    def _complete(self, size: int) -> list[JudgedRow]:
        """The rows of the next batch to tell, if all are there."""
        numbers = range(self.told, self.told + size)
        if not all(number in self._rows for number in numbers):
            return []
        return [self._rows.pop(number) for number in numbers]

    def _look_ahead(self) -> None:
        """Have the batch after the last begun one picked, if all before that one are told."""
        if self._following is None and len(self._begun) == 1:
            known = self.study.known(self._begun[0])
            self._following = in_background(self.study.pick, known)


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


def judge(first: int, budgets: list[Budget], job: TrialJob) -> list[JudgedRow]:
    """Judge budgets, numbered from the first on, on a worker."""
    device = worker_device()
    checkpoint, task = receive_checkpoint(job.shared), ray.get(job.shared.task)
    calibration = receive_calibration(task, job, device)
    seen, amp = (task, job.shared.preprocessing), job.config.finetune.amp
    most = job.config.judge.images or None
    rows = []
    for number, budget in enumerate(budgets, first):
        started = time.monotonic()
        architecture = checkpoint.select(budget)
        cost = slim.count(architecture)
        vit = slim.extract(checkpoint, architecture).to(device)
        rows.append(
            JudgedRow(
                number=number,
                tokens=budget.tokens,
                mhsa=budget.mhsa,
                mlp=budget.mlp,
                gmacs=cost.macs / 1e9,
                params_m=cost.params / 1e6,
                val_top1=repaired_top1(vit, calibration, *seen, amp, most),
                latency_ms=measured_latency(vit, job.config),
                seconds=time.monotonic() - started,
            )
        )
    return rows
