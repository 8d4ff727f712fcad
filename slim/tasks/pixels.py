"""A task whose images lie in memory, and go one by one through timm's transforms."""

import hashlib

import numpy as np
from PIL import Image

from slim.tasks.images import ImageTask
from slim.tasks.splits import Sample


class PixelTask(ImageTask):
    """Images of one size as one array.

    Args:
        name: What the user called it.
        pixels: uint8 (N, H, W) of grey images, or (N, H, W, 3).
        classes: Class names by label.
        samples: Per split, the place of each image in `pixels`, and its label.
    """

    def __init__(
        self,
        name: str,
        pixels: np.ndarray,
        classes: tuple[str, ...],
        samples: dict[str, list[Sample]],
    ) -> None:
        self.name = name
        self.pixels = pixels
        self.channels = 1 if pixels.ndim == 3 else 3
        self.classes = classes
        self.samples = samples

    def open_image(self, reference: int) -> Image.Image:
        """See `ImageTask.open_image`."""
        return Image.fromarray(self.pixels[reference])

    def identify(self, reference: int) -> str:
        """Its place."""
        return str(reference)

    def content(self) -> bytes:
        """A hash over all pixels."""
        return hashlib.sha256(np.ascontiguousarray(self.pixels).data).digest()

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel of the train split, of values in [0, 1]."""
        train = self.pixels[[reference for reference, _ in self.samples["train"]]]
        channels = train.reshape(-1, self.channels)
        levels, means, stds = np.arange(256) / 255, [], []
        for channel in range(self.channels):
            shares = np.bincount(channels[:, channel], minlength=256) / len(channels)
            mean = float(shares @ levels)
            means.append(mean)
            stds.append(max(float(shares @ (levels - mean) ** 2) ** 0.5, 1e-6))
        return tuple(means), tuple(stds)
