"""Distortions of a batch: small, of each image by itself, and given by the generator alone."""

import math

import pytest
import torch
from torch import Tensor

from slim.tasks import Augmentation
from slim.tasks.augment import Distortions

AFFINE = Augmentation(affine=True)


def noise(count: int = 8, channels: int = 1) -> Tensor:
    return torch.rand(count, channels, 8, 12, generator=torch.Generator().manual_seed(1))


def augment(images: Tensor, augmentation: Augmentation, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return Distortions.draw(len(images), augmentation, generator).apply(images)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augmentation", [AFFINE, Augmentation(affine=True, hflip=0.5)])
def test_shape_type_and_range_are_kept(augmentation, channels):
    images = noise(channels=channels)
    distorted = augment(images, augmentation)
    assert (distorted.shape, distorted.dtype) == (images.shape, images.dtype)
    assert not torch.equal(distorted, images)
    assert float(images.min()) - 1e-6 <= float(distorted.min())
    assert float(distorted.max()) <= float(images.max()) + 1e-6


def test_outside_pixels_repeat_the_border():
    flat = torch.full((16, 1, 8, 8), 0.7)
    torch.testing.assert_close(augment(flat, AFFINE), flat)


def test_nothing_asked_nothing_done():
    images = noise()
    assert torch.equal(augment(images, Augmentation()), images)


def test_the_given_images_are_left_untouched():
    images = noise()
    before = images.clone()
    augment(images, Augmentation(affine=True, hflip=1.0))
    assert torch.equal(images, before)


def test_each_image_has_a_draw_of_its_own():
    distorted = augment(noise(1).expand(8, -1, -1, -1), AFFINE)
    assert len({tuple(image.flatten().tolist()) for image in distorted}) == 8


@pytest.mark.parametrize("augmentation", [AFFINE, Augmentation(hflip=0.5)])
def test_the_generator_decides(augmentation):
    images = noise(16)
    torch.manual_seed(0)
    first = augment(images, augmentation)
    torch.manual_seed(1)
    assert torch.equal(augment(images, augmentation), first)
    assert not torch.equal(augment(images, augmentation, seed=1), first)


def test_a_probability_of_1_flips_every_image():
    images = noise()
    assert torch.equal(augment(images, Augmentation(hflip=1.0)), images.flip(-1))


def test_a_probability_of_a_half_flips_half_the_images():
    images = noise(400)
    flipped = augment(images, Augmentation(hflip=0.5))
    mirrored = (flipped == images.flip(-1)).flatten(1).all(dim=1)
    assert torch.equal(flipped[~mirrored], images[~mirrored])
    assert 160 < int(mirrored.sum()) < 240


def maps(count: int = 500) -> tuple[Tensor, Tensor]:
    """Where distorted images look up their pixels: shifts (count, 2) and matrices (count, 2, 2).

    The images hold their own coordinates, in widths from the centre, so a distorted one tells
    where its centre came from and how its neighbours lie.
    """
    ramp = (torch.arange(64) + 0.5) / 64 - 0.5
    y, x = torch.meshgrid(ramp, ramp, indexing="ij")
    distorted = augment(torch.stack([x, y]).expand(count, 2, 64, 64), AFFINE)
    shifts = distorted[:, :, 31:33, 31:33].mean(dim=(2, 3))
    along_x = (distorted[:, :, 32, 40] - distorted[:, :, 32, 24]) * 64 / 16
    along_y = (distorted[:, :, 40, 32] - distorted[:, :, 24, 32]) * 64 / 16
    return shifts, torch.stack([along_x, along_y], dim=2)


def test_shifts_reach_8_percent_and_not_further():
    shifts, _ = maps()
    assert float(shifts.abs().max()) <= 0.08 + 1e-4
    assert bool((shifts.amax(dim=0) > 0.075).all())
    assert bool((shifts.amin(dim=0) < -0.075).all())
    assert shifts.mean(dim=0).tolist() == pytest.approx([0.0, 0.0], abs=0.01)


def test_rotation_scale_and_shear_stay_within_10_degrees_and_percent():
    _, matrix = maps()
    angle = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]) * 180 / math.pi
    scale = matrix[:, :, 0].norm(dim=1)
    assert float(angle.abs().max()) <= 10.01
    assert float(angle.max()) > 9
    assert float(angle.min()) < -9
    assert 0.899 <= float(scale.min()) < 0.92
    assert 1.08 < float(scale.max()) <= 1.101
    # What is left of the second axis once the rotation is undone: its scale, and the shear.
    turned = torch.deg2rad(-angle)
    shear = turned.cos() * matrix[:, 0, 1] - turned.sin() * matrix[:, 1, 1]
    assert float(shear.abs().max()) <= 0.1 * 1.1 + 1e-3
    assert float(torch.linalg.det(matrix).min()) > 0.7
