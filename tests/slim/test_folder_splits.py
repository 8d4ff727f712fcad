"""Which images of a folder are of which class and split, and which folders are no task."""

from pathlib import Path

import pytest

from slim import TaskError
from slim.tasks import SPLITS, FolderTask, load_task
from tests.slim.image_folders import files, fill, per_class
from tests.slim.messages import message_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of 20 images."""
    fill(tmp_path / "data" / "cat", 20)
    fill(tmp_path / "data" / "dog", 20, first=20)
    return tmp_path / "data"


def test_class_folders_are_split_70_15_15_within_each_class(root):
    task = load_task(str(root))
    assert task.classes == ("cat", "dog")
    assert per_class(task, "train") == {"cat": 14, "dog": 14}
    assert per_class(task, "val") == per_class(task, "test") == {"cat": 3, "dog": 3}
    assert len(files(task, "train") | files(task, "val") | files(task, "test")) == 40
    assert [task.size(split) for split in SPLITS] == [28, 6, 6]
    assert (task.num_classes, task.channels) == (2, 3)


def test_train_val_and_test_folders_are_the_splits(tmp_path):
    for number, split in enumerate(SPLITS):
        for name in ("cat", "dog"):
            fill(tmp_path / split / name, number + 1)
    task = FolderTask("pets", tmp_path)
    for number, split in enumerate(SPLITS):
        assert per_class(task, split) == {"cat": number + 1, "dog": number + 1}
        assert all(file.startswith(f"{split}/") for file in files(task, split))


@pytest.mark.parametrize("held_out", ["val", "valid", "validation", "test"])
def test_a_single_held_out_folder_is_the_test_split(held_out, tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / "train" / name, 20)
        fill(tmp_path / held_out / name, 3)
    task = FolderTask("pets", tmp_path)
    assert per_class(task, "test") == {"cat": 3, "dog": 3}
    assert all(file.startswith(f"{held_out}/") for file in files(task, "test"))
    assert per_class(task, "train") == {"cat": 18, "dog": 18}
    assert per_class(task, "val") == {"cat": 2, "dog": 2}
    assert not files(task, "train") & files(task, "val")
    assert all(file.startswith("train/") for file in files(task, "train") | files(task, "val"))


def test_a_train_folder_alone_is_split_as_class_folders_are(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / "train" / name, 20)
    task = FolderTask("pets", tmp_path)
    assert [task.size(split) for split in SPLITS] == [28, 6, 6]


def test_a_class_that_only_train_has_keeps_its_label(tmp_path):
    for name in ("bird", "cat", "dog"):
        fill(tmp_path / "train" / name, 10)
    fill(tmp_path / "val" / "dog", 2)
    task = FolderTask("pets", tmp_path)
    assert task.classes == ("bird", "cat", "dog")
    assert [label for _, label in task.samples["test"]] == [2, 2]


def test_a_class_is_the_folder_at_the_top_however_deep_its_images_lie(tmp_path):
    for name in ("cats", "dogs"):
        for number, place in enumerate(("indoor", "outdoor/night")):
            fill(tmp_path / name / place, 10, first=10 * number)
    task = FolderTask("pets", tmp_path)
    assert task.classes == ("cats", "dogs")
    assert per_class(task, "train") == {"cats": 14, "dogs": 14}
    for split in SPLITS:
        assert all(f"/{task.classes[label]}/" in path for path, label in task.samples[split])


def test_hidden_folders_hold_no_class(root):
    before = FolderTask("pets", root)
    fill(root / ".thumbs", 4)
    fill(root / "cat" / ".ipynb_checkpoints", 4)
    after = FolderTask("pets", root)
    assert (after.classes, after.samples) == (before.classes, before.samples)


def test_classes_are_numbered_as_people_count(tmp_path):
    for name in ("10", "9", "b", "a", "A", "09"):
        fill(tmp_path / name, 4)
    assert FolderTask("sorted", tmp_path).classes == ("09", "9", "10", "A", "a", "b")


def test_splits_stay_when_the_folder_is_read_again_or_moved(root, tmp_path):
    first = FolderTask("pets", root)
    again = FolderTask("pets", root)
    assert again.samples == first.samples
    root.rename(tmp_path / "moved")
    moved = FolderTask("pets", tmp_path / "moved")
    assert all(files(moved, split) == files(first, split) for split in SPLITS)
    assert moved.fingerprint() == {
        "name": "pets",
        "classes": 2,
        "train": 28,
        "val": 6,
        "test": 6,
        "sha256": moved.fingerprint()["sha256"],
    }


def renamed(root: Path) -> None:
    (root / "cat" / "3.png").rename(root / "cat" / "3b.png")


def of_another_size(root: Path) -> None:
    with (root / "cat" / "3.png").open("ab") as file:
        file.write(b"\0")


def in_another_class(root: Path) -> None:
    (root / "cat" / "3.png").rename(root / "dog" / "3.png")


@pytest.mark.parametrize("change", [renamed, of_another_size, in_another_class])
def test_a_fingerprint_changes_with_a_file(change, root):
    before = FolderTask("pets", root).fingerprint()
    assert FolderTask("pets", root).fingerprint() == before
    change(root)
    assert FolderTask("pets", root).fingerprint() != before


# What is refused


def nothing(root: Path) -> None:
    root.mkdir()


def no_images(root: Path) -> None:
    (root / "cat").mkdir(parents=True)
    (root / "cat" / "notes.txt").write_text("none")


def one_class(root: Path) -> None:
    fill(root / "cat", 5)


def images_without_classes(root: Path) -> None:
    fill(root, 5)


def a_class_without_images(root: Path) -> None:
    for name in ("cat", "dog"):
        fill(root / name, 5)
    (root / "newt").mkdir()


def a_class_of_two(root: Path) -> None:
    fill(root / "cat", 5)
    fill(root / "dog", 2)


def a_class_of_two_in_two_places(root: Path) -> None:
    fill(root / "cat", 5)
    fill(root / "dog" / "indoor", 1)
    fill(root / "dog" / "outdoor", 1)


def a_class_of_one_beside_val(root: Path) -> None:
    fill(root / "train" / "cat", 5)
    fill(root / "train" / "dog", 1)
    fill(root / "val" / "dog", 1)


def a_class_that_train_lacks(root: Path) -> None:
    for name in ("cat", "dog"):
        fill(root / "train" / name, 5)
        fill(root / "val" / name, 1)
    fill(root / "val" / "newt", 1)


def an_empty_split(root: Path) -> None:
    for split in SPLITS:
        for name in ("cat", "dog"):
            fill(root / split / name, 0 if split == "val" else 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "data does not exist"),
        (nothing, r"data holds no images \(\.bmp, .*, \.jpg, .*, \.webp\)"),
        (no_images, r"data holds no images \(\.bmp, .*, \.jpg, .*, \.webp\)"),
        (one_class, r"data has 1 class \(cat\), a task needs two or more"),
        (images_without_classes, r"0\.png lies beside the class folders, not in one"),
        (a_class_without_images, "newt holds no images; add some or remove it"),
        (a_class_of_two, "dog has 2 images, 3 are needed"),
        (a_class_of_two_in_two_places, "data/dog has 2 images, 3 are needed"),
        (a_class_of_one_beside_val, "dog has 1 images, 2 are needed"),
        (a_class_that_train_lacks, "val has class 'newt', which the train split lacks"),
        (an_empty_split, "val holds no images"),
    ],
)
def test_a_folder_that_is_no_task_is_refused(make, message, tmp_path):
    make(tmp_path / "data")
    with pytest.raises(TaskError, match=message) as error:
        load_task(str(tmp_path / "data"))
    assert str(tmp_path) in message_of(error)
