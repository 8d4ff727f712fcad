"""What a network expects of an image."""

import json

import numpy as np
import pytest
import torch

from slim import FileFormatError
from slim.tasks import ArrayTask, Preprocessing
from tests.slim.small_tasks import PLAIN, RAW, six


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
    task = six(images=images)
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
    task = six(images=images)
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
