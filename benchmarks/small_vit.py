"""A small ViT per seed, searched and trained with shared weights, for the benchmarks of judging.

    python benchmarks/small_vit.py --seeds 0 1 2

trains the models of each seed and keeps them, so that the benchmarks after it find them. The model
is what `--model vit` builds: 16 tokens, 64 wide, 6 deep, no CLS token. It learns from 10,000
images of Fashion-MNIST; 3,000 further ones, which no decision sees, stand in for a test split.
Needs Debian's dataset-fashion-mnist, or its four files in the folder given by --data.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fashion import MASK_LR, PENALTY, RECIPE, SEARCH_RECIPE, arguments, console, preprocessing_of
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import slim
from slim.distillation import distill_from
from slim.evaluation import top1
from slim.masks import as_timm
from slim.recipe import Recipe
from slim.search import search_training
from slim.sharing import SharedModel, sandwich
from slim.tasks import ArrayTask
from slim.tasks.catalog import FASHION_CLASSES, read_fashion_mnist
from slim.training import Objective, Training
from sweeps.front import covered

TRAIN, VAL, HELD_OUT = 10_000, 2_500, 3_000
SMALLEST = slim.Budget(0.3, 0.15, 0.1)  # of a space narrower than the default's
DENSE_RECIPE = replace(RECIPE, epochs=8)
SEARCH_EPOCHS = 2
SHARE_RECIPE = replace(
    RECIPE, epochs=4, lr=1e-3, weight_decay=0.02, warmup_epochs=0.2, label_smoothing=0.0
)


def options_of(description: str | None) -> argparse.ArgumentParser:
    """The options of all benchmarks on this model."""
    parser = arguments(description)
    parser.set_defaults(folder=Path("runs/benchmarks/small_vit"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser


def small_task(data: Path) -> ArrayTask:
    """10,000 images to train, 2,500 to validate, 3,000 held out in the place of the test split."""
    images, labels = read_fashion_mnist(data)
    task = ArrayTask.stratified("fashion-mnist", images, labels, FASHION_CLASSES)
    shuffled = np.random.default_rng(0).permutation(task.splits["train"])
    task.splits["train"] = np.sort(shuffled[:TRAIN])
    task.splits["test"] = np.sort(shuffled[TRAIN : TRAIN + HELD_OUT])
    task.splits["val"] = np.random.default_rng(0).permutation(task.splits["val"])[:VAL]
    return task


def small_dense(task: ArrayTask, folder: Path, seed: int) -> VisionTransformer:
    """The dense model of a seed, trained if it is not there yet."""
    saved = folder / f"dense-{seed}"
    if not (saved / "config.json").is_file():
        torch.manual_seed(seed)
        vit = VisionTransformer(
            img_size=28,
            patch_size=7,
            in_chans=1,
            num_classes=10,
            embed_dim=64,
            depth=6,
            num_heads=4,
            class_token=False,
            global_pool="avg",
        )
        training = Training(vit, task, preprocessing_of(task), DENSE_RECIPE, seed=seed)
        train(training, saved.with_suffix(".pt"))
        slim.save(vit, saved, {"seed": seed})
    return slim.load(saved)


def small_search(task: ArrayTask, folder: Path, seed: int) -> slim.MaskCheckpoint:
    """The mask search on the dense model of a seed."""
    saved = folder / f"search-{seed}"
    if not (saved / "checkpoint.json").is_file():
        dense = small_dense(task, folder, seed)
        masked = slim.attach_masks(as_timm(dense))
        recipe = replace(SEARCH_RECIPE, epochs=SEARCH_EPOCHS)
        objective = distill_from(dense, 0.7, 2.0)
        given = (masked, task, preprocessing_of(task), recipe, PENALTY, MASK_LR, objective, seed)
        train(search_training(*given), saved.with_suffix(".pt"))
        slim.MaskCheckpoint.from_model(masked).save(saved)
    return slim.MaskCheckpoint.load(saved)


def small_shared(task: ArrayTask, folder: Path, seed: int) -> slim.MaskCheckpoint:
    """The weights that all budgets of a seed share, as the sweep trains them."""
    saved = folder / f"shared-{seed}"
    if not (saved / "checkpoint.json").is_file():
        objective = sandwich(small_dense(task, folder, seed), SMALLEST)
        search = small_search(task, folder, seed)
        share(search, task, objective, SHARE_RECIPE, seed, saved)
    return slim.MaskCheckpoint.load(saved)


def share(
    search: slim.MaskCheckpoint,
    task: ArrayTask,
    objective: Objective,
    recipe: Recipe,
    seed: int,
    saved: Path,
) -> None:
    """Train searched weights for all budgets, and save them."""
    model = SharedModel(search)
    training = Training(model, task, preprocessing_of(task), recipe, objective, seed)
    train(training, saved.with_suffix(".pt"))
    model.checkpoint().save(saved)


def train(training: Training, state: Path) -> None:
    """Train to the end, from where an interruption left the state; then drop the state."""
    state.parent.mkdir(parents=True, exist_ok=True)
    for epoch in training.resumable_epochs(state):
        console.print(
            f"{state.stem}: epoch {epoch.epoch} of {training.recipe.epochs}, "
            f"val {epoch.val_top1:.2f} %, {epoch.seconds:.0f} s"
        )
    state.unlink()


def accuracy_on(vit: nn.Module, task: ArrayTask, split: str) -> float:
    """Top-1 in percent."""
    return top1(vit, task, split, preprocessing_of(task))


def dense_gmacs(checkpoint: slim.MaskCheckpoint) -> float:
    return slim.count(slim.Architecture.dense(checkpoint.spec)).macs / 1e9


def hypervolume(networks: Sequence[tuple[float, float]], dense: float) -> float:
    """Percent of the box between chance at 1.1 times the dense MACs and 100 % at no cost.

    Args:
        networks: Top-1 (%) and GMACs of each.
        dense: GMACs of the dense network.
    """
    return covered(networks, 100 / len(FASHION_CLASSES), dense)


def mean_and_error(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """Mean and standard error over seeds of every figure, as text."""
    groups = frame.groupby(by, sort=False)
    figures = [c for c in frame.select_dtypes("number").columns if c != "seed"]
    rows = []
    for name, group in groups:
        mean, error = group[figures].mean(), group[figures].sem()
        told = {f: f"{mean[f]:.2f} ± {error[f]:.2f}" for f in figures}
        rows.append({by: name, "seeds": len(group), **told})
    return pd.DataFrame(rows)


def main() -> None:
    options = options_of(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    task = small_task(options.data)
    for seed in options.seeds:
        small_shared(task, options.folder, seed)


if __name__ == "__main__":
    main()
