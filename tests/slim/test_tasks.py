"""A task is fixed: its images, labels and splits, and every batch of a seed and epoch."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from slim import TaskError
from slim.tasks import (
    EMBEDDED,
    SPLITS,
    ArrayTask,
    Augmentation,
    Preprocessing,
    load_task,
    with_absolute_path,
)
from tests.slim.messages import message_of
from tests.slim.small_tasks import numbered, six

ROOT = Path(__file__).parents[2]

embedded = cache(load_task)


# The embedded data


@pytest.mark.parametrize(
    ("name", "count", "size"), [("mnist", 5000, (28, 28)), ("digits", 1797, (8, 8))]
)
def test_embedded_data_are_whole(name, count, size):
    task = embedded(name)
    assert task.images.shape == (count, 1, *size)
    assert task.images.dtype == np.uint8
    assert (int(task.images.min()), int(task.images.max())) == (0, 255)
    assert task.classes == tuple("0123456789")
    assert set(task.labels.tolist()) == set(range(10))
    assert (task.name, task.channels, task.num_classes) == (name, 1, 10)


@pytest.mark.parametrize("name", EMBEDDED)
def test_splits_share_no_image_and_leave_none_out(name):
    task = embedded(name)
    indices = np.concatenate([task.splits[split] for split in SPLITS])
    assert np.array_equal(np.sort(indices), np.arange(len(task.labels)))
    assert sum(task.size(split) for split in SPLITS) == len(task.labels)


@pytest.mark.parametrize("name", EMBEDDED)
def test_every_class_is_split_70_15_15(name):
    task = embedded(name)
    for label in range(10):
        total = int((task.labels == label).sum())
        for split, share in (("train", 0.70), ("val", 0.15), ("test", 0.15)):
            part = int((task.labels[task.splits[split]] == label).sum())
            assert part == pytest.approx(share * total, abs=1)


def test_data_splits_and_batches_are_the_same_in_every_process():
    report = (
        "import json; from tests.slim.test_tasks import digest_of;"
        "print(json.dumps([digest_of(name) for name in ('mnist', 'digits')]))"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", report],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(elsewhere.stdout) == [digest_of("mnist"), digest_of("digits")]


def digest_of(name: str) -> list:
    """The fingerprint, and the sum over an augmented batch."""
    task = embedded(name)
    mean, std = task.statistics()
    preprocessing = Preprocessing((1, *task.images.shape[2:]), mean, std)
    distorted = Augmentation(affine=True, hflip=0.5)
    images, labels = next(iter(task.train_batches(preprocessing, distorted, 32, 3, 1)))
    return [task.fingerprint(), round(float(images.double().sum()), 3), labels.tolist()]


# The fingerprint


def test_a_fingerprint_tells_name_and_sizes_in_json():
    found = json.loads(json.dumps(numbered().fingerprint()))
    assert len(found.pop("sha256")) == 64
    assert found == {"name": "numbered", "classes": 2, "train": 140, "val": 30, "test": 30}


def one_pixel(task: ArrayTask) -> None:
    task.images[7, 0, 1, 2] ^= 1


def one_label(task: ArrayTask) -> None:
    task.labels[7] ^= 1


def two_images_swapped_between_splits(task: ArrayTask) -> None:
    train, test = task.splits["train"], task.splits["test"]
    train[0], test[0] = test[0], train[0]


def a_border_moved_between_splits(task: ArrayTask) -> None:
    train, val = task.splits["train"], task.splits["val"]
    task.splits |= {"train": train[:-1], "val": np.concatenate([train[-1:], val])}


@pytest.mark.parametrize(
    "change",
    [one_pixel, one_label, two_images_swapped_between_splits, a_border_moved_between_splits],
)
def test_a_fingerprint_changes_with(change):
    task = numbered()
    before = task.fingerprint()
    assert numbered().fingerprint() == before
    change(task)
    assert task.fingerprint() != before


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.array([0, 1, 2, 0, 1, 0])}, "labels 0 to 2, expected 0 to 1"),
        ({"labels": np.array([0, 1, -1, 0, 1, 0])}, "labels -1 to 1, expected 0 to 1"),
        ({"labels": np.zeros(6, int), "classes": ("a",)}, "1 class, a task needs two or more"),
        *(
            ({"splits": {s: np.arange(6 * (s != empty)) for s in SPLITS}}, f"its {empty} split")
            for empty in SPLITS
        ),
    ],
)
def test_arrays_that_are_no_task_are_refused(changes, message):
    with pytest.raises(TaskError, match=message) as error:
        six(**changes)
    assert "six" in message_of(error)


def test_no_images_at_all_are_refused():
    nothing = np.zeros((0, 1, 4, 4), np.uint8), np.zeros(0, np.int64)
    with pytest.raises(TaskError, match="no image in its train split"):
        ArrayTask.stratified("nothing", *nothing, ("a", "b"))


@pytest.mark.parametrize("name", ["", "cifar", "mnist:7", "Digits", "imagenet"])
def test_an_unknown_name_is_answered_with_the_known_ones(name):
    with pytest.raises(TaskError) as error:
        load_task(name)
    message = message_of(error)
    assert repr(name) in message
    known = ("mnist", "digits", "fashion-mnist[-IMAGES[+MORE]][:FOLDER]")
    assert all(name in message for name in known)


@pytest.mark.parametrize("name", [*EMBEDDED, "animal-mnist", "fashion-mnist-100"])
def test_a_folder_of_the_same_name_does_not_stand_in_for_a_known_one(name, tmp_path, monkeypatch):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert with_absolute_path(name) == name
    assert with_absolute_path(f"./{name}") == str(tmp_path / name)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "nowhere/else"])
def test_a_path_that_does_not_exist_is_named(name):
    with pytest.raises(TaskError, match="does not exist") as error:
        load_task(name)
    assert str(Path(name)) in message_of(error)
