"""CIFAR-10 and CIFAR-100 from the files that torchvision keeps, without running their pickles."""

from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import download_and_extract_archive

from slim.errors import TaskError
from slim.tasks.pickles import read_pickle
from slim.tasks.pixels import PixelTask
from slim.tasks.splits import arrange, check_samples

KINDS: dict[str, Any] = {"cifar10": CIFAR10, "cifar100": CIFAR100}
ROW = 3 * 32 * 32


def load_cifar(name: str, kind: str, root: Path, download: bool) -> PixelTask:
    """Read the batches: test is the test split, and a tenth of train decides.

    Args:
        name: What the user called it.
        kind: One of KINDS.
        root: The folder that holds torchvision's `cifar-10-batches-py` or `cifar-100-python`.
        download: Whether torchvision's archive is fetched where that is missing.

    Raises:
        TaskError: If a file is missing or damaged, or asks for code to be run.
        FileNotFoundError: If the batches' folder is missing.
    """
    known = KINDS[kind]
    folder = root / known.base_folder
    if download and not folder.is_dir():
        download_and_extract_archive(
            known.url, str(root), filename=known.filename, md5=known.tgz_md5
        )
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing")
    train, train_labels = _read(folder, known.train_list)
    test, test_labels = _read(folder, known.test_list)
    classes = _class_names(folder / known.meta["filename"], known.meta["key"])
    held_out = [(len(train) + index, label) for index, label in enumerate(test_labels)]
    samples = arrange(
        list(enumerate(train_labels)), None, held_out, lambda s: f"class {classes[s[1]]}"
    )
    return PixelTask(
        name, np.concatenate([train, test]), classes, check_samples(name, classes, samples)
    )


def _read(folder: Path, batches: list[list[str]]) -> tuple[np.ndarray, list[int]]:
    """Pixels (N, 32, 32, 3) and labels of some batches."""
    pixels, labels = [], []
    for file, _ in batches:
        batch = read_pickle(folder / file, encoding="latin1")
        if not isinstance(batch, dict):
            raise TaskError(f"{folder / file} is no batch of CIFAR")
        data, given = batch.get("data"), batch.get("labels", batch.get("fine_labels"))
        if (
            not isinstance(data, np.ndarray)
            or not isinstance(given, list)
            or (data.dtype, data.shape) != (np.uint8, (len(given), ROW))
            or any(type(label) is not int for label in given)
        ):
            raise TaskError(f"{folder / file} is no batch of CIFAR: its data or labels are odd")
        pixels.append(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels += given
    return np.ascontiguousarray(np.concatenate(pixels)), labels


def _class_names(path: Path, key: str) -> tuple[str, ...]:
    meta = read_pickle(path, encoding="latin1")
    names = meta.get(key) if isinstance(meta, dict) else None
    if not isinstance(names, list) or not all(type(name) is str for name in names):
        raise TaskError(f"{path} holds no {key}")
    return tuple(names)
