"""What judging networks on photographs costs with the val images that a worker keeps, and without.

    python benchmarks/kept_images.py

Photographs of 500 x 375 pixels (JPEG, made here), evaluated by networks for 224 x 224 images, cut
from timm's ViT-Tiny: the first one decodes the images, those after it find them kept.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
from PIL import Image

import slim
from benchmarks.machine import machine
from benchmarks.markdown_table import markdown_table
from slim.evaluation import top1
from slim.tasks import FolderTask, Preprocessing

BUDGETS = (1.0, 0.6, 0.3, 0.1)
PREPROCESSING = Preprocessing((3, 224, 224), (0.5,) * 3, (0.5,) * 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256, help="of val")
    parser.add_argument("--networks", type=int, default=3, help="evaluated of each budget")
    arguments = parser.parse_args()
    print(machine())
    torch.manual_seed(0)
    masked = slim.attach_masks(timm.create_model("vit_tiny_patch16_224", num_classes=2))
    checkpoint = slim.MaskCheckpoint.from_model(masked)
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), arguments.images)
        task = FolderTask("photographs", Path(folder))
        rows = [measure(checkpoint, task, budget, arguments.networks) for budget in BUDGETS]
    print(markdown_table(pd.DataFrame(rows)))


def measure(
    checkpoint: slim.MaskCheckpoint, task: FolderTask, budget: float, networks: int
) -> dict[str, str]:
    """Time of so many evaluations, as ratios."""
    architecture = checkpoint.select(slim.Budget(budget, budget, budget))
    vit = slim.extract(checkpoint, architecture).eval()
    seconds: dict[str, list[float]] = {}
    for way, limit in (("decoded", 0), ("kept", 10**12)):
        task.keep_images(limit)
        seconds[way] = [timed(vit, task) for _ in range(networks + 1)][1:]  # the first one fills
    decoded, kept = (min(seconds[way]) for way in ("decoded", "kept"))
    share = slim.count(architecture).macs / slim.count(checkpoint.select(slim.Budget())).macs
    return {
        "budget": f"{budget:g}",
        "MACs of dense": f"{share:.2f}",
        "kept, of decoded": f"{kept / decoded:.2f}",
    }


def timed(vit: torch.nn.Module, task: FolderTask) -> float:
    started = time.perf_counter()
    top1(vit, task, "val", PREPROCESSING)
    return time.perf_counter() - started


def write_photographs(folder: Path, images: int) -> None:
    """Smooth noise with a little grain: JPEGs of about 60 kB, as those of ImageNet have 110."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", images), ("test", 2)):
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
            grain = rng.integers(-16, 17, smooth.shape)
            path = folder / split / f"class-{number % 2}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)


if __name__ == "__main__":
    main()
