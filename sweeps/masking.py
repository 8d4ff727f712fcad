"""The second stage: the mask search on the dense model."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

import slim
from slim.distillation import distill_from
from slim.importance import taylor
from slim.masks import as_timm
from slim.processes import Processes
from slim.search import search_training
from slim.tasks import Task
from slim.training import Epoch, Objective, cross_entropy
from sweeps.config import SweepConfig
from sweeps.course import course
from sweeps.dense import saved_preprocessing
from sweeps.worker import worker_device


def search_masks(
    config: SweepConfig, task: Task, dense_folder: Path, folder: Path, state: Path
) -> Iterator[Epoch]:
    """Search masks and save the mask checkpoint, with an `Epoch` after each epoch.

    Args:
        config: The experiment.
        task: The source task.
        dense_folder: The dense model.
        folder: Where the mask checkpoint is saved.
        state: File of the training's state, for resuming.
    """
    device, processes = worker_device(), Processes.current()
    torch.manual_seed(config.seed)
    dense = slim.load(dense_folder).to(device)
    preprocessing = saved_preprocessing(dense_folder)
    options = config.search
    masked = slim.attach_masks(as_timm(dense), options.token_mask)
    objective: Objective = cross_entropy
    if options.distillation:
        objective = distill_from(dense, options.distillation, options.temperature)
    training = search_training(
        masked,
        task,
        preprocessing,
        options.recipe(processes.world_size),
        options.penalty,
        options.mask_lr,
        objective,
        seed=config.seed,
        device=device,
    )
    yield from course(training, state)
    accuracy = training.history[-1].val_top1
    if processes.rank:
        return
    searched = training.evaluated
    assert isinstance(searched, slim.MaskedModel)
    checkpoint = slim.MaskCheckpoint.from_model(
        searched,
        data=task.fingerprint() | {"preprocessing": preprocessing.to_json()},
        metrics={"val_top1": accuracy, "epochs": options.epochs},
    )
    if options.score == "taylor":
        batches = task.calibration_batches(
            preprocessing,
            options.recipe().augmentation,
            options.images_at_once,
            options.score_images,
            config.seed,
        )
        scores = taylor(checkpoint.masked_model().to(device), batches, objective)
        checkpoint = replace(checkpoint, scores=scores.map(Tensor.cpu))
    checkpoint.save(folder)
