"""Trainings that two processes run together, and that one runs alone with twice the batch.

Run as `python -m tests.slim.two_processes FOLDER RANK`, it leaves `FOLDER/RANK.pt`: what every
scenario gave.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

import slim.training
from slim import SlimError, attach_masks
from slim.recipe import Recipe
from slim.search import Penalty, penalty_of, search_training
from slim.tasks import Augmentation
from slim.training import Training, cross_entropy
from tests.slim.bars import PREPROCESSING, bars, copy_of, tiny_vit
from tests.slim.trainings import curve, networks

# SGD: Adam would hide a gradient that is too large by a factor.
RECIPE = Recipe(
    epochs=2,
    batch_size=16,
    opt="sgd",
    lr=0.05,
    clip_grad=0.0,
    layer_decay=0.8,
    label_smoothing=0.1,
    mixup=0.4,
    cutmix=0.6,
    ema_decay=0.7,
    augmentation=Augmentation(affine=True, hflip=0.3, aug_repeats=2),
)
PENALTY = Penalty(1.0, 2.0, 3.0)
Results = dict[str, Any]


def train(recipe: Recipe, model: nn.Module | None = None, **options: Any) -> Training:
    return Training(model or tiny_vit(), bars(), PREPROCESSING, recipe, seed=3, **options)


def results_of(training: Training) -> Results:
    """What is left of a training that has ended."""
    return {
        "curve": curve(training),
        "model": copy_of(training.model),
        "evaluated": copy_of(training.evaluated),
    }


def plain(recipe: Recipe) -> Results:
    training = train(replace(recipe, clip_grad=0.1))
    list(training.epochs())
    return results_of(training)


def small(recipe: Recipe) -> Results:
    training = train(recipe, networks()["small"])
    list(training.epochs())
    return results_of(training)


def orthogonal(recipe: Recipe) -> Results:
    """The default's optimizer, whose rounding is too coarse to compare with one process alone."""
    training = train(replace(recipe, opt="muon", lr=0.01))
    list(training.epochs())
    return results_of(training)


def masked(recipe: Recipe) -> Results:
    model, penalties = attach_masks(tiny_vit()), []
    training = search_training(model, bars(), PREPROCESSING, recipe, PENALTY, mask_lr=0.2, seed=3)
    clamp = training.after_step

    def clamp_and_note() -> None:
        clamp()
        penalties.append(float(penalty_of(model, PENALTY).detach()))

    training.after_step = clamp_and_note
    list(training.epochs())
    return results_of(training) | {"penalties": penalties}


def masked_in_parts(recipe: Recipe) -> Results:
    return masked(replace(recipe, accumulation=2, grad_checkpointing=True))


SAME_AS_ALONE: dict[str, Callable[[Recipe], Results]] = {
    "plain": plain,
    "small": small,
    "masked": masked,
    "masked_in_parts": masked_in_parts,
}


def with_dropout(recipe: Recipe, rank: int) -> Results:
    """Processes that start from other weights and drop other units."""
    drawn: list[Tensor] = []

    def noting(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        drawn.append(torch.rand(3))
        return cross_entropy(model, images, targets)

    model = attach_masks(tiny_vit(seed=rank, drop_rate=0.2))
    training = search_training(
        model, bars(), PREPROCESSING, replace(recipe, drop_path=0.3), PENALTY, 0.02, noting
    )
    list(training.epochs())
    return results_of(training) | {"drawn": drawn}


def stopped(recipe: Recipe, rank: int, folder: Path) -> Results:
    """One process alone is asked to stop, after the seventh step; then both go on."""
    writes: list[Path] = []
    write = slim.training.write_state

    def noting(path: Path, state: dict[str, Any]) -> None:
        writes.append(path)
        write(path, state)

    slim.training.write_state = noting
    recipe = replace(recipe, clip_grad=0.1)
    left = iter(range(7))
    asked = error_of(
        lambda: list(
            train(recipe).resumable_epochs(
                folder / "training.pt",
                stop_requested=lambda: rank == 1 and next(left) == 6,
            )
        )
    )
    distributed.barrier()
    resumed = train(recipe, tiny_vit(seed=9))
    list(resumed.resumable_epochs(folder / "training.pt"))
    slim.training.write_state = write
    return results_of(resumed) | {"error": asked, "writes": len(writes)}


def diverged(recipe: Recipe, rank: int) -> Results:
    """The loss is not finite in the second process alone."""

    def objective(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(model, images, targets) * (math.nan if rank == 1 else 1.0)

    return {"error": error_of(lambda: list(train(recipe, objective=objective).epochs()))}


def unseen(recipe: Recipe, rank: int, folder: Path) -> Results:
    """A state that the second process does not see."""
    path = folder / ("training.pt" if rank == 0 else "elsewhere.pt")
    return {"error": error_of(lambda: list(train(recipe).resumable_epochs(path)))}


def error_of(act: Callable[[], object]) -> str:
    try:
        act()
    except SlimError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=timedelta(minutes=5),
    )
    half = replace(RECIPE, batch_size=RECIPE.batch_size // 2)
    results = {name: run(half) for name, run in SAME_AS_ALONE.items()}
    results["orthogonal"] = orthogonal(half)
    results["with_dropout"] = with_dropout(half, rank)
    results["stopped"] = stopped(half, rank, folder)
    results["unseen"] = unseen(replace(half, clip_grad=0.1), rank, folder)
    results["diverged"] = diverged(half, rank)
    torch.save(results, folder / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
