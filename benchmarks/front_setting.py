"""What all arms of front_quality.py share: folder, data, lengths of training, dense models.

Lengths are decided by accuracy on val, not by hand: of a few, ascending, the first that the next
one does not beat by more than the standard error of their difference over the seeds. That of the
dense models is decided on the first seed given, where any rise counts.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import pairwise
from math import isnan
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from fashion import console
from front_points import Point, mean_and_error
from torch import nn

import slim
from slim.evaluation import top1
from slim.files import write_text_atomic
from slim.masks import as_timm
from slim.recipe import Recipe
from slim.tasks import Preprocessing, Task, load_task
from slim.training import Objective, Training, cross_entropy
from sweeps.config import SweepConfig
from sweeps.dense import make_dense, preprocessing_for, saved_preprocessing
from sweeps.stage_config import DenseConfig, VitConfig

TRAIN = 3  # a forward pass and twice that backward
DENSE_LENGTHS = (12, 24, 48)  # times the epochs of a search
RETRAIN_LENGTHS = (1, 2, 4, 6)


@dataclass(frozen=True)
class Setting:
    """What all arms share.

    Args:
        folder: Where results and states are kept.
        data: The task's name.
        epochs: Of a search; other lengths are multiples of it.
        seeds: Each with a dense model of its own.
        jobs: Networks trained at a time, each on one core.
    """

    folder: Path
    data: str
    epochs: int
    seeds: tuple[int, ...]
    jobs: int

    def dense_folder(self, seed: int) -> Path:
        """Where the dense model of a seed is, once its length is decided."""
        return self.dense_draft(seed, int(self.recall("dense_epochs")))

    def dense(self, seed: int) -> nn.Module:
        """The dense model of a seed as timm's own model."""
        return as_timm(slim.load(self.dense_folder(seed)))

    def dense_point(self, seed: int) -> Point:
        """The dense model of a seed as it stands."""
        folder = self.dense_folder(seed)
        about, cost = slim.serving.load_about(folder), slim.count(slim.load(folder).architecture)
        return Point(0, cost.macs / 1e9, about["val_top1"], about["test_top1"], 0, 0.0)

    def preprocessing(self, seed: int) -> Preprocessing:
        """What networks of a seed expect of an image."""
        return saved_preprocessing(self.dense_folder(seed))

    def task(self) -> Task:
        """The data, read once a process."""
        return read_task(self.data)

    def recall(self, name: str) -> Any:
        """A decision of an earlier session, None if there is none."""
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text())["decided"] if path.is_file() else None

    def hold(self, name: str, value: Any) -> None:
        """Keep what lengths are decided with; refuse another value later."""
        path, text = self.folder / f"{name}.json", json.dumps(value) + "\n"
        if not path.is_file():
            if (self.folder / f"{name}_epochs.json").is_file():
                raise SystemExit(f"{path} is missing: another version began it; give --folder")
            write_text_atomic(path, text)
        elif path.read_text() != text:
            raise SystemExit(
                f"{path} has {path.read_text().strip()}, not {text.strip()}, as the folder was "
                "begun with other values; give another --folder"
            )

    def decide(self, name: str, accuracies: Mapping[int, Sequence[float]]) -> int:
        """Keep and return the length that pays, with the accuracies that say so."""
        decided = longest_that_pays(accuracies)
        console.print(f"{name}: {decided}, of top-1 on val {dict(accuracies)}")
        text = json.dumps({"decided": decided, "val_top1": accuracies}, indent=1)
        write_text_atomic(self.folder / f"{name}.json", text + "\n")
        return decided

    def dense_draft(self, seed: int, epochs: int) -> Path:
        """Where the dense model of a seed is that was trained so many epochs."""
        return self.folder / f"dense-{seed}" / str(epochs)


read_task = cache(load_task)


def setting_arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that make a setting, and how many networks the default trains in it."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/front_quality"))
    parser.add_argument("--images", type=int, default=10_000, help="split 70 / 15 / 15 %%")
    parser.add_argument("--more", type=int, default=12_000, help="for val and test, half each")
    parser.add_argument("--epochs", type=int, default=5, help="of a search; others are multiples")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--networks", type=int, default=40, help="of the default and the paper")
    parser.add_argument("--jobs", type=int, default=2, help="side by side, one core each")
    return parser


def setting_of(options: argparse.Namespace) -> Setting:
    """What these options ask for."""
    return Setting(
        options.folder.resolve(),
        f"fashion-mnist-{options.images}" + f"+{options.more}" * (options.more > 0),
        options.epochs,
        tuple(options.seeds),
        options.jobs,
    )


def longest_that_pays(accuracies: Mapping[int, Sequence[float]]) -> int:
    """The first length that the next one does not beat by more than the noise between them.

    Args:
        accuracies: By length, ascending: one for each seed.
    """
    lengths = list(accuracies)
    for length, longer in pairwise(lengths):
        if not still_rises(accuracies[length], accuracies[longer]):
            return length
    return lengths[-1]


