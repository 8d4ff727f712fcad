"""The stage after the search: one training whose weights serve every budget."""

from collections.abc import Iterator
from pathlib import Path

import slim
from slim.processes import Processes
from slim.sharing import SharedModel, sandwich
from slim.tasks import Task
from slim.training import Epoch, Training
from sweeps.config import SweepConfig
from sweeps.course import course
from sweeps.dense import saved_preprocessing
from sweeps.space import smallest_budget
from sweeps.worker import worker_device


def share_weights(
    config: SweepConfig, task: Task, dense_folder: Path, search: Path, folder: Path, state: Path
) -> Iterator[Epoch]:
    """Train the searched weights for all budgets at once and save them as a mask checkpoint.

    Args:
        config: The experiment; budgets are those of its space.
        task: The source task.
        dense_folder: The dense model, which teaches.
        search: The mask checkpoint of the search, which ranks.
        folder: Where the trained checkpoint is saved.
        state: File of the training's state, for resuming.
    """
    device, processes = worker_device(), Processes.current()
    options = config.share
    searched = slim.MaskCheckpoint.load(search)
    shared = SharedModel(searched)
    smallest = smallest_budget(config.space)
    objective = sandwich(
        slim.load(dense_folder).to(device),
        smallest,
        options.networks,
        options.distillation,
        options.temperature,
    )
    training = Training(
        shared,
        task,
        saved_preprocessing(dense_folder),
        options.recipe(processes.world_size),
        objective,
        seed=config.seed,
        device=device,
    )
    yield from course(training, state)
    if processes.rank:
        return
    trained = training.evaluated
    assert isinstance(trained, SharedModel)
    metrics = {"val_top1": training.history[-1].val_top1, "epochs": options.epochs}
    trained.checkpoint(searched.data, metrics).save(folder)
