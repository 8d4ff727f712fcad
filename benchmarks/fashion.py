"""What the accuracy benchmarks share: Fashion-MNIST, and a dense ViT trained on it per seed.

    python benchmarks/fashion.py --seed 0

trains the dense model of a seed and keeps it, so that the benchmarks after it find it. Needs
Debian's dataset-fashion-mnist, or its four files in the folder given by --data.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from timm.models.vision_transformer import VisionTransformer

import slim
from slim.evaluation import top1
from slim.recipe import Recipe
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
    """The 60,000 training images: 42,000 to train, 9,000 to validate; the rest is not read."""
    images, labels = read_fashion_mnist(data)
    return ArrayTask.stratified("fashion-mnist", images, labels, FASHION_CLASSES)


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


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dense_model(fashion_task(options.data), options.folder, options.seed)


if __name__ == "__main__":
    main()