def still_rises(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether the mean rises by more than the standard error of the paired difference.

    With a single pair that error is unknown, and any rise counts.
    """
    rise, error = mean_and_error([b - a for a, b in zip(before, after, strict=True)])
    return rise > (0.0 if isnan(error) else error)


def train_dense_models(setting: Setting) -> None:
    """Train the dense model of every seed as far as the first one's accuracy rises."""
    recipe = asdict(DenseConfig()) | {"lengths": DENSE_LENGTHS}
    setting.hold("dense", {"data": setting.data, "search_epochs": setting.epochs} | recipe)
    decided = setting.recall("dense_epochs")
    if decided:
        train_dense_drafts(setting, int(decided), setting.seeds)
        return
    accuracies: dict[int, list[float]] = {}
    for epochs in (times * setting.epochs for times in DENSE_LENGTHS):
        first = setting.seeds[0]
        train_dense_drafts(setting, epochs, [first])
        about = slim.serving.load_about(setting.dense_draft(first, epochs))
        accuracies[epochs] = [about["val_top1"]]
        if longest_that_pays(accuracies) != epochs:
            break
    train_dense_drafts(setting, setting.decide("dense_epochs", accuracies), setting.seeds)


def train_dense_drafts(setting: Setting, epochs: int, seeds: Sequence[int]) -> None:
    """Train the dense models of seeds for so many epochs, those that are not there yet."""
    missing = [seed for seed in seeds if not setting.dense_draft(seed, epochs).is_dir()]
    run_jobs(setting, [(train_dense_model, setting, seed, epochs) for seed in missing])


def train_dense_model(setting: Setting, seed: int, epochs: int) -> None:
    """Train a ViT of 16 tokens, 64 wide and 6 deep with 4 heads, by the product's recipe."""
    folder, task = setting.dense_draft(seed, epochs), setting.task()
    torch.manual_seed(seed)
    config = SweepConfig(data=setting.data, vit=VitConfig())
    vit = make_dense(config, task)
    preprocessing = preprocessing_for(config, vit, task)
    recipe = replace(DenseConfig(), epochs=epochs).recipe()
    training = Training(vit, task, preprocessing, recipe, seed=seed)
    for _ in training.resumable_epochs(folder.with_suffix(".pt")):
        pass
    about = {split: top1(vit, task, split, preprocessing) for split in ("val", "test")}
    named = {f"{split}_top1": accuracy for split, accuracy in about.items()}
    kept = {"preprocessing": preprocessing.to_json(), "data": task.fingerprint()}
    slim.save(vit, folder, kept | named)


def train_point(
    setting: Setting,
    seed: int,
    vit: nn.Module,
    path: Path,
    gmacs: float,
    recipe: Recipe,
    teacher_gmacs: float = 0.0,
    objective: Objective = cross_entropy,
) -> None:
    """Train a network alone, and write its point; a network that has one is left as it is.

    Args:
        setting: The benchmark's.
        seed: Of its dense model.
        vit: The network, before training.
        path: Of its point, `NUMBER.json`.
        gmacs: Of the network.
        recipe: How.
        teacher_gmacs: Of what is evaluated beside it in each step.
        objective: The loss.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    task, preprocessing, number = setting.task(), setting.preprocessing(seed), int(path.stem)
    training = Training(
        vit, task, preprocessing, recipe, objective, seed=seed * 1_000_003 + number
    )
    state = path.with_suffix(".pt")
    for _ in training.resumable_epochs(state):
        pass
    seen = training.steps * recipe.batch_size
    each = (TRAIN * gmacs + teacher_gmacs) * seen + gmacs * task.size("val")
    point = Point(
        network=number,
        gmacs=gmacs,
        val_top1=training.history[-1].val_top1,
        test_top1=top1(vit, task, "test", preprocessing),
        epochs=recipe.epochs,
        compute=recipe.epochs * each,
    )
    write_text_atomic(path, json.dumps(asdict(point)) + "\n")
    state.unlink(missing_ok=True)


def read_points(folder: Path) -> tuple[Point, ...]:
    """The points in a folder, by number."""
    found = [Point(**json.loads(path.read_text())) for path in folder.glob("*.json")]
    return tuple(sorted(found, key=lambda point: point.network))


@contextmanager
def _pool(jobs: int) -> Any:
    """Processes of one thread each; what waits is dropped when one fails."""
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _begin_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """One thread, and an end with the benchmark: a killed one leaves no work behind."""
    torch.set_num_threads(1)
    parent = parent_process()
    if parent is not None:
        Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def run_jobs(setting: Setting, jobs: Sequence[tuple[Any, ...]]) -> None:
    """Call functions (function, *arguments) side by side, each on one core."""
    if not jobs:
        return
    with _pool(setting.jobs) as pool:
        waiting = [pool.submit(*job) for job in jobs]
        for done, job in enumerate(as_completed(waiting), 1):
            job.result()
            console.print(f"{jobs[0][0].__name__}: {done} of {len(jobs)}")
