"""One trial on a worker: a budget, selected, extracted, repaired, fine-tuned and saved."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from torch import nn

import slim
from slim.calibration import Calibration
from slim.distillation import distill_from
from slim.evaluation import top1
from slim.kept_outputs import KeptOutputs, kept_bytes
from slim.processes import Processes
from slim.tasks import Task
from slim.training import Objective, Training, cross_entropy
from sweeps.broadcast import Broadcast, receive_checkpoint, receive_teacher
from sweeps.config import SweepConfig
from sweeps.distributed import train_together
from sweeps.mirror import NO_MIRROR, Mirror, mirrored
from sweeps.stopping import watch
from sweeps.untrained import calibration_for, repaired_top1
from sweeps.worker import prepare_worker, worker_device

_calibrations: dict[tuple[Any, ...], Calibration] = {}  # of this process: the last run's


@dataclass(frozen=True)
class TrialJob:
    """What every trial of a sweep shares.

    Args:
        config: The experiment.
        shared: What was broadcast.
        models: Folder of the saved networks.
        states: Folder of the training states.
        stop: File that asks to stop.
        mirror: Where networks and states are kept, if not in folders that all nodes see.
        outputs: Folder of the dense model's outputs for what the trainings show; None where they
            are not kept.
    """

    config: SweepConfig
    shared: Broadcast
    models: Path
    states: Path
    stop: Path
    mirror: Mirror = NO_MIRROR
    outputs: Path | None = None


def run_trial(proposal: dict[str, Any], job: TrialJob) -> None:
    """Ray Tune's trainable: reports after each epoch, and saves the network before it ends.

    An error of the trial's own ends it with the reason, `failed`; a request to stop and a full
    disk end it with `halted`, to be gone on with later. Whatever else happens to it or to its
    worker, Tune tries again, from the last state.

    Args:
        proposal: `number` and the budget's `tokens`, `mhsa` and `mlp`.
        job: What the trials share.
    """
    prepare_worker()
    last: dict[str, Any] = {"epochs": 0}
    number, workers = str(proposal["number"]), job.config.workers_per_trial
    files = (job.models / number, job.states / number)
    trained = train_together(workers, mirrored, job.mirror, files, train_budget, proposal, job)
    try:
        with closing(trained):  # type: ignore[type-var]
            for last in trained:
                tune.report(last)
    except (slim.StoppedTraining, slim.StorageError) as error:
        reason = "" if isinstance(error, slim.StoppedTraining) else str(error)
        tune.report(last | {"halted": reason})
    except slim.SlimError as error:  # it would come again
        tune.report(last | {"failed": f"{type(error).__name__}: {error}"})


def train_budget(proposal: dict[str, Any], job: TrialJob) -> Iterator[dict[str, Any]]:
    """Train one budget; yields the row's figures after repair and after each epoch.

    A network slower than the limit is not trained: its figures end with the reason, `pruned`.
    Neither is the dense budget, trial 0, unless asked: its figures are `whole` at once. With a
    `repeat` in the proposal the seed is another, and so is the name of the saved network.
    """
    started, processes = time.monotonic(), Processes.current()
    number, repeat = int(proposal["number"]), int(proposal.get("repeat", 0))
    name = f"{number}-{repeat}" if repeat else str(number)
    budget = slim.Budget(*(float(proposal[name]) for name in ("tokens", "mhsa", "mlp")))
    options, shared, device = job.config.finetune, job.shared, worker_device()
    task = ray.get(shared.task)
    checkpoint = receive_checkpoint(shared)
    architecture = checkpoint.select(budget)
    cost = slim.count(architecture)
    figures = {"gmacs": cost.macs / 1e9, "params_m": cost.params / 1e6}
    torch.manual_seed(job.config.seed + repeat)
    as_it_stands = architecture.is_dense and not options.dense and not repeat
    if as_it_stands:
        vit = receive_teacher(shared).to(device)
        seen = (task, "val", shared.preprocessing)
        untrained = top1(vit, *seen, device=device, processes=processes, amp=job.config.dense.amp)
    else:
        vit = slim.extract(checkpoint, architecture).to(device)
        calibration = receive_calibration(task, job, device)
        untrained = repaired_top1(vit, calibration, task, shared.preprocessing, options.amp)
    latency, limit = measured_latency(vit, job.config), job.config.max_latency_ms
    if latency is not None:
        latency = processes.sums([latency], device)[0] / processes.world_size
        figures["latency_ms"] = latency
    prepared = time.monotonic() - started
    first = _progress(0, untrained, prepared)
    if as_it_stands:
        if processes.rank == 0:
            slim.save(vit, job.models / name, _about(number, budget, task, job, figures | first))
        yield figures | first | {"whole": True}
        return
    if latency is not None and limit is not None and latency > limit and number and not repeat:
        reason = f"{latency:.4g} ms an image, more than --max-latency-ms {limit:g}"
        yield figures | first | {"pruned": reason}
        return
    yield figures | first
    teacher = receive_teacher(shared).to(device)
    training = fine_tuning(vit, teacher, task, job, repeat)
    state = job.states / name / "training.pt"
    for epoch in training.resumable_epochs(state, stop_requested=watch(job.stop)):
        if epoch.epoch < options.epochs:
            yield figures | _course(training, prepared)
    course = _course(training, prepared)
    if processes.rank == 0:
        about = _about(number, budget, task, job, figures | course)
        slim.save(training.evaluated, job.models / name, about)
    if training.accumulation > options.accumulation:
        figures["accumulation"] = training.accumulation
    yield figures | course


def fine_tuning(
    vit: nn.Module, teacher: nn.Module, task: Task, job: TrialJob, repeat: int
) -> Training:
    """The training of a network at its own budget, distilled from the dense model.

    All trials see the same images in the same order, so that what the dense model says of these
    can be kept; a repeat sees others.
    """
    options = job.config.finetune
    objective: Objective = cross_entropy
    if options.distillation:
        followed = KeptOutputs(teacher, job.outputs) if job.outputs is not None else teacher
        objective = distill_from(followed, options.distillation, options.temperature)
    return Training(
        vit,
        task,
        job.shared.preprocessing,
        options.recipe(Processes.current().world_size),
        objective,
        seed=job.config.seed * 1_000_003 + repeat * 10_007,
        device=worker_device(),
    )


def keeps_outputs(config: SweepConfig, task: Task) -> bool:
    """Whether the dense model's outputs for what all trials see are small enough to be kept."""
    options = config.finetune
    images = task.size("train") * options.epochs * config.repeats
    together = options.batch_size // (options.accumulation * config.workers_per_trial)
    needed = kept_bytes(images, task.num_classes, max(1, together))
    return bool(options.distillation) and needed <= config.kept_outputs_gb * 1e9


