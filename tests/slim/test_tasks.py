"""A task is fixed: its images, labels and splits, and every batch of a seed and epoch."""

import json
import os
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from slim import FileFormatError, TaskError
from slim.tasks import (
    EMBEDDED,
    SPLITS,
    ArrayTask,
    Augmentation,
    Preprocessing,
    Task,
    load_task,
    with_absolute_path,
)
from slim.tasks.augment import Distortions
from slim.tasks.order import rank_positions
from tests.slim.messages import message_of

ROOT = Path(__file__).parents[2]
PLAIN = Augmentation()
# Under which a batch holds the images' own values divided by 255.
RAW = Preprocessing((1, 4, 4), (0.0,), (1.0,))

embedded = cache(load_task)


def numbered(count: int = 200) -> ArrayTask:
    """Image `i` has the value `i` everywhere, so that a batch tells which images are in it."""
    images = np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 1, 4, 4)
    )
    return ArrayTask.stratified("numbered", images.copy(), np.arange(count) % 2, ("even", "odd"))


def epoch_of(task: Task, batch_size: int = 10, seed: int = 0, epoch: int = 0, **where):
    return list(task.train_batches(RAW, PLAIN, batch_size, seed, epoch, **where))


def numbers(batches) -> list[int]:
    return [round(255 * float(image[0, 0, 0])) for images, _ in batches for image in images]


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


def broken(**changes) -> ArrayTask:
    parts = {
        "name": "broken",
        "images": np.zeros((6, 1, 4, 4), np.uint8),
        "labels": np.array([0, 1, 0, 1, 0, 1]),
        "classes": ("a", "b"),
        "splits": {"train": np.arange(4), "val": np.array([4]), "test": np.array([5])},
    }
    return ArrayTask(**(parts | changes))


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
        broken(**changes)
    assert "broken" in message_of(error)


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


# Batches


def test_a_training_epoch_holds_each_image_of_the_split_at_most_once():
    task = numbered()
    batches = epoch_of(task, batch_size=32)
    assert [images.shape for images, _ in batches] == [(32, 1, 4, 4)] * 4
    assert len(batches) == task.steps_per_epoch(32)  # the 12 images left over are left out
    assert len(set(numbers(batches))) == 128
    assert set(numbers(batches)) <= set(task.splits["train"].tolist())


def test_images_keep_their_labels_and_types():
    for images, labels in epoch_of(numbered()):
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert [number % 2 for number in numbers([(images, labels)])] == labels.tolist()


@pytest.mark.parametrize("distorted", [Augmentation(affine=True), Augmentation(hflip=0.5)])
def test_distortions_are_determined_by_seed_epoch_and_process(distorted):
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (1, 1, 4, 4), dtype=np.uint8)
    images = np.broadcast_to(image, (60, 1, 4, 4))  # all alike, so that their order is no matter
    task = ArrayTask.stratified("twins", images, np.arange(60) % 2, ("a", "b"))

    def epoch(seed: int, number: int, rank: int) -> tuple[float, ...]:
        torch.manual_seed(int(random.integers(1000)))  # the global generator does not matter
        batches = task.train_batches(RAW, distorted, 7, seed, number, rank, world_size=2)
        return tuple(torch.cat([x for x, _ in batches]).flatten().tolist())

    cases = [(0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1)]
    epochs = [epoch(*case) for case in cases]
    assert [epoch(*case) for case in cases] == epochs
    assert len(set(epochs)) == len(cases)


