"""Small image folders made of noise around a colour per class."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_image_folder(root: Path, classes: tuple[str, ...], count: int, size: int = 24) -> None:
    """Write ROOT/CLASS/NUMBER.png; each class has its own colour, so that it can be learned."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(classes):
        folder = root / name
        folder.mkdir(parents=True)
        colour = np.array([60, 60, 60])
        colour[label % 3] = 200
        for number in range(count):
            noise = generator.integers(-40, 40, (size, size, 3))
            pixels = np.clip(colour + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
