"""Image folders of a few small pictures, and what a task made of them."""

from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from slim.tasks import FolderTask


def fill(folder: Path, count: int, first: int = 0) -> None:
    """Images 12 wide and 8 high of noise, whose first pixel tells their number."""
    folder.mkdir(parents=True)
    for number in range(first, first + count):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def fill_flat(folder: Path, numbers: range) -> None:
    """Images of one colour, which is their number."""
    folder.mkdir(parents=True)
    for number in numbers:
        Image.new("RGB", (8, 8), (number,) * 3).save(folder / f"{number}.png")


def per_class(task: FolderTask, split: str) -> dict[str, int]:
    labels = Counter(label for _, label in task.samples[split])
    return {task.classes[label]: count for label, count in labels.items()}


def files(task: FolderTask, split: str) -> set[str]:
    return {str(Path(path).relative_to(task.root)) for path, _ in task.samples[split]}
