"""A task whose images lie in memory as one array: small sets, broadcast once and mapped by all."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from slim.errors import TaskError
from slim.seeds import derive_seed
from slim.tasks.augment import Distortions
from slim.tasks.order import epoch_order, rank_positions
from slim.tasks.task import SPLITS, Augmentation, Preprocessing, Task

SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}


class ArrayTask(Task):
    """Images as uint8 (N, C, H, W) with labels (N,) and a split for each image.

    Args:
        name: What the user called it.
        images: uint8 (N, C, H, W).
        labels: int64 (N,), 0 to classes - 1.
        classes: Class names by label.
        splits: Per split, the indices of its images.

    Raises:
        TaskError: If there are fewer than two classes, a label is out of range or a split is
            empty.
    """

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        labels: np.ndarray,
        classes: tuple[str, ...],
        splits: dict[str, np.ndarray],
    ) -> None:
        self.name = name
        self.classes = classes
        self.images, self.labels, self.splits = images, labels, splits
        self.channels = images.shape[1]
        self._resized: dict[tuple[int, int, int], Tensor] = {}
        if len(classes) < 2:
            raise TaskError(f"data {name} has {len(classes)} class, a task needs two or more")
        for split in SPLITS:
            if not len(splits[split]):
                raise TaskError(f"data {name} has no image in its {split} split")
        if labels.min() < 0 or labels.max() >= len(classes):
            raise TaskError(
                f"data {name} has labels {labels.min()} to {labels.max()}, "
                f"expected 0 to {len(classes) - 1}"
            )

    @classmethod
    def stratified(
        cls, name: str, images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]
    ) -> "ArrayTask":
        """Split 70 / 15 / 15 % within each class, by a fixed seed."""
        parts: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
        for label in range(len(classes)):
            order = np.random.default_rng(label).permutation(np.flatnonzero(labels == label))
            train_end = round(SHARES["train"] * len(order))
            val_end = train_end + round(SHARES["val"] * len(order))
            for split, part in zip(SPLITS, np.split(order, [train_end, val_end]), strict=True):
                parts[split].append(part)
        splits = {split: np.sort(np.concatenate(parts[split])) for split in SPLITS}
        return cls(name, images, labels, classes, splits)

    def size(self, split: str) -> int:
        """How many images a split has."""
        return len(self.splits[split])

    def fingerprint(self) -> dict[str, Any]:
        """Name, sizes and a hash over images, labels and splits."""
        digest = hashlib.sha256()
        for array in (self.images, self.labels, *(self.splits[split] for split in SPLITS)):
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
        sizes = {split: self.size(split) for split in SPLITS}
        return {
            "name": self.name,
            "classes": self.num_classes,
            **sizes,
            "sha256": digest.hexdigest(),
        }

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel of the train split, of values in [0, 1]."""
        train = self.images[self.splits["train"]] / 255.0
        mean, std = train.mean(axis=(0, 2, 3)), train.std(axis=(0, 2, 3))
        return tuple(mean.tolist()), tuple(np.maximum(std, 1e-6).tolist())

    def check_augmentation(self, preprocessing: Preprocessing, augmentation: Augmentation) -> None:
        """See `Task.check_augmentation`."""
        del preprocessing
        in_memory = Augmentation(
            affine=augmentation.affine,
            hflip=augmentation.hflip,
            aug_repeats=augmentation.aug_repeats,
        )
        if augmentation != in_memory:
            raise TaskError(
                f"data {self.name} lies in memory; auto_augment, color_jitter, random_erasing and "
                "crop_scale need an image folder"
            )

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
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Task.train_batches`.

        Raises:
            TaskError: If the augmentation needs an image folder, or no batch can be filled.
        """
        self.check_augmentation(preprocessing, augmentation)
        steps = self.steps_per_epoch(batch_size, world_size)
        if not steps:
            raise TaskError(
                f"data {self.name} has {self.size('train')} training images, fewer than one batch "
                f"of {batch_size} x {world_size} processes; give a smaller batch size"
            )
        images, labels = self._tensors(preprocessing)
        mean, std = _channel_tensors(preprocessing)
        order = epoch_order(self.size("train"), seed, epoch, augmentation.aug_repeats)
        mine = rank_positions(batch_size, rank, world_size)
        together = batch_size * world_size
        for step in range(start_step, steps):
            chosen = torch.from_numpy(self.splits["train"][order[step * together + mine]])
            generator = torch.Generator().manual_seed(derive_seed("distort", seed, epoch, step))
            drawn = Distortions.draw(together, augmentation, generator)
            batch = drawn.of(torch.from_numpy(mine)).apply(images[chosen].float())
            yield (batch / 255 - mean) / std, labels[chosen]

    def eval_batches(
        self,
        split: str,
        preprocessing: Preprocessing,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        most: int | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Task.eval_batches`."""
        images, labels = self._tensors(preprocessing)
        mean, std = (values.to(device) for values in _channel_tensors(preprocessing))
        mine = self.splits[split][self.looked_at(split, most, rank, world_size)]
        for start in range(0, len(mine), batch_size):
            chosen = torch.from_numpy(mine[start : start + batch_size])
            shown = images[chosen].to(device).float()
            yield (shown / 255 - mean) / std, labels[chosen].to(device)

    def _tensors(self, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
        """All images in the size a network expects, as uint8; made once."""
        size = preprocessing.input_size
        if size not in self._resized:
            self._resized[size] = _fit_images(torch.from_numpy(self.images.copy()), size)
        return self._resized[size], torch.from_numpy(self.labels.copy())


def _fit_images(images: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Bring uint8 images (N, C, H, W) to (N, *size): channels fitted, then resized."""
    channels, height, width = size
    if images.shape[1] != channels:
        images = images.float().mean(dim=1, keepdim=True).round().to(torch.uint8)
        images = images.expand(-1, channels, -1, -1)
    if images.shape[2:] != (height, width):
        resized = F.interpolate(
            images.float(), (height, width), mode="bilinear", antialias=True, align_corners=False
        )
        images = resized.round().clamp(0, 255).to(torch.uint8)
    return images.contiguous()


def _channel_tensors(preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation as (C, 1, 1)."""
    mean = torch.tensor(preprocessing.mean)[:, None, None]
    return mean, torch.tensor(preprocessing.std)[:, None, None]
