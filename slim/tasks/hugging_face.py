"""Hugging Face data sets by timm's reader: a folder of parquet or arrow files, or a hub's name."""

import io
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import timm.data
from PIL import Image

from slim.errors import TaskError, one_line
from slim.tasks.images import ImageTask
from slim.tasks.splits import Sample, arrange, check_samples

# Which of a data set's splits is which; the first that it has.
WORDS = {
    "train": ("train", "training"),
    "val": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
LABELS = ("label", "labels", "fine_label", "class", "target")


class HuggingFaceTask(ImageTask):
    """Images in the columns of arrow tables, which are mapped from disk.

    Args:
        name: What the user called it.
        readers: timm's reader of each of the data set's splits, by the data set's word for it.
        classes: Class names by label.
        samples: Per split, the data set's word and the row of each image, and its label.
    """

    def __init__(
        self,
        name: str,
        readers: dict[str, Any],
        classes: tuple[str, ...],
        samples: dict[str, list[Sample]],
    ) -> None:
        self.name = name
        self.channels = 3
        self.classes = classes
        self.samples = samples
        self._readers = readers
        self._sizes = {word: _sizes(reader) for word, reader in readers.items()}

    def open_image(self, reference: tuple[str, int]) -> Image.Image:
        """See `ImageTask.open_image`."""
        word, row = reference
        file, _ = self._readers[word][row]
        return Image.open(file if isinstance(file, io.BytesIO) else file.name)

    def where(self, reference: tuple[str, int]) -> str:
        """Split and row."""
        return f"{reference[1]} of split {reference[0]} of {self.name}"

    def identify(self, reference: tuple[str, int]) -> str:
        """Split, row and bytes."""
        word, row = reference
        return f"{word} {row} {self._sizes[word][row]}"


def load_hugging_face(name: str, source: str, cache: str, download: bool) -> HuggingFaceTask:
    """Read a data set of Hugging Face's format with its columns of images and labels.

    Args:
        name: What the user called it.
        source: A folder, or a name on the hub.
        cache: Folder of arrow tables, made from what is read; "" for the package's own.
        download: Whether a name on the hub may be fetched.

    Raises:
        TaskError: If the package or the folder is missing, a download is needed but was not
            asked for, or the data are no images with one label each.
    """
    try:
        package = import_module("datasets")
    except ImportError as error:
        raise TaskError(
            f"data {name} needs the package datasets: pip install 'vit-slim-sweeps[hfds]'"
        ) from error
    folder = Path(source).expanduser()
    if not folder.is_dir() and (source.startswith(("/", ".", "~")) or not download):
        raise TaskError(
            f"data {name}: {source!r} is no folder; give hfds/FOLDER of parquet or arrow files, "
            "or a name of the hub with --download true"
        )
    package.disable_progress_bars()
    try:
        return _load(package, name, str(folder) if folder.is_dir() else source, cache or None)
    except TaskError:
        raise
    except Exception as error:  # of files, formats, hub and network, of many kinds
        line = one_line(error)
        raise TaskError(f"data {name} cannot be read: {line or type(error).__name__}") from error


def _load(package: Any, name: str, source: str, cache: str | None) -> HuggingFaceTask:
    splits = package.get_dataset_split_names(source, cache_dir=cache)
    words = {
        split: next((word for word in known if word in splits), None)
        for split, known in WORDS.items()
    }
    if words["train"] is None:
        raise TaskError(
            f"data {name} has the splits {', '.join(splits)}, expected one named train"
        )
    features = package.load_dataset(source, split=words["train"], cache_dir=cache).features
    image, label = _columns(package, name, features)
    readers = {
        word: timm.data.create_dataset(
            f"hfds/{source}", cache, split=word, input_key=image, target_key=label
        ).reader
        for word in words.values()
        if word is not None
    }
    labels = {word: _column(reader, label) for word, reader in readers.items()}
    classes, numbers = _numbered(features[label], labels, str(words["train"]))
    parts = {split: _shown(word, numbers) for split, word in words.items()}
    samples = arrange(
        parts["train"] or [], parts["val"], parts["test"], lambda s: f"class {classes[s[1]]}"
    )
    return HuggingFaceTask(name, readers, classes, check_samples(name, classes, samples))


def _columns(package: Any, name: str, features: Any) -> tuple[str, str]:
    """The columns that hold images and labels."""
    images = [key for key, kind in features.items() if isinstance(kind, package.Image)]
    named = [key for key, kind in features.items() if isinstance(kind, package.ClassLabel)]
    plain = [key for key, kind in features.items() if isinstance(kind, package.Value)]
    labels = [key for key in LABELS if key in [*named, *plain]] or named
    if len(images) != 1 or not labels:
        raise TaskError(
            f"data {name} has the columns {', '.join(features)}; expected one of images and one "
            f"named {', '.join(LABELS)}"
        )
    return images[0], labels[0]


def _column(reader: Any, key: str) -> list[Any]:
    """One column, without decoding any image."""
    values: list[Any] = reader.dataset.select_columns(key)[:][key]
    return values


def _numbered(
    feature: Any, labels: dict[str, list[Any]], train: str
) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """Class names, and labels as their numbers; -1 for what train lacks."""
    names = getattr(feature, "names", None)
    if names is not None:
        return tuple(names), labels
    known = sorted(set(labels[train]))
    number = {value: index for index, value in enumerate(known)}
    return tuple(str(value) for value in known), {
        word: [number.get(value, -1) for value in values] for word, values in labels.items()
    }


def _shown(word: str | None, numbers: dict[str, list[int]]) -> list[Sample] | None:
    """The samples of a split; None where the hub hides its labels as -1."""
    if word is None or all(number == -1 for number in numbers[word]):
        return None
    return [((word, row), number) for row, number in enumerate(numbers[word])]


def _sizes(reader: Any) -> list[int]:
    """Bytes of each image; -1 of those that are files of their own."""
    column = reader.dataset.with_format("arrow")[:].column(reader.image_key)
    sizes: list[int] = pc.fill_null(
        pc.binary_length(pc.struct_field(column, "bytes")), -1
    ).to_pylist()
    return sizes
