"""A task whose images are opened one by one and go through timm's transforms."""

import hashlib
import random
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from slim.errors import TaskError, one_line
from slim.seeds import derive_seed
from slim.tasks.augment import Distortions
from slim.tasks.kept_images import KeptImages
from slim.tasks.order import epoch_order, rank_positions
from slim.tasks.splits import Sample
from slim.tasks.task import SPLITS, Augmentation, Preprocessing, Task


class ImageTask(Task):
    """Images that are opened when they are needed, wherever they lie.

    Attributes:
        samples: Per split, what opens each image and its label.
        workers: Processes that read and transform images; None for as many as torch has
            threads, which a sweep sets to the CPUs of a worker.
        kept: What a process keeps of the val split; None for nothing.
    """

    samples: dict[str, list[Sample]]
    workers: int | None = None
    kept: KeptImages | None = None

    @abstractmethod
    def open_image(self, reference: Any) -> Image.Image:
        """Decode one image, in whatever mode it is stored; called in worker processes."""

    def where(self, reference: Any) -> str:
        """What an error calls an image."""
        return str(reference)

    @abstractmethod
    def identify(self, reference: Any) -> str:
        """What tells an image apart from any other of the data, wherever they were moved."""

    def content(self) -> bytes:
        """What else identifies the data; by default nothing."""
        return b""

    def size(self, split: str) -> int:
        """How many images a split has."""
        return len(self.samples[split])

    def fingerprint(self) -> dict[str, Any]:
        """Name, sizes and a hash over the images of each split and their labels."""
        digest = hashlib.sha256(self.content())
        for split in SPLITS:
            for reference, label in self.samples[split]:
                digest.update(f"{split} {self.identify(reference)} {label}\n".encode())
        sizes = {split: self.size(split) for split in SPLITS}
        return {
            "name": self.name,
            "classes": self.num_classes,
            **sizes,
            "sha256": digest.hexdigest(),
        }

    def keep_images(self, limit: int) -> None:
        """Let each process keep val images that it has decoded, up to so many bytes."""
        self.kept = KeptImages(limit) if limit else None

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """ImageNet's mean and standard deviation, the convention for photographs."""
        return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    def check_augmentation(self, preprocessing: Preprocessing, augmentation: Augmentation) -> None:
        """See `Task.check_augmentation`."""
        _train_transform(preprocessing, augmentation)

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
            TaskError: If no batch can be filled.
        """
        steps = self.steps_per_epoch(batch_size, world_size)
        if not steps:
            raise TaskError(
                f"data {self.name} has {self.size('train')} training images, fewer than one batch "
                f"of {batch_size} x {world_size} processes; give a smaller batch size"
            )
        order = epoch_order(self.size("train"), seed, epoch, augmentation.aug_repeats)
        mine = rank_positions(batch_size, rank, world_size)
        together = batch_size * world_size
        firsts = np.arange(start_step, steps) * together  # position of each step's first image
        positions = (firsts[:, None] + mine).flatten()
        images = _Images(
            self,
            [self.samples["train"][index] for index in order[positions]],
            _train_transform(preprocessing, augmentation),
            preprocessing.input_size[0],
            _seeds(derive_seed("transform", seed, epoch), len(order))[positions],
        )
        affine_only = Augmentation(affine=augmentation.affine)
        for step, (batch, labels) in enumerate(self._batches(images, batch_size), start_step):
            generator = torch.Generator().manual_seed(derive_seed("distort", seed, epoch, step))
            drawn = Distortions.draw(together, affine_only, generator)
            yield drawn.of(torch.from_numpy(mine)).apply(batch), labels

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
        transform = create_transform(
            preprocessing.input_size,
            interpolation=preprocessing.interpolation,
            mean=preprocessing.mean,
            std=preprocessing.std,
            crop_pct=preprocessing.crop_pct,
            crop_mode=preprocessing.crop_mode,
            normalize=False,
        )
        most = None if most is None or most >= self.size(split) else most  # one and the same pass
        positions = self.looked_at(split, most, rank, world_size)
        mine = [self.samples[split][position] for position in positions]
        keeps = self.kept if split == "val" else None  # which networks are chosen by
        kept = keeps.batches(preprocessing, batch_size, rank, world_size, most) if keeps else []
        known = list(kept)
        normalise = _Normaliser(preprocessing, device)
        for images, labels in known:
            yield normalise(images, labels)
        rest = mine[len(known) * batch_size :]
        if not rest:
            return
        decoded = _Images(self, rest, transform, preprocessing.input_size[0], _seeds(0, len(rest)))
        for number, (images, labels) in enumerate(self._batches(decoded, batch_size), len(known)):
            if keeps and number == len(kept):
                keeps.add(kept, images, labels)
            yield normalise(images, labels)

    def _batches(self, images: "_Images", batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels in their order.

        Raises:
            TaskError: If an image cannot be read; names it.
        """
        loader = DataLoader(
            images,
            batch_size=batch_size,
            num_workers=torch.get_num_threads() if self.workers is None else self.workers,
            collate_fn=_collate,
            generator=torch.Generator(),  # leaves the global one as it is
            pin_memory=torch.cuda.is_available(),
        )
        for batch in loader:
            if isinstance(batch, TaskError):
                raise batch
            images_and_labels: tuple[Tensor, Tensor] = tuple(batch)
            yield images_and_labels