def receive_calibration(task: Task, job: TrialJob, device: str) -> Calibration | None:
    """What a run's networks are repaired towards; None where none are.

    A process makes it once, if the dense model's streams are small enough to be kept.
    """
    config, shared = job.config, job.shared
    if not config.finetune.repair_images:
        return None
    made_for = (shared.teacher.hex(), device, config.seed, str(config.finetune))
    if made_for in _calibrations:
        return _calibrations[made_for]
    _calibrations.clear()
    teacher = receive_teacher(shared).to(device)
    calibration = calibration_for(config, teacher, task, shared.preprocessing)
    if calibration.kept_bytes:
        _calibrations[made_for] = calibration
    return calibration


def measured_latency(vit: nn.Module, config: SweepConfig) -> float | None:
    """Milliseconds of one image, where a limit asks for it.

    The low quantile: workers run beside each other, which the median would tell more of.
    """
    return slim.latency(vit).low_ms if config.max_latency_ms is not None else None


def _about(
    number: int, budget: slim.Budget, task: Task, job: TrialJob, figures: dict[str, Any]
) -> dict[str, Any]:
    """What is kept beside a trial's network."""
    names = ("val_top1", "epochs", "seconds", "latency_ms")
    return {
        "trial": number,
        "budget": {"tokens": budget.tokens, "mhsa": budget.mhsa, "mlp": budget.mlp},
        **{name: figures[name] for name in names if name in figures},
        "data": task.fingerprint(),
        "preprocessing": job.shared.preprocessing.to_json(),
        "class_names": list(task.classes),
    }


def _course(training: Training, prepared: float) -> dict[str, Any]:
    """What is known after an epoch, of those before an interruption too."""
    curve = [epoch.val_top1 for epoch in training.history]
    seconds = prepared + sum(epoch.seconds for epoch in training.history)
    return _progress(len(curve), curve[-1], seconds) | {"curve": curve}


def _progress(epochs: int, accuracy: float, seconds: float) -> dict[str, Any]:
    """What changes from epoch to epoch."""
    return {"epochs": epochs, "val_top1": accuracy, "seconds": seconds}
