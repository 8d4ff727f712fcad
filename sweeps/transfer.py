"""Carrying the front to other tasks: each network, with a new head, trained on each task."""

import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import slim
from slim.evaluation import top1
from slim.files import write_text_atomic
from slim.fresh import with_fresh_weights
from slim.heads import with_new_head
from slim.recipe import Recipe
from slim.subnetwork import architecture_of
from slim.tasks import EMBEDDED, Preprocessing, Task, load_task
from slim.tasks.animals import animals_are_present
from slim.tasks.catalog import FASHION_NAME, fashion_mnist_is_present, is_fashion_mnist
from slim.training import Training
from sweeps.config import SweepConfig
from sweeps.dense import saved_preprocessing
from sweeps.errors import InputError
from sweeps.run_folder import RunFolder
from sweeps.stopping import watch
from sweeps.trials import TransferRow
from sweeps.worker import worker_device

Transferred = tuple[TransferRow, list[float], float]
"""The row, val top-1 (percent) after each epoch, and seconds of training."""
METHODS = ("finetune", "probe", "scratch")
DENSE = "dense"


@dataclass(frozen=True)
class TransferJob:
    """One network on one task.

    Args:
        task: Name of the task.
        trial: Trial number as text, or `dense`.
        method: One of METHODS.
        seed: Of this repeat.
        model: Folder of the saved network.
        results: Folder of all results.
    """

    task: str
    trial: str
    method: str
    seed: int
    model: Path
    results: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """What it reads and writes."""
        return (self.model, self.state, self.result)

    @property
    def state(self) -> Path:
        """The state of its training, until that has ended."""
        return self.results / f"{self.key}.pt"

    @property
    def result(self) -> Path:
        """What it gave, so that a resumed run does not train it again."""
        return self.results / f"{self.key}.json"

    @property
    def key(self) -> str:
        """A file name of its own."""
        safe = "".join(c if c.isalnum() else "-" for c in self.task)
        apart = "" if safe == self.task else f"-{zlib.crc32(self.task.encode()):08x}"
        method = "" if self.method == METHODS[0] else f"_{self.method}"
        return f"{safe}{apart}_{self.trial}_{self.seed}{method}"


def transfer_methods(config: SweepConfig) -> list[str]:
    """The methods that the configuration names, each once.

    Raises:
        InputError: If one is unknown.
    """
    methods = list(dict.fromkeys(name.strip() for name in config.transfer.methods.split(",")))
    for method in methods:
        if method not in METHODS:
            raise InputError(f"--transfer.methods {method!r} is not one of {', '.join(METHODS)}")
    return methods


def transfer_tasks(config: SweepConfig) -> list[Task]:
    """Load the tasks that the configuration names, each once.

    Raises:
        InputError: If one is unknown or unusable.
    """
    if config.tasks == "none":
        return []
    names = [name.strip() for name in config.tasks.split(",")]
    if config.tasks == "auto":
        names = tasks_beside(config.data)
    elif mixed := {"auto", "none"}.intersection(names):
        raise InputError(f"--tasks {config.tasks}: give {mixed.pop()} alone, or names without it")
    try:
        return [load_task(name, config.download) for name in dict.fromkeys(names)]
    except slim.TaskError as error:
        raise InputError(f"--tasks: {error}") from error


def tasks_beside(data: str) -> list[str]:
    """The embedded tasks that are here and have none of the source task's images.

    None where the source task is not embedded itself: a network of larger images in colour has
    nothing to show on these.
    """
    source = data.partition(":")[0]
    source = FASHION_NAME if is_fashion_mnist(source) else source
    if source not in (*EMBEDDED, FASHION_NAME, "animal-mnist"):
        return []
    names = [name for name in EMBEDDED if name != "mnist"]
    names += [FASHION_NAME] if fashion_mnist_is_present() else []
    names += ["animal-mnist"] if animals_are_present() else []
    return [name for name in names if name != source]


def plan_transfer(
    tasks: list[Task], front: list[int], folder: RunFolder, config: SweepConfig
) -> list[TransferJob]:
    """The dense model and each network of the front, on each task, by each method and seed."""
    networks = [(DENSE, folder.dense)]
    networks += [(str(number), folder.models / str(number)) for number in front]
    return [
        TransferJob(task.name, trial, method, seed, network, folder.transfers)
        for task in tasks
        for trial, network in networks
        for method in transfer_methods(config)
        for seed in range(config.transfer.seeds)
    ]


