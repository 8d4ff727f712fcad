"""Random distortions of a batch of tensors, one draw per image."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from slim.tasks.task import Augmentation

DEGREES, SHIFT, SCALE, SHEAR = 10.0, 0.08, 0.10, 0.10


def augment_batch(
    images: Tensor, augmentation: Augmentation, generator: torch.Generator
) -> Tensor:
    """Distort images (B, C, H, W); outside pixels repeat the border."""
    if augmentation.affine:
        grid = F.affine_grid(_affine(len(images), generator), list(images.shape), False)
        images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    if augmentation.hflip:
        flip = torch.rand(len(images), generator=generator) < augmentation.hflip
        images = torch.where(flip[:, None, None, None], images.flip(-1), images)
    return images


def _affine(count: int, generator: torch.Generator) -> Tensor:
    """Random maps from output to input coordinates: (count, 2, 3)."""

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    angle = uniform(DEGREES * math.pi / 180)
    stretch_x, stretch_y = 1 + uniform(SCALE), 1 + uniform(SCALE)
    shear = uniform(SHEAR)
    shift = torch.stack([uniform(2 * SHIFT), uniform(2 * SHIFT)], dim=1)
    row_x = torch.stack([angle.cos() * stretch_x, (shear - angle.sin()) * stretch_y], dim=1)
    row_y = torch.stack([(angle.sin()) * stretch_x, angle.cos() * stretch_y], dim=1)
    return torch.cat([torch.stack([row_x, row_y], dim=1), shift[:, :, None]], dim=2)
