"""What the parts of orchestration.py share: networks, and the beginning of a run."""

from pathlib import Path

import torch

import slim
from slim.serving import load_about
from slim.tasks import load_task
from sweeps.broadcast import broadcast
from sweeps.config import SweepConfig
from sweeps.dense import make_dense, preprocessing_for, saved_preprocessing
from sweeps.run_folder import RunFolder
from sweeps.tracking import Tracker
from sweeps.trial import TrialJob


def make_networks(folder: Path, data: str) -> None:
    """A dense model and a mask checkpoint, neither trained: only time is measured."""
    task, config = load_task(data), SweepConfig(data=data)
    torch.manual_seed(0)
    dense = make_dense(config, task)
    about = {"preprocessing": preprocessing_for(config, dense, task).to_json(), "data": data}
    slim.save(dense, folder / "dense", about)
    masked = slim.attach_masks(dense)
    masked.set_masks(masked.masks().map(torch.rand_like))
    slim.MaskCheckpoint.from_model(masked).save(folder / "search")


def data_of(folder: Path) -> str:
    """The name of the task that networks were made for."""
    return str(load_about(folder / "dense")["data"])


def begin(folder: Path, config: SweepConfig, name: str) -> tuple[RunFolder, Tracker, TrialJob]:
    """A run's folder, its tracker, and what its workers get."""
    run = RunFolder.create(config, name)
    run.state.mkdir(exist_ok=True)
    tracker = Tracker(config.tracking_uri, run.path)
    tracker.begin(name)
    dense, task = slim.load(folder / "dense"), load_task(config.data)
    preprocessing = saved_preprocessing(folder / "dense")
    shared = broadcast(checkpoint_of(folder), dense, task, preprocessing)
    return run, tracker, TrialJob(config, shared, run.models, run.state / "trials", run.stop)


def checkpoint_of(folder: Path) -> slim.MaskCheckpoint:
    return slim.MaskCheckpoint.load(folder / "search")
