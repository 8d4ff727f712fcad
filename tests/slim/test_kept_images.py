"""A process decodes val images once, and gives the same batches from what it kept."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from slim.tasks import FolderTask, Preprocessing
from tests.slim.image_folders import fill

NORMALISED = Preprocessing((3, 8, 8), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
IMAGE = 3 * 8 * 8  # bytes


class Counting(FolderTask):
    """Counts the images that it opens."""

    opened = 0

    def open_image(self, reference: str) -> Image.Image:
        """See `ImageTask.open_image`."""
        Counting.opened += 1
        return super().open_image(reference)


@pytest.fixture
def task(tmp_path: Path) -> FolderTask:
    """18 val images: six of each of three classes."""
    for number, name in enumerate(("cat", "dog", "owl")):
        fill(tmp_path / "data" / "train" / name, 2, first=100 * number)
        fill(tmp_path / "data" / "val" / name, 6, first=100 * number + 10)
        fill(tmp_path / "data" / "test" / name, 6, first=100 * number + 20)
    Counting.opened = 0
    return Counting("pets", tmp_path / "data", workers=0)


def batches(task: FolderTask, split: str = "val", **where: Any) -> list[tuple[Tensor, Tensor]]:
    return list(task.eval_batches(split, NORMALISED, 4, **where))


def same(one: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) for batch in pairs for a, b in zip(*batch, strict=True))


def test_batches_are_given_on_the_device_where_they_are_wanted(task: FolderTask) -> None:
    task.keep_images(10**6)
    for _ in range(2):
        assert all(part.is_meta for batch in batches(task, device="meta") for part in batch)
    assert Counting.opened == 18


def test_without_leave_nothing_is_kept(task: FolderTask) -> None:
    assert same(batches(task), batches(task))
    assert Counting.opened == 2 * 18


def test_batches_from_what_is_kept_are_those_that_were_decoded(task: FolderTask) -> None:
    expected = batches(task)
    task.keep_images(10**6)
    Counting.opened = 0
    for _ in range(3):
        assert same(batches(task), expected)
    assert Counting.opened == 18
    sent = pickle.loads(pickle.dumps(task))  # as a worker gets it for each job
    assert same(batches(sent), expected)
    assert Counting.opened == 18


def test_what_does_not_fit_is_decoded_each_time(task: FolderTask) -> None:
    expected = batches(task)
    task.keep_images(9 * IMAGE)  # two batches of four
    Counting.opened = 0
    for times in (1, 2, 3):
        assert same(batches(task), expected)
        assert Counting.opened == 18 + (times - 1) * 10


def test_a_pass_that_ends_early_keeps_what_it_had(task: FolderTask) -> None:
    expected = batches(task)
    task.keep_images(10**6)
    passing = iter(task.eval_batches("val", NORMALISED, 4))
    next(passing), next(passing)
    Counting.opened = 0
    assert same(batches(task), expected)
    assert Counting.opened == 18 - 8
    assert same(batches(task), expected)
    assert Counting.opened == 18 - 8


def test_processes_sizes_and_splits_have_images_of_their_own(task: FolderTask) -> None:
    task.keep_images(10**6)
    whole, small = batches(task), Preprocessing((3, 4, 4), *[(0.5,) * 3] * 2)
    for rank in (0, 1):
        mine = torch.cat([images for images, _ in batches(task, rank=rank, world_size=2)])
        assert torch.equal(mine, torch.cat([images for images, _ in whole])[rank::2])
    assert next(iter(task.eval_batches("val", small, 4)))[0].shape == (4, 3, 4, 4)
    Counting.opened = 0
    for split in ("test", "train"):  # looked at once; distorted
        assert same(batches(task, split), batches(task, split))
    assert Counting.opened == 2 * (18 + 6)


def test_some_images_of_a_split_are_kept_apart_from_all(task: FolderTask) -> None:
    task.keep_images(10**6)
    whole, some = batches(task), batches(task, most=5)
    assert [len(labels) for _, labels in some] == [4, 1]
    shown = torch.cat([images for images, _ in whole])
    assert all(any(torch.equal(one, other) for other in shown) for one in some[0][0])
    Counting.opened = 0
    assert same(batches(task), whole)
    assert same(batches(task, most=5), some)
    assert same(batches(task, most=10**6), whole)
    assert Counting.opened == 0


def test_what_was_asked_for_longest_ago_makes_room(task: FolderTask) -> None:
    other = pickle.loads(pickle.dumps(task))
    for each in (task, other):
        each.keep_images(20 * IMAGE)
    expected = batches(task)
    assert same(batches(other), expected)
    Counting.opened = 0
    assert same(batches(other), expected)
    assert Counting.opened == 0
    assert same(batches(task), expected)
    assert Counting.opened == 18
