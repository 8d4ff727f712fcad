"""What judged budgets cost beside their bare evaluation; part of orchestration.py."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import ray
import torch
from orchestration_setting import begin, checkpoint_of, data_of

import slim
import sweeps.judging
from slim.evaluation import top1
from slim.tasks import load_task
from sweeps.broadcast import receive_checkpoint
from sweeps.cluster import Resources, connect
from sweeps.config import JudgeConfig, SweepConfig, resolved
from sweeps.dense import saved_preprocessing
from sweeps.judged import JudgedRow, JudgedStudy
from sweeps.judging import judge, judge_budgets
from sweeps.space import BudgetSpace
from sweeps.stage_config import FinetuneConfig
from sweeps.trial import TrialJob
from sweeps.untrained import judged_images


def judge_all(folder: Path, judged: JudgeConfig, slots: int, repair_images: int) -> None:
    """Print what judged budgets cost beside their bare evaluation."""
    config = SweepConfig(
        data=data_of(folder),
        cluster="local",
        concurrency=slots,
        judge=judged,
        finetune=FinetuneConfig(repair_images=repair_images),
        storage=str(folder / "runs"),
        tracking_uri=f"sqlite:///{folder}/mlflow.db",
    )
    config = resolved(config)
    with connect(config) as resources:
        spent = costed_judging(folder, config, resources)  # warms the workers up
        judging, rows = timed_judging(folder, config, resources)
    task = load_task(config.data)
    images, every = judged_images(config, task), task.size("val")
    bare = bare_seconds(folder, rows, slots, images)
    told = f"{slots * judging / bare:.2f} times that (slots x time on the clock)"
    if images < every:
        whole = slots * judging / bare_seconds(folder, rows, slots, every)
        told += f", {whole:.2f} times the evaluation on all {every} of val"
    print(
        f"judging on {slots}, repaired with {repair_images} images: {len(rows)} budgets, "
        f"{1e3 * bare / len(rows):.0f} ms of evaluation on {images} images; judged in {told}; "
        f"{spent:.2f} times in processor time of the workers",
        flush=True,
    )


def timed_judging(
    folder: Path, config: SweepConfig, resources: Resources
) -> tuple[float, list[JudgedRow]]:
    """Seconds on the clock of judging all, by workers that have judged before."""
    with judged_study(folder, config, f"judged-{label(config)}") as (job, study):
        began = time.monotonic()
        list(judge_budgets(job, study, resources))
        return time.monotonic() - began, study.rows()


def costed_judging(folder: Path, config: SweepConfig, resources: Resources) -> float:
    """Processor time of judging the same budgets, as a multiple of that of their evaluation."""
    with judged_study(folder, config, f"costed-{label(config)}") as (job, study):
        with mock.patch.object(sweeps.judging, "judge", costed_judge):
            list(judge_budgets(job, study, resources))
        pairs = [json.loads(path.read_text()) for path in job.states.parent.glob("*.cpu")]
    judging, bare = map(sum, zip(*pairs, strict=True))
    return judging / bare


def label(config: SweepConfig) -> str:
    """What tells the judged runs apart."""
    return f"{config.concurrency}-{config.finetune.repair_images}"


@contextmanager
def judged_study(
    folder: Path, config: SweepConfig, name: str
) -> Iterator[tuple[TrialJob, JudgedStudy]]:
    """What a run judges with."""
    run, tracker, job = begin(folder, config, name)
    checkpoint = checkpoint_of(folder)
    space = BudgetSpace(config, checkpoint.spec, checkpoint.ranking)
    try:
        yield job, JudgedStudy(run.journal, config, space)
    finally:
        tracker.flush()
        tracker.close()


def costed_judge(first: int, budgets: list[slim.Budget], job: TrialJob) -> list[JudgedRow]:
    """Judge budgets, and write down the processor time of that and of evaluating them again."""
    began = time.process_time()
    rows = judge(first, budgets, job)
    judging, bare = time.process_time() - began, 0.0
    checkpoint, task = receive_checkpoint(job.shared), ray.get(job.shared.task)
    most = judged_images(job.config, task)
    for budget in budgets:
        vit = slim.extract(checkpoint, checkpoint.select(budget))
        began = time.process_time()
        top1(vit, task, "val", job.shared.preprocessing, most=most)
        bare += time.process_time() - began
    if first >= int(job.config.judge.batch):  # a worker's first ones warm up
        (job.states.parent / f"{first}.cpu").write_text(json.dumps([judging, bare]))
    return rows


def bare_seconds(folder: Path, rows: list[JudgedRow], slots: int, most: int) -> float:
    """Seconds of evaluating the same networks, by as many processes at once; summed over them."""
    with ProcessPoolExecutor(slots, get_context("spawn")) as pool:
        parts = [rows[slot::slots] for slot in range(slots)]
        return sum(pool.map(evaluate_all, [folder] * slots, parts, [most] * slots))


def evaluate_all(folder: Path, rows: list[JudgedRow], most: int) -> float:
    """Seconds of the evaluations alone, in this process."""
    torch.set_num_threads(1)
    checkpoint, task = checkpoint_of(folder), load_task(data_of(folder))
    preprocessing = saved_preprocessing(folder / "dense")
    seconds = 0.0
    for number, row in enumerate([rows[0], *rows]):
        vit = slim.extract(checkpoint, checkpoint.select(row.budget))
        began = time.monotonic()
        top1(vit, task, "val", preprocessing, most=most)
        if number:  # the first one warms up
            seconds += time.monotonic() - began
    return seconds
