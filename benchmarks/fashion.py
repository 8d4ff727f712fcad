"""What the accuracy benchmarks share: Fashion-MNIST, and a dense ViT trained on it per seed.

    python benchmarks/fashion.py --seed 0

trains the dense model of a seed and keeps it, so that the benchmarks after it find it. Needs
Debian's dataset-fashion-mnist, or its four files in the folder given by --data.
"""

import argparse
from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import slim
from slim.distillation import distill_from
from slim.evaluation import top1
from slim.masks import as_timm
from slim.recipe import Recipe
from slim.search import Penalty, search_training
from slim.tasks import ArrayTask, Augmentation, Preprocessing
from slim.tasks.catalog import FASHION_CLASSES, FASHION_FOLDER, read_fashion_mnist
from slim.training import Training

RECIPE = Recipe(
    epochs=8,
    batch_size=64,
    lr=2e-3,
    warmup_epochs=1.0,
    label_smoothing=0.1,
    augmentation=Augmentation(affine=False, hflip=0.5),
)
RECIPES = (RECIPE, replace(RECIPE, epochs=5, lr=1e-3))  # the second is a warm restart
SEARCH_RECIPE = replace(
    RECIPE, epochs=1, lr=5e-4, weight_decay=1e-3, sched="constant", warmup_epochs=0.0
)
PENALTY, MASK_LR = Penalty(tokens=0.05, mhsa=0.2, mlp=0.2), 5e-3
PAPERS_PENALTY, PAPERS_MASK_LR = Penalty(), 5e-4
console = Console()


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that all accuracy benchmarks take."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=FASHION_FOLDER, help="gzipped IDX files")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"), help="results")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    return parser


def fashion_task(data: Path) -> ArrayTask:
    """The 60,000 training images: 42,000 to train, 3,000 to validate; the rest is not read."""
    images, labels = read_fashion_mnist(data)
    task = ArrayTask.stratified("fashion-mnist", images, labels, FASHION_CLASSES)
    task.splits["val"] = task.splits["val"][::3]
    return task


@cache
def preprocessing_of(task: ArrayTask) -> Preprocessing:
    mean, std = task.statistics()
    return Preprocessing((1, 28, 28), mean, std)


def dense_model(task: ArrayTask, folder: Path, seed: int) -> VisionTransformer:
    """The dense model of a seed (64 wide, 6 deep, 50 tokens), trained if it is not there yet."""
    saved = folder / f"dense-{seed}"
    if not (saved / "config.json").is_file():
        torch.manual_seed(seed)
        vit = VisionTransformer(
            img_size=28,
            patch_size=4,
            in_chans=1,
            num_classes=10,
            embed_dim=64,
            depth=6,
            num_heads=4,
        )
        preprocessing = preprocessing_of(task)
        for part, recipe in enumerate(RECIPES):
            training = Training(vit, task, preprocessing, recipe, seed=seed + 1000 * part)
            for epoch in training.resumable_epochs(folder / f"dense-{seed}-{part}.pt"):
                console.print(
                    f"dense {seed}, part {part + 1}: epoch {epoch.epoch} of {recipe.epochs}, "
                    f"val {epoch.val_top1:.2f} %"
                )
        accuracy = top1(vit, task, "val", preprocessing)
        slim.save(vit, saved, {"val_top1": accuracy, "seed": seed})
    return slim.load(saved)


def searched_model(task: ArrayTask, folder: Path, seed: int, kind: str) -> slim.MaskCheckpoint:
    """One epoch of mask search on the dense model of a seed, if it is not there yet.

    Args:
        task: See `fashion_task`.
        folder: Of the results.
        seed: Of the dense model and the search.
        kind: `search` is this project's; `paper` has the paper's token masks, penalties and one
            learning rate for all; `plain` trains as long with masks that stay 1.
    """
    saved = folder / f"{kind}-{seed}"
    if not (saved / "checkpoint.json").is_file():
        torch.manual_seed(seed)
        dense = dense_model(task, folder, seed)
        masked = slim.attach_masks(as_timm(dense), "tanh" if kind == "paper" else "log")
        penalty, mask_lr = {
            "search": (PENALTY, MASK_LR),
            "paper": (PAPERS_PENALTY, PAPERS_MASK_LR),
            "plain": (Penalty(0.0, 0.0, 0.0), 1e-12),
        }[kind]
        objective = distill_from(dense, 0.7, 2.0)
        training = search_training(
            masked, task, preprocessing_of(task), SEARCH_RECIPE, penalty, mask_lr, objective, seed
        )
        for epoch in training.epochs():
            console.print(f"{kind} {seed}: val {epoch.val_top1:.2f} % in {epoch.seconds:.0f} s")
        slim.MaskCheckpoint.from_model(masked).save(saved)
    return slim.MaskCheckpoint.load(saved)


def accuracy(vit: nn.Module, task: ArrayTask) -> float:
    """Top-1 on val, in percent."""
    return top1(vit, task, "val", preprocessing_of(task))


def show(title: str, frame: pd.DataFrame) -> None:
    """Print a table."""
    table = Table(title=title)
    for column in frame.columns:
        table.add_column(str(column))
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row))
    console.print(table)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dense_model(fashion_task(options.data), options.folder, options.seed)


if __name__ == "__main__":
    main()
