"""A task whose images lie in folders, one per class, read by timm's reader and transforms."""

from collections.abc import Callable, Sequence
from pathlib import Path

from timm.data.readers.img_extensions import get_img_extensions
from timm.data.readers.reader_image_folder import find_images_and_targets
from timm.utils.misc import natural_key
from torchvision.datasets.folder import IMG_EXTENSIONS

from slim.errors import TaskError
from slim.tasks.image_files import ImageFilesTask
from slim.tasks.splits import Sample, arrange

ENDINGS = sorted({*get_img_extensions(), *IMG_EXTENSIONS})
"""Of the files that are images: what timm's and torchvision's folders take."""
VAL_NAMES = ("val", "valid", "validation")


class FolderTask(ImageFilesTask):
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
        root = root.resolve()
        classes, samples = _read_splits(root)
        super().__init__(name, root, classes, samples, workers)


def _read_splits(root: Path) -> tuple[tuple[str, ...], dict[str, list[Sample]]]:
    """Find classes and splits under a folder."""
    if not (root / "train").is_dir():
        classes, samples = _scan(root, None)
        return classes, arrange(samples, None, None, _class_folder(root, classes))
    classes, train = _scan(root / "train", None)
    val_folder = next((root / n for n in VAL_NAMES if (root / n).is_dir()), None)
    test_folder = root / "test" if (root / "test").is_dir() else None
    val = _scan(val_folder, classes)[1] if val_folder else None
    test = _scan(test_folder, classes)[1] if test_folder else None
    return classes, arrange(train, val, test, _class_folder(root / "train", classes))


def _class_folder(folder: Path, classes: Sequence[str]) -> Callable[[Sample], str]:
    """What an error calls the class of a sample."""
    return lambda sample: f"class folder {folder / classes[sample[1]]}"


def _scan(folder: Path, classes: tuple[str, ...] | None) -> tuple[tuple[str, ...], list[Sample]]:
    """The images under a folder and their classes; `classes` are those known from train."""
    found = _images(folder)
    if not found:
        raise TaskError(
            f"data folder {folder} holds no images ({', '.join(ENDINGS)}); expected "
            f"{folder}/CLASS/IMAGE"
        )
    names = tuple(sorted({name for _, name in found}, key=lambda name: (natural_key(name), name)))
    if classes is None:
        _refuse_empty_class(folder, names)
        if len(names) < 2:
            raise TaskError(
                f"data folder {folder} has {len(names)} class ({names[0] or '.'}), a task needs "
                "two or more; expected one sub-folder per class"
            )
        classes = names
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise TaskError(f"{folder} has class {unknown[0]!r}, which the train split lacks")
    labels = {name: label for label, name in enumerate(classes)}
    return classes, [(path, labels[name]) for path, name in found]


def _images(folder: Path) -> list[tuple[str, str]]:
    """Path and class of every image: that of the folder in `folder` in which it lies, however
    deep. What lies in hidden folders (`.thumbs`, `.ipynb_checkpoints`) is left out."""
    found = []
    for path, _ in find_images_and_targets(str(folder), types=ENDINGS)[0]:
        inside = path.removeprefix(f"{folder}/").split("/")
        if len(inside) == 1:
            raise TaskError(
                f"{path} lies beside the class folders, not in one; expected {folder}/CLASS/IMAGE"
            )
        if not any(part.startswith(".") for part in inside[:-1]):
            found.append((path, inside[0]))
    return found


def _refuse_empty_class(folder: Path, classes: Sequence[str]) -> None:
    """A class folder without images is a download or a copy that broke off."""
    for each in sorted(folder.iterdir()):
        if each.is_dir() and not each.name.startswith(".") and each.name not in classes:
            raise TaskError(f"class folder {each} holds no images; add some or remove it")