def test_the_order_is_determined_by_seed_and_epoch():
    task = numbered()
    orders = [numbers(epoch_of(task, 140, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert numbers(epoch_of(numbered(), 140)) == orders[0]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == sorted(orders[0]) for order in orders)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_share_an_epoch_without_overlap(world_size):
    task = numbered()
    parts = [
        numbers(epoch_of(task, 10, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    steps = task.steps_per_epoch(10, world_size)
    assert [len(part) for part in parts] == [10 * steps] * world_size
    assert len(set().union(*parts)) == 10 * steps * world_size
    together = numbers(epoch_of(task, 10 * world_size))
    assert set().union(*parts) == set(together)


DISTORTED = Augmentation(affine=True, hflip=0.5, aug_repeats=3)


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_see_together_what_one_sees_in_a_batch_as_large(world_size):
    task = numbered()
    alone = list(task.train_batches(RAW, DISTORTED, 10 * world_size, 3, 1))
    for rank in range(world_size):
        mine = torch.from_numpy(rank_positions(10, rank, world_size))
        batches = task.train_batches(RAW, DISTORTED, 10, 3, 1, rank, world_size)
        for (images, labels), (all_images, all_labels) in zip(batches, alone, strict=True):
            torch.testing.assert_close(images, all_images[mine])
            assert torch.equal(labels, all_labels[mine])


@pytest.mark.parametrize("start_step", [0, 1, 9, 14])
def test_an_epoch_can_begin_at_any_step(start_step):
    task = numbered()
    whole = list(task.train_batches(RAW, DISTORTED, 10, 3, 1))
    rest = list(task.train_batches(RAW, DISTORTED, 10, 3, 1, start_step=start_step))
    assert len(rest) == len(whole) - start_step
    for (images, labels), (expected, expected_labels) in zip(
        rest, whole[start_step:], strict=True
    ):
        assert torch.equal(images, expected)
        assert torch.equal(labels, expected_labels)


def test_skipped_steps_are_not_distorted(monkeypatch):
    drawn = []
    draw = Distortions.draw
    monkeypatch.setattr(Distortions, "draw", lambda *of: drawn.append(of) or draw(*of))
    list(numbered().train_batches(RAW, DISTORTED, 10, 3, 1, start_step=12))
    assert len(drawn) == 2


def test_repeated_images_are_distorted_each_in_its_own_way():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (200, 1, 4, 4), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(200)
    task = ArrayTask.stratified("noise", images, np.arange(200) % 2, ("even", "odd"))
    shown = list(task.train_batches(RAW, Augmentation(aug_repeats=3), 30, 0, 0))
    assert len(shown) == task.steps_per_epoch(30)
    assert len(set(numbers(shown))) == len(numbers(shown)) / 3
    (batch, _), *_ = task.train_batches(RAW, DISTORTED, 30, 0, 0)
    assert len({tuple(image.flatten().tolist()) for image in batch}) == 30


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("split", SPLITS)
def test_processes_share_an_evaluation(split, world_size):
    task = numbered()
    parts = [
        numbers(task.eval_batches(split, RAW, 4, rank, world_size)) for rank in range(world_size)
    ]
    assert sorted(number for part in parts for number in part) == task.splits[split].tolist()
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("batch_size", "world_size"), [(141, 1), (71, 2)])
def test_a_batch_larger_than_the_split_is_refused(batch_size, world_size):
    with pytest.raises(TaskError, match="140 training images, fewer than one batch") as error:
        epoch_of(numbered(), batch_size, world_size=world_size)
    assert f"{batch_size} x {world_size}" in message_of(error)


@pytest.mark.parametrize(
    "option",
    [
        {"auto_augment": "rand-m9"},
        {"color_jitter": 0.3},
        {"random_erasing": 0.1},
        {"crop_scale": 0.5},
    ],
)
def test_what_only_image_folders_offer_is_not_passed_over(option):
    with pytest.raises(TaskError, match="need an image folder") as error:
        next(iter(numbered().train_batches(RAW, Augmentation(**option), 10, 0, 0)))
    assert next(iter(option)) in message_of(error)


@pytest.mark.parametrize("split", SPLITS)
def test_evaluation_takes_a_split_once_and_in_its_order(split):
    task = numbered()
    batches = list(task.eval_batches(split, RAW, 16))
    assert numbers(batches) == task.splits[split].tolist()
    labels = torch.cat([labels for _, labels in batches])
    assert labels.tolist() == task.labels[task.splits[split]].tolist()


def test_an_evaluation_on_some_images_is_of_the_same_ones_each_time():
    task = numbered()
    all_there_are = task.splits["val"].tolist()
    some = numbers(task.eval_batches("val", RAW, 4, most=11))
    assert len(set(some)) == 11
    assert some == sorted(some)
    assert set(some) < set(all_there_are)
    assert some == numbers(task.eval_batches("val", RAW, 4, most=11))
    assert some != all_there_are[:11]
    parts = [numbers(task.eval_batches("val", RAW, 4, rank, 2, most=11)) for rank in (0, 1)]
    assert sorted(parts[0] + parts[1]) == some
    assert numbers(task.eval_batches("val", RAW, 4, most=10**6)) == all_there_are


def test_batches_are_given_on_the_device_where_they_are_wanted():
    for images, labels in numbered().eval_batches("val", RAW, 16, device="meta"):
        assert images.is_meta
        assert labels.is_meta


def test_arrays_that_may_not_be_written_are_enough():
    task = numbered()
    for array in (task.images, task.labels, *task.splits.values()):
        array.flags.writeable = False  # as Ray's object store maps them
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(epoch_of(task)) == 14
        assert len(list(task.eval_batches("val", RAW, 16))) == 2


# What a network expects of an image


def test_statistics_normalise_the_train_split():
    images = np.random.default_rng(0).integers(0, 200, (80, 3, 4, 4), dtype=np.uint8)
    images[:, 2] = 50  # a channel without variance
    task = ArrayTask.stratified("colour", images, np.arange(80) % 2, ("a", "b"))
    preprocessing = Preprocessing((3, 4, 4), *task.statistics())
    for batches in (
        task.train_batches(preprocessing, PLAIN, task.size("train"), 0, 0),
        task.eval_batches("train", preprocessing, 80),
    ):
        ((batch, _),) = batches
        assert batch.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0.0] * 3, abs=0.1)
        deviation = batch.std(dim=(0, 2, 3), correction=0).tolist()
        assert deviation == pytest.approx([1.0, 1.0, 0.0], abs=1e-3)


def one_image(pixels: list, size: tuple[int, int, int]) -> torch.Tensor:
    """An image (C, 4, 4) of these channels as a network of `size` gets it, in [0, 255]."""
    images = np.broadcast_to(
        np.array(pixels, np.uint8)[None, :, None, None], (6, len(pixels), 4, 4)
    )
    task = broken(images=images)
    ((batch, _),) = task.eval_batches("val", Preprocessing(size, (0.0,), (1.0,)), 1)
    return batch[0] * 255


@pytest.mark.parametrize(
    ("stored", "size", "given"),
    [
        ([90], (3, 4, 4), [90, 90, 90]),
        ([30, 60, 91], (1, 4, 4), [60]),
        ([30, 60, 90], (3, 4, 4), [30, 60, 90]),
        ([90], (1, 8, 12), [90]),
        ([90], (3, 2, 2), [90, 90, 90]),
        ([30, 60, 90], (3, 7, 3), [30, 60, 90]),
    ],
)
def test_channels_and_sizes_are_those_the_network_expects(stored, size, given):
    image = one_image(stored, size)
    assert image.shape == size
    expected = torch.tensor(given, dtype=torch.float32)[:, None, None].expand(size)
    torch.testing.assert_close(image, expected)


@pytest.mark.parametrize(
    ("width", "row"),
    [(8, [0, 0, 0, 50, 150, 200, 200, 200]), (2, [29, 171]), (4, [0, 0, 200, 200])],
)
def test_a_resize_is_bilinear_and_averages_what_it_shrinks(width, row):
    images = np.zeros((6, 1, 4, 4), np.uint8)
    images[..., 2:] = 200
    task = broken(images=images)
    ((batch, _),) = task.eval_batches("val", Preprocessing((1, 4, width), (0.0,), (1.0,)), 1)
    assert (batch[0, 0, 0] * 255).tolist() == pytest.approx(row, abs=0.01)


def test_preprocessing_comes_back_from_json():
    given = Preprocessing((3, 8, 12), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), "bicubic", 0.9)
    assert Preprocessing.from_json(json.loads(json.dumps(given.to_json()))) == given


@pytest.mark.parametrize(
    "change",
    [
        {"input_size": [3, 8]},
        {"input_size": None},
        {"mean": 0.5},
        {"std": ["a"]},
        {"crop_pct": "most"},
        {"input_size": [float("inf"), 8, 8]},
        {"input_size": [1, 0, 8]},
        {"mean": [0.5, 0.5]},
        {"mean": [float("nan")]},
        {"std": [0.0]},
        {"std": [float("inf")]},
        {"crop_pct": 0.0},
        {"crop_pct": 1.5},
        {"more": 1},
    ],
)
def test_preprocessing_of_another_form_is_refused(change):
    with pytest.raises(FileFormatError, match="preprocessing"):
        Preprocessing.from_json(RAW.to_json() | change)
    with pytest.raises(FileFormatError, match="preprocessing"):
        Preprocessing.from_json([RAW.to_json()])
