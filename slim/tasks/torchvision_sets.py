"""The data sets of torchvision by name, read where they lie: `torch/NAME:FOLDER`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm.data
from torchvision import datasets

from slim.errors import TaskError
from slim.tasks.cifar import KINDS, load_cifar
from slim.tasks.image_files import ImageFilesTask
from slim.tasks.images import ImageTask
from slim.tasks.pixels import PixelTask
from slim.tasks.splits import Sample, arrange, check_samples


@dataclass(frozen=True)
class _Known:
    """How a set is opened.

    Args:
        kind: torchvision's class, or the name under which timm's factory knows it.
        train: Its word for the train split; None if the set is not split.
        val: Its word for val, None for none.
        test: Its word for test, None for none.
    """

    kind: Any
    train: str | None = "train"
    val: str | None = None
    test: str | None = "test"


_FILES = {
    "country211": _Known(datasets.Country211, val="valid"),
    "dtd": _Known(datasets.DTD, val="val"),
    "eurosat": _Known(datasets.EuroSAT, train=None, test=None),
    "fgvcaircraft": _Known(datasets.FGVCAircraft, val="val"),
    "flowers102": _Known(datasets.Flowers102, val="val"),
    "food101": _Known(datasets.Food101),
    "gtsrb": _Known(datasets.GTSRB),
    "inaturalist": _Known("inaturalist", val="validation", test=None),
    "oxfordiiitpet": _Known(datasets.OxfordIIITPet, train="trainval"),
    "stanfordcars": _Known(datasets.StanfordCars),
    "sun397": _Known(datasets.SUN397, train=None, test=None),
}
_GREY = {"mnist": "mnist", "kmnist": "kmnist", "fashionmnist": "fashion_mnist"}
NAMES = tuple(sorted([*_FILES, *_GREY, *KINDS]))


def load_torchvision(name: str, kind: str, where: str, download: bool) -> ImageTask:
    """Read one of torchvision's data sets.

    Args:
        name: What the user called it.
        kind: One of NAMES; case, `_` and `-` do not matter.
        where: The folder that torchvision calls `root`.
        download: Whether torchvision may fetch what is missing.

    Raises:
        TaskError: If the name is unknown, no folder is given, or files are missing or damaged.
    """
    known = kind.lower().replace("_", "").replace("-", "")
    if known not in NAMES:
        raise TaskError(
            f"data {name}: torchvision's {kind!r} is not one of {', '.join(NAMES)}; give an "
            "image folder, or hfds/NAME of Hugging Face"
        )
    root = Path(where).expanduser().resolve()
    if not where or not (root.is_dir() or download):
        raise TaskError(
            f"data {name} needs an existing folder with its files, as torch/{known}:FOLDER"
        )
    try:
        if known in KINDS:
            return load_cifar(name, known, root, download)
        if known in _GREY:
            return _load_grey(name, _GREY[known], root, download)
        return _load_files(name, known, root, download)
    except TaskError:
        raise
    except Exception as error:  # torchvision checks little, and raises errors of many kinds
        line = " ".join(str(error).split()).partition(" You can use download=True")[0]
        advice = "give the folder that torchvision calls root"
        advice += "" if download else ", or --download true to fetch the files"
        raise TaskError(
            f"data {name} cannot be read: {line.rstrip('.') or type(error).__name__}; {advice}"
        ) from error


def _load_grey(name: str, kind: str, root: Path, download: bool) -> PixelTask:
    """MNIST and the sets of its format: IDX files, unpacked, in `KIND/raw`."""
    parts = [
        timm.data.create_dataset(f"torch/{kind}", str(root), split=split, download=download)
        for split in ("train", "validation")
    ]
    pixels = np.concatenate([part.data.numpy() for part in parts])
    labels = np.concatenate([part.targets.numpy() for part in parts]).tolist()
    classes = tuple(str(each) for each in parts[0].classes)
    samples = list(enumerate(labels))
    count = len(parts[0])
    splits = arrange(
        samples[:count], None, samples[count:], lambda sample: f"class {classes[sample[1]]}"
    )
    return PixelTask(name, pixels, classes, check_samples(name, classes, splits))


def _load_files(name: str, kind: str, root: Path, download: bool) -> ImageFilesTask:
    """A set of image files, each found by torchvision and opened here."""
    known = _FILES[kind]
    train = _open(known.kind, root, known.train, download)
    classes = _classes_of(train)
    parts: dict[str, list[Sample] | None] = {"val": None, "test": None}
    for split, word in (("val", known.val), ("test", known.test)):
        if word is not None:
            part = _open(known.kind, root, word, download)
            parts[split] = _samples_of(part)
            if _classes_of(part) != classes and hasattr(part, "classes"):
                raise TaskError(
                    f"data {name} has other classes in its {split} split than in train"
                )
    splits = arrange(
        _samples_of(train), parts["val"], parts["test"], lambda s: f"class {classes[s[1]]}"
    )
    return ImageFilesTask(name, root, classes, check_samples(name, classes, splits))


def _open(kind: Any, root: Path, split: str | None, download: bool) -> Any:
    if isinstance(kind, str):
        return timm.data.create_dataset(f"torch/{kind}", str(root), split=split, download=download)
    options: dict[str, Any] = {} if split is None else {"split": split}
    if download and kind is not datasets.StanfordCars:  # whose download is gone
        options["download"] = True
    return kind(str(root), **options)


def _samples_of(dataset: Any) -> list[Sample]:
    """Path and label of each image, sorted: some are found in the order of the file system."""
    if isinstance(dataset, datasets.INaturalist):
        names = dataset.all_categories
        found = [(Path(dataset.root, names[label], file), label) for label, file in dataset.index]
    elif hasattr(dataset, "_labels"):
        files = dataset._image_files if hasattr(dataset, "_image_files") else dataset._images
        found = list(zip(files, dataset._labels, strict=True))
    else:
        found = dataset._samples if hasattr(dataset, "_samples") else dataset.samples
    return sorted((str(path), int(label)) for path, label in found)


def _classes_of(dataset: Any) -> tuple[str, ...]:
    """Class names by label; their numbers where torchvision has no names."""
    if isinstance(dataset, datasets.INaturalist):
        return tuple(dataset.all_categories)
    if hasattr(dataset, "classes"):
        return tuple(str(each) for each in dataset.classes)
    return tuple(str(label) for label in range(1 + max(label for _, label in dataset._samples)))
