"""Training a trial's network on: what the front's networks get once all trials have ended."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import ray

import slim
from slim.files import write_text_atomic
from sweeps.broadcast import receive_teacher
from sweeps.stopping import watch
from sweeps.trial import TrialJob, fine_tuning
from sweeps.worker import worker_device

NETWORK, COURSE = "network", "course.json"
OWN_SEEDS = 500_009  # a training that goes on does not begin with the images it began with


@dataclass(frozen=True)
class Finished:
    """What further training made of a network.

    Args:
        val_top1: At its end.
        epochs: How many it had.
        seconds: It took.
        curve: Top-1 on val after each epoch.
    """

    val_top1: float
    epochs: int
    seconds: float
    curve: list[float]


def finish_network(seed: int, job: TrialJob, source: Path, target: Path) -> Finished:
    """Train a saved network on, on a worker; one that was trained on already is only read.

    Args:
        seed: Its own.
        job: What every trial of the sweep shares.
        source: Folder of the network; left as it is.
        target: A folder in which the trained one is, as `network`, with what is known of it.
    """
    network, course = target / NETWORK, target / COURSE
    if not network.is_dir():
        started, device = time.monotonic(), worker_device()
        vit, task = slim.load(source).to(device), ray.get(job.shared.task)
        teacher = receive_teacher(job.shared).to(device)
        epochs = job.config.finetune.front_epochs
        seed += job.config.seed * 1_000_003 + OWN_SEEDS
        training = fine_tuning(vit, teacher, task, job, epochs, seed)
        state = target / "training.pt"
        for _ in training.resumable_epochs(state, stop_requested=watch(job.stop)):
            pass
        curve = [epoch.val_top1 for epoch in training.history]
        finished = Finished(curve[-1], epochs, time.monotonic() - started, curve)
        write_text_atomic(course, json.dumps(asdict(finished)) + "\n")
        about = slim.serving.load_about(source) | {"val_top1": curve[-1]}
        slim.save(training.evaluated, network, about)
    return Finished(**json.loads(course.read_text()))
