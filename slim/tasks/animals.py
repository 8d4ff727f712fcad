"""The animal silhouettes of PyPI's animal-mnist, read without running its code or its pickles."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from slim.errors import TaskError
from slim.tasks.arrays import ArrayTask
from slim.tasks.pickles import read_pickle

PACKAGE = "animal_mnist"
IMAGES = "data/Animal_MNIST/animal_data_version_3.gz"
LABELS = "data/Animal_MNIST/animal_label_version_3.gz"


def animals_are_present() -> bool:
    """Whether the package is installed."""
    return find_spec(PACKAGE) is not None


def load_animals(folder: Path | None = None) -> ArrayTask:
    """10,000 silhouettes of 28 x 28 in 10 classes, less those that stand there twice.

    Args:
        folder: Of the package; by default where it is installed.

    Raises:
        TaskError: If the package is missing, or a file is damaged or holds something else.
    """
    folder = folder or _package()
    images, labels = read_array(folder / IMAGES), read_array(folder / LABELS)
    if images.dtype != np.uint8 or images.shape != (len(labels), 28, 28):
        raise TaskError(f"{folder} does not hold animal-mnist: its images are {images.shape}")
    kept = first_of_each(images, labels)
    classes = tuple(str(label) for label in np.unique(labels))
    numbers = np.searchsorted(np.unique(labels), labels[kept]).astype(np.int64)
    return ArrayTask.stratified("animal-mnist", images[kept][:, None], numbers, classes)


def first_of_each(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Indices of the images, each once; images that have several labels are left out.

    Copies would stand in train and test at once.

    Args:
        images: (N, H, W).
        labels: (N,).
    """
    seen: dict[bytes, list[int]] = {}
    for index, image in enumerate(images):
        seen.setdefault(image.tobytes(), []).append(index)
    alike = [copies for copies in seen.values() if len({int(labels[i]) for i in copies}) == 1]
    return np.array([copies[0] for copies in alike], dtype=np.int64)


def read_array(path: Path) -> np.ndarray:
    """Read a gzipped pickle of one array, in which nothing but arrays is made.

    Raises:
        TaskError: If it is missing or damaged, or asks for anything else.
    """
    array = read_pickle(path, gzip.open)
    if not isinstance(array, np.ndarray) or array.dtype.hasobject:
        raise TaskError(f"{path} does not hold an array of numbers")
    return array


def _package() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise TaskError(
            "data animal-mnist needs the package of that name: pip install animal-mnist"
        )
    return Path(spec.submodule_search_locations[0])
