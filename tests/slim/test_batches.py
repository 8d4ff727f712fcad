"""Batches of a task: what is in them, in which order, in one process and in several."""

import warnings

import numpy as np
import pytest
import torch

from slim import TaskError
from slim.tasks import SPLITS, ArrayTask, Augmentation
from slim.tasks.augment import Distortions
from slim.tasks.order import rank_positions
from tests.slim.messages import message_of
from tests.slim.small_tasks import RAW, epoch_of, numbered, numbers


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
