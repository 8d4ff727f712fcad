"""Carrying the front to other tasks: each network, with a new head, fine-tuned on each task."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import slim
from slim.evaluation import top1
from slim.files import write_text_atomic
from slim.heads import with_new_head
from slim.subnetwork import architecture_of
from slim.tasks import EMBEDDED, Task, load_task
from slim.tasks.catalog import fashion_mnist_is_present
from slim.training import Training
from sweeps.config import SweepConfig
from sweeps.dense import saved_preprocessing
from sweeps.errors import InputError
from sweeps.stopping import watch
from sweeps.trials import TransferRow
from sweeps.worker import worker_device

METHOD = "finetune"


@dataclass(frozen=True)
class TransferJob:
    """One network on one task.

    Args:
        task: Name of the task.
        trial: Trial number as text, or `dense`.
        seed: Of this repeat.
        model: Folder of the saved network.
    """

    task: str
    trial: str
    seed: int
    model: Path

    @property
    def key(self) -> str:
        """A file name of its own."""
        safe = "".join(c if c.isalnum() else "-" for c in self.task)
        return f"{safe}_{self.trial}_{self.seed}"


def transfer_tasks(config: SweepConfig) -> list[Task]:
    """Load the tasks that the configuration names.

    Raises:
        InputError: If one is unknown or unusable.
    """
    if config.tasks == "none":
        return []
    names = [name.strip() for name in config.tasks.split(",")]
    if config.tasks == "auto":
        names = [name for name in EMBEDDED if name not in (config.data, "mnist")]
        names += ["fashion-mnist"] if fashion_mnist_is_present() else []
        names = [name for name in names if name != config.data]
    try:
        return [load_task(name) for name in names]
    except slim.TaskError as error:
        raise InputError(f"--tasks: {error}") from error


def plan_transfer(
    tasks: list[Task], front: list[int], models: Path, dense: Path, seeds: int
) -> list[TransferJob]:
    """The dense model and each network of the front, on each task, for each seed."""
    networks = [("dense", dense)] + [(str(number), models / str(number)) for number in front]
    return [
        TransferJob(task.name, trial, seed, folder)
        for task in tasks
        for trial, folder in networks
        for seed in range(seeds)
    ]


def run_transfer(
    job: TransferJob, task: Task, config: SweepConfig, results: Path
) -> tuple[TransferRow, list[float], float]:
    """Fine-tune one network on one task, on a worker.

    Returns:
        The row, val top-1 after each epoch, and seconds; also written to `results`, so that a
        resumed run does not train it again.
    """
    options, device = config.transfer, worker_device()
    seed = config.seed * 1_000_003 + job.seed
    torch.manual_seed(seed)
    preprocessing = saved_preprocessing(job.model)
    vit = with_new_head(slim.load(job.model), task.num_classes)
    cost = slim.count(architecture_of(vit))
    training = Training(vit, task, preprocessing, options.recipe(), seed=seed, device=device)
    state = results / f"{job.key}.pt"
    for _ in training.resumable_epochs(state, stop_requested=watch(results.with_name("stop"))):
        pass
    epochs = training.history
    test = top1(training.evaluated, task, "test", preprocessing, device=device)
    row = TransferRow(
        task=job.task,
        trial=job.trial,
        method=METHOD,
        seed=job.seed,
        gmacs=cost.macs / 1e9,
        params_m=cost.params / 1e6,
        val_top1=epochs[-1].val_top1,
        test_top1=test,
    )
    curve, seconds = [e.val_top1 for e in epochs], sum(e.seconds for e in epochs)
    results.mkdir(parents=True, exist_ok=True)
    kept = {"row": asdict(row), "curve": curve, "seconds": seconds}
    write_text_atomic(results / f"{job.key}.json", json.dumps(kept))
    state.unlink(missing_ok=True)
    return row, curve, seconds


def finished_transfer(
    job: TransferJob, results: Path
) -> tuple[TransferRow, list[float], float] | None:
    """What an earlier session of this run left of a job."""
    path = results / f"{job.key}.json"
    if not path.is_file():
        return None
    kept: dict[str, Any] = json.loads(path.read_text())
    return TransferRow(**kept["row"]), kept["curve"], kept["seconds"]
