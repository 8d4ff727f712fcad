"""Networks before any training of their own: extracted and repaired."""

from typing import Any

import torch
from torch import nn

from slim.calibration import Calibration
from slim.evaluation import top1
from slim.processes import Processes
from slim.repair import repair_towards
from slim.spec import read_spec
from slim.tasks import Preprocessing, Task
from sweeps.config import SweepConfig

_KEPT_STREAMS = 256 * 1024**2  # bytes of the dense model's streams, in each process that repairs


def calibration_for(
    config: SweepConfig, teacher: nn.Module, task: Task, preprocessing: Preprocessing
) -> Calibration:
    """What the networks of a run are repaired towards.

    Args:
        config: The run's.
        teacher: The dense model, on the device of the networks.
        task: The source task.
        preprocessing: What the networks expect of an image.
    """
    options = config.finetune
    distorted = options.recipe().augmentation
    batches = task.calibration_batches(
        preprocessing, distorted, options.images_at_once, options.repair_images, config.seed
    )
    return Calibration(teacher, (images for images, _ in batches), _KEPT_STREAMS)


def calibration_images(config: SweepConfig, task: Task) -> int:
    """Images that `calibration_for` takes: whole batches, at most one epoch."""
    batch_size = config.finetune.images_at_once
    batches = -(-int(config.finetune.repair_images or 0) // batch_size)
    return min(batches, task.steps_per_epoch(batch_size)) * batch_size


def judged_images(config: SweepConfig, task: Task) -> int:
    """Images of val that a judged network is evaluated on."""
    return min(task.size("val"), config.judge.images or task.size("val"))


def images_before_training(
    config: SweepConfig, model: Any, task: Task, val: int
) -> tuple[int, int]:
    """Images that are seen for each network before any training of its own.

    Args:
        config: The run's.
        model: Shaped as the dense one.
        task: The source task.
        val: Images of val that it is evaluated on.

    Returns:
        By the network, which is repaired and evaluated; by the dense model, whose streams may be
        kept.
    """
    repaired = calibration_images(config, task)
    if not repaired:
        return val, 0
    image = torch.zeros(1, *read_spec(model).input_size)
    one = Calibration(model, [image], _KEPT_STREAMS).kept_bytes
    kept = 0 < one * repaired <= _KEPT_STREAMS
    return val + repaired, 0 if kept else repaired


def repaired_top1(
    vit: nn.Module,
    calibration: Calibration | None,
    task: Task,
    preprocessing: Preprocessing,
    amp: str = "none",
    most: int | None = None,
) -> float:
    """Repair a fresh subnetwork towards the dense model, and evaluate it.

    Args:
        vit: The subnetwork; changed in place.
        calibration: The dense model on a few images, on the subnetwork's device; None where
            nothing is repaired.
        task: The source task.
        preprocessing: What the network expects of an image.
        amp: Type of autocast of the evaluation.
        most: Images of val at most, the same for every network; None for all.

    Returns:
        Top-1 on val, in percent.
    """
    if calibration is not None:
        repair_towards(vit, calibration)
    device = next(vit.parameters()).device
    seen, processes = (task, "val", preprocessing), Processes.current()
    return top1(vit, *seen, device=device, processes=processes, amp=amp, most=most)