class _Images(Dataset[tuple[Tensor, int] | TaskError]):
    """Images opened and transformed one by one, each with a seed of its own."""

    def __init__(
        self,
        task: ImageTask,
        samples: list[Sample],
        transform: Any,
        channels: int,
        seeds: np.ndarray,
    ) -> None:
        self.task = task
        self.samples = samples
        self.transform = transform
        self.mode = "L" if channels == 1 else "RGB"
        self.seeds = seeds

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | TaskError:
        """An image and its label; an error as a value, which crosses processes in one line."""
        reference, label = self.samples[index]
        try:
            image = _converted(self.task.open_image(reference), self.mode)
        except Exception as error:  # decoders of damaged files raise errors of many kinds
            line = one_line(error)
            return TaskError(f"image {self.task.where(reference)} cannot be read: {line}")
        with _seeded(int(self.seeds[index])):
            return self.transform(image), label


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """An image of 8 bits in a mode; closes the file it was read from."""
    with image:
        if image.mode == "F":
            raise ValueError("its values are floats of no known range; give 8 or 16 bits")
        if image.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255
            return Image.fromarray(_upper_byte(image)).convert(mode)
        return image.convert(mode)


def _upper_byte(image: Image.Image) -> np.ndarray:
    """16-bit values (H, W) as 8-bit ones."""
    return (np.asarray(image).clip(0, 0xFFFF) >> 8).astype(np.uint8)


class _Normaliser:
    """Brings decoded batches to a device, and there to what a network takes."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device | str) -> None:
        self.device = device
        self.mean = torch.tensor(preprocessing.mean, device=device).view(-1, 1, 1)
        self.std = torch.tensor(preprocessing.std, device=device).view(-1, 1, 1)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) uint8, normalised in float32, and their labels."""
        images = images.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        return images.float().div_(255).sub_(self.mean).div_(self.std), labels


def _seeds(seed: int, count: int) -> np.ndarray:
    """So many seeds of 32 bits."""
    return np.random.SeedSequence(seed).generate_state(count)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the three global generators that timm's transforms draw from, and put them back."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


def _collate(samples: list[tuple[Tensor, int] | TaskError]) -> Any:
    """A batch, or the first error in it."""
    errors = [sample for sample in samples if isinstance(sample, TaskError)]
    return errors[0] if errors else default_collate(samples)


def _train_transform(preprocessing: Preprocessing, augmentation: Augmentation) -> Any:
    """timm's training transform; without a crop the image is resized as for evaluation."""
    try:
        return create_transform(
            preprocessing.input_size,
            is_training=True,
            train_crop_mode="rrc" if augmentation.crop_scale < 1 else "rkrc",
            scale=(augmentation.crop_scale, 1.0),
            ratio=(3 / 4, 4 / 3) if augmentation.crop_scale < 1 else (1.0, 1.0),
            hflip=augmentation.hflip,
            color_jitter=augmentation.color_jitter or None,
            auto_augment=augmentation.auto_augment or None,
            re_prob=augmentation.random_erasing,
            re_mode="pixel",  # erased areas are noise, as in DeiT's recipe
            interpolation=preprocessing.interpolation,
            mean=preprocessing.mean,
            std=preprocessing.std,
        )
    except (AssertionError, LookupError, ValueError) as error:
        raise TaskError(
            f"timm knows no transform with auto_augment={augmentation.auto_augment!r} and "
            f"interpolation={preprocessing.interpolation!r}: {error}"
        ) from error
