"""What every task offers, however its images are stored."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slim.errors import FileFormatError

CROP_MODES = ("center", "squash", "border")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects of an image.

    Args:
        input_size: (C, H, W).
        mean: Per channel, of values in [0, 1]; subtracted.
        std: Per channel; divided by.
        interpolation: Of the resize, in timm's words.
        crop_pct: Share of the resized image that evaluation keeps around the centre.
        crop_mode: How evaluation comes to that part: timm's `center`, `squash` or `border`.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop_pct: float = 1.0
    crop_mode: str = "center"

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> "Preprocessing":
        """Read what `to_json` gave.

        Raises:
            FileFormatError: If a field is missing, unknown, not of its type or out of range.
        """
        names = {field.name for field in fields(cls)}
        if isinstance(values, dict):
            values = {"crop_mode": "center"} | values  # which older files do not have
        if not isinstance(values, dict) or values.keys() != names:
            raise FileFormatError(f"preprocessing is not an object of {', '.join(sorted(names))}")
        try:
            channels, height, width = (int(size) for size in values["input_size"])
            read = cls(
                input_size=(channels, height, width),
                mean=tuple(float(v) for v in values["mean"]),
                std=tuple(float(v) for v in values["std"]),
                interpolation=str(values["interpolation"]),
                crop_pct=float(values["crop_pct"]),
                crop_mode=str(values["crop_mode"]),
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise FileFormatError(
                f"preprocessing holds a value of another type: {error}"
            ) from error
        read._check()
        return read

    def _check(self) -> None:
        """Refuse what no image can be brought to."""
        right = {
            "input_size": min(self.input_size) >= 1,
            "mean": len(self.mean) == self.input_size[0] and all(map(math.isfinite, self.mean)),
            "std": len(self.std) == self.input_size[0]
            and all(math.isfinite(value) and value > 0 for value in self.std),
            "crop_pct": 0 < self.crop_pct <= 1,
            "crop_mode": self.crop_mode in CROP_MODES,
        }
        for name, is_right in right.items():
            if not is_right:
                raise FileFormatError(
                    f"preprocessing field {name}={getattr(self, name)} is out of range"
                )


@dataclass(frozen=True)
class Augmentation:
    """Random distortions of training images.

    Args:
        affine: Rotate up to 10 degrees, shift up to 8 %, scale and shear up to 10 %, per image.
        hflip: Probability of a horizontal flip.
        auto_augment: timm's policy string (`rand-m9-mstd0.5-inc1`), for image folders.
        color_jitter: timm's strength, for image folders.
        random_erasing: Probability, for image folders.
        crop_scale: Smallest share of the area that a random resized crop keeps, for image
            folders; 1 for no crop.
        aug_repeats: Repeated augmentation: how many versions of an image an epoch shows, side by
            side; it has as many steps as with 1, and so fewer different images.
    """

    affine: bool = False
    hflip: float = 0.0
    auto_augment: str = ""
    color_jitter: float = 0.0
    random_erasing: float = 0.0
    crop_scale: float = 1.0
    aug_repeats: int = 1


class Task(ABC):
    """A data set for classification.

    Attributes:
        name: What the user called it.
        classes: Class names by label.
        channels: Of the images as stored (1 or 3).
    """

    name: str
    classes: tuple[str, ...]
    channels: int

    @property
    def num_classes(self) -> int:
        """How many classes."""
        return len(self.classes)

    @abstractmethod
    def size(self, split: str) -> int:
        """How many images a split has."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What identifies the data and its splits, as JSON values."""

    @abstractmethod
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel of the train split, of values in [0, 1]."""

    @abstractmethod
    def train_batches(
        self,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        batch_size: int,
        seed: int,
        epoch: int,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
    ) -> Iterable[tuple[Tensor, Tensor]]:
        """One epoch of shuffled, augmented, normalised batches; the same for the same arguments.

        Args:
            preprocessing: What the network expects of an image.
            augmentation: Random distortions.
            batch_size: Images per step and process.
            seed: Of order and distortions.
            epoch: From 0; each has an order and distortions of its own.
            rank: Of this process.
            world_size: How many processes share the epoch. What they see together in a step is
                what one process sees in a batch as large as theirs together.
            start_step: The first step; images of earlier ones are neither read nor distorted.

        Returns:
            Images (batch_size, C, H, W) float32 and labels (batch_size,) int64; an incomplete
            last batch is left out.
        """

    @abstractmethod
    def check_augmentation(self, preprocessing: Preprocessing, augmentation: Augmentation) -> None:
        """Refuse distortions that these data cannot take, before anything trains.

        Raises:
            TaskError: If one is unknown, or needs another kind of data.
        """

    def calibration_batches(
        self,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        batch_size: int,
        images: int,
        seed: int = 0,
    ) -> list[tuple[Tensor, Tensor]]:
        """At least so many training images, each once, distorted as in training.

        Args:
            preprocessing: What the network expects of an image.
            augmentation: Random distortions; repeats are left out.
            batch_size: Images per batch.
            images: How many in all; rounded up to whole batches, at most one epoch.
            seed: Of choice and distortions.

        Returns:
            Batches as those of `train_batches`.
        """
        once = replace(augmentation, aug_repeats=1)
        batches = self.train_batches(preprocessing, once, batch_size, seed, epoch=0)
        return list(islice(batches, math.ceil(images / batch_size)))

    @abstractmethod
    def eval_batches(
        self,
        split: str,
        preprocessing: Preprocessing,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        most: int | None = None,
    ) -> Iterable[tuple[Tensor, Tensor]]:
        """A split once, in its order, undistorted; the last batch may be smaller.

        Of several processes each gets every `world_size`-th image, from its rank on.

        Args:
            split: One of SPLITS.
            preprocessing: What the network expects of an image.
            batch_size: Images per batch.
            rank: Of this process.
            world_size: How many processes share the split.
            device: Where batches are wanted; images go there as bytes, and are normalised there.
            most: Images at most, drawn by chance, the same each time; None for all.

        Returns:
            Images (B, C, H, W) float32, normalised, and labels (B,) int64, on the device.
        """

    def looked_at(self, split: str, most: int | None, rank: int, world_size: int) -> np.ndarray:
        """Positions in a split of what `eval_batches` gives a process, ascending."""
        drawn = np.arange(self.size(split))
        if most is not None:
            drawn = np.sort(np.random.default_rng(len(drawn)).permutation(drawn)[:most])
        return drawn[rank::world_size]

    def steps_per_epoch(self, batch_size: int, world_size: int = 1) -> int:
        """Batches that `train_batches` gives in an epoch."""
        return self.size("train") // (batch_size * world_size)