def run_transfer(
    job: TransferJob, task: Task, config: SweepConfig
) -> Iterator[Transferred | None]:
    """Train one network on one task, on a worker; yields None after each epoch, then the result.

    It is written to the job's file too.
    """
    device = worker_device()
    seed = config.seed * 1_000_003 + job.seed
    torch.manual_seed(seed)
    saved = saved_preprocessing(job.model)
    preprocessing = preprocessing_on(task, saved, config.transfer.img_size)
    vit = network_for(job, task.num_classes, preprocessing.input_size)
    cost = slim.count(architecture_of(vit))
    recipe = recipe_for(job, config)
    training = Training(vit, task, preprocessing, recipe, seed=seed, device=device)
    stop = watch(job.results.with_name("stop"))
    for _ in training.resumable_epochs(job.state, stop_requested=stop):
        yield None
    epochs = training.history
    test = top1(training.evaluated, task, "test", preprocessing, device=device)
    row = TransferRow(
        task=job.task,
        trial=job.trial,
        method=job.method,
        seed=job.seed,
        gmacs=cost.macs / 1e9,
        params_m=cost.params / 1e6,
        val_top1=epochs[-1].val_top1,
        test_top1=test,
    )
    curve, seconds = [e.val_top1 for e in epochs], sum(e.seconds for e in epochs)
    kept = {"row": asdict(row), "curve": curve, "seconds": seconds, "data": task.fingerprint()}
    write_text_atomic(job.result, json.dumps(kept))
    yield row, curve, seconds


def preprocessing_on(task: Task, saved: Preprocessing, img_size: int | None) -> Preprocessing:
    """What a network expects of a task's images, once it is adapted to them.

    Grey images are given to a network of three channels as such of equal ones, which loses
    nothing. Images of three channels widen a network of one; its normalisation is then the task's.

    Args:
        task: Whose images they are.
        saved: What the network was saved with.
        img_size: Height and width to adapt it to; None for what it was saved with.
    """
    channels, height, width = saved.input_size
    mean, std = saved.mean, saved.std
    if task.channels > channels:
        channels, (mean, std) = task.channels, task.statistics()
    size = (height, width) if img_size is None else (img_size, img_size)
    return replace(saved, input_size=(channels, *size), mean=mean, std=std)


def network_for(
    job: TransferJob, num_classes: int, input_size: tuple[int, int, int] | None = None
) -> nn.Module:
    """The network that a job starts from, with a head for the task's classes.

    Args:
        job: Which it is, and how it is trained.
        num_classes: Of the task.
        input_size: Of the images (C, H, W); None for those that it was saved for.
    """
    vit = slim.load(job.model)
    if input_size in (None, vit.input_size):
        vit = with_new_head(vit, num_classes)
    else:
        vit = slim.adapt(vit, input_size, num_classes).train()
    if job.method == "scratch":
        return with_fresh_weights(vit)
    if job.method == "probe":
        heads = {id(p) for p in _head_parameters(vit)}
        for parameter in vit.parameters():
            parameter.requires_grad_(id(parameter) in heads)
    return vit


def recipe_for(job: TransferJob, config: SweepConfig) -> Recipe:
    """How a job trains: a linear classifier and fresh weights take learning rates of their own."""
    recipe = config.transfer.recipe()
    if job.method == "probe":
        return replace(recipe, lr=config.transfer.probe_lr, layer_decay=1.0, drop_path=0.0)
    if job.method == "scratch":
        return replace(recipe, lr=config.transfer.scratch_lr)
    return recipe


def _head_parameters(vit: Any) -> list[nn.Parameter]:
    """Weights and biases of the classifier, or of both where there are two."""
    heads = vit.get_classifier()
    each = heads if isinstance(heads, tuple) else (heads,)
    return [parameter for head in each for parameter in head.parameters()]


def finished_transfer(job: TransferJob) -> Transferred | None:
    """What an earlier session of this run left of a job."""
    if not job.result.is_file():
        return None
    kept: dict[str, Any] = json.loads(job.result.read_text())
    return TransferRow(**kept["row"]), kept["curve"], kept["seconds"]
