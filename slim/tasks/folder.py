"""A task whose images lie in folders, one per class, read by timm's reader and transforms."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from timm.data.readers.img_extensions import get_img_extensions
from timm.data.readers.reader_image_folder import find_images_and_targets
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from slim.errors import TaskError
from slim.seeds import derive_seed
from slim.tasks.arrays import SHARES
from slim.tasks.augment import Distortions
from slim.tasks.order import epoch_order, rank_positions
from slim.tasks.task import SPLITS, Augmentation, Preprocessing, Task

Sample = tuple[str, int]
VAL_NAMES = ("val", "valid", "validation")


class FolderTask(Task):
    """An image folder: `ROOT/CLASS/*`, or `ROOT/train|val|test/CLASS/*`.

    - With train, val and test folders, these are the splits.
    - With train and val only (ImageNet's layout), val is the test split, looked at once, and a
      fixed 10 % of train, drawn within each class, is the val split that decides.
    - With class folders alone, 70 / 15 / 15 % of each class, by a fixed seed.

    Args:
        name: What the user called it.
        root: The folder.
        workers: Processes that read and transform images; by default as many as torch has
            threads, which a sweep sets to the CPUs of a worker.

    Raises:
        TaskError: If the folder is missing, holds no images, has fewer than two classes or an
            empty split, or a class stands in another split than train only.
    """

    def __init__(self, name: str, root: Path, workers: int | None = None) -> None:
        if not root.is_dir():
            raise TaskError(f"data folder {root} does not exist; give an image folder or a name")
        self.name = name
        self.root = root.resolve()
        self.channels = 3
        self.workers = workers
        self.classes, self.samples = _read_splits(self.root)

    def size(self, split: str) -> int:
        """How many images a split has."""
        return len(self.samples[split])

    def fingerprint(self) -> dict[str, Any]:
        """Name, sizes and a hash over file names (relative to the root), sizes and labels."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for path, label in self.samples[split]:
                where = Path(path).relative_to(self.root)
                digest.update(f"{split} {where} {_bytes_of(path)} {label}\n".encode())
        sizes = {split: self.size(split) for split in SPLITS}
        return {
            "name": self.name,
            "classes": self.num_classes,
            **sizes,
            "sha256": digest.hexdigest(),
        }

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
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Task.eval_batches`."""
        transform = create_transform(
            preprocessing.input_size,
            interpolation=preprocessing.interpolation,
            mean=preprocessing.mean,
            std=preprocessing.std,
            crop_pct=preprocessing.crop_pct,
        )
        mine = self.samples[split][rank::world_size]
        images = _Images(mine, transform, preprocessing.input_size[0], _seeds(0, len(mine)))
        yield from self._batches(images, batch_size)

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
    """Image files opened and transformed one by one, each with a seed of its own."""

    def __init__(
        self, samples: list[Sample], transform: Any, channels: int, seeds: np.ndarray
    ) -> None:
        self.samples = samples
        self.transform = transform
        self.mode = "L" if channels == 1 else "RGB"
        self.seeds = seeds

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | TaskError:
        """An image and its label; an error as a value, which crosses processes in one line."""
        path, label = self.samples[index]
        try:
            image = _read_image(path, self.mode)
        except TaskError as error:
            return error
        with _seeded(int(self.seeds[index])):
            return self.transform(image), label


def _read_image(path: str, mode: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255
                return Image.fromarray(_upper_byte(image)).convert(mode)
            return image.convert(mode)
    except Exception as error:  # decoders of damaged files raise errors of many kinds
        line = " ".join(str(error).split())[:200]
        raise TaskError(f"image {path} cannot be read: {line}") from error


def _upper_byte(image: Image.Image) -> np.ndarray:
    """16-bit values (H, W) as 8-bit ones."""
    return (np.asarray(image).clip(0, 0xFFFF) >> 8).astype(np.uint8)


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


def _bytes_of(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise TaskError(f"image {path} cannot be read: {error.strerror}") from error


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


def _read_splits(root: Path) -> tuple[tuple[str, ...], dict[str, list[Sample]]]:
    """Find classes and splits under a folder."""
    if not (root / "train").is_dir():
        classes, samples = _scan(root, None)
        return classes, _carve(samples, SHARES)
    classes, train = _scan(root / "train", None)
    val_folder = next((root / n for n in VAL_NAMES if (root / n).is_dir()), None)
    test_folder = root / "test" if (root / "test").is_dir() else None
    val = _scan(val_folder, classes)[1] if val_folder else None
    test = _scan(test_folder, classes)[1] if test_folder else None
    if val is not None and test is not None:
        return classes, {"train": train, "val": val, "test": test}
    held_out = test if test is not None else val
    if held_out is None:
        return classes, _carve(train, SHARES)
    parts = _carve(train, {"train": 0.9, "val": 0.1, "test": 0.0})
    return classes, parts | {"test": held_out}


def _scan(folder: Path, classes: tuple[str, ...] | None) -> tuple[tuple[str, ...], list[Sample]]:
    """The images under a folder and their classes; `classes` are those known from train."""
    found, class_to_idx = find_images_and_targets(str(folder))
    names = tuple(sorted(class_to_idx, key=class_to_idx.__getitem__))
    if not found:
        endings = ", ".join(sorted(get_img_extensions()))
        raise TaskError(
            f"data folder {folder} holds no images ({endings}); expected {folder}/CLASS/IMAGE"
        )
    if classes is None:
        _refuse_empty_class(folder, found)
        if len(names) < 2:
            raise TaskError(
                f"data folder {folder} has {len(names)} class ({names[0] or '.'}), a task needs "
                "two or more; expected one sub-folder per class"
            )
        return names, found
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise TaskError(f"{folder} has class {unknown[0]!r}, which the train split lacks")
    return classes, [(path, classes.index(names[label])) for path, label in found]


def _refuse_empty_class(folder: Path, found: Sequence[Sample]) -> None:
    """A class folder without images is a download or a copy that broke off."""
    holding = {Path(place) for place in {path.rpartition("/")[0] for path, _ in found}}
    tops = {place.relative_to(folder).parts[:1] for place in holding}
    for each in sorted(folder.iterdir()):
        if each.is_dir() and not each.name.startswith(".") and (each.name,) not in tops:
            raise TaskError(f"class folder {each} holds no images; add some or remove it")


def _carve(samples: list[Sample], shares: dict[str, float]) -> dict[str, list[Sample]]:
    """Split samples within each class by a fixed seed; a class has at least one in each part."""
    parts: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    by_class: dict[int, list[Sample]] = {}
    for sample in samples:
        by_class.setdefault(sample[1], []).append(sample)
    wanted = [split for split in SPLITS if shares[split] > 0]
    for label, members in by_class.items():
        if len(members) < len(wanted):
            raise TaskError(
                f"class folder {Path(members[0][0]).parent} has {len(members)} images, "
                f"{len(wanted)} are needed to split them into {', '.join(wanted)}"
            )
        order = np.random.default_rng(label).permutation(len(members))
        counts = {s: max(1, round(shares[s] * len(members))) for s in wanted if s != "train"}
        start = 0
        for split, number in counts.items():
            parts[split] += [members[i] for i in sorted(order[start : start + number])]
            start += number
        parts["train"] += [members[i] for i in sorted(order[start:])]
    return parts
