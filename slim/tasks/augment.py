"""Random distortions of a batch of tensors, one draw per image."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from slim.tasks.task import Augmentation

DEGREES, SHIFT, SCALE, SHEAR = 10.0, 0.08, 0.10, 0.10


@dataclass(frozen=True)
class Distortions:
    """What is done to each image of a batch.

    Args:
        affine: Maps from output to input coordinates (count, 2, 3), None for none.
        flip: Whether to mirror (count,), None for none.
    """

    affine: Tensor | None
    flip: Tensor | None

    @classmethod
    def draw(
        cls, count: int, augmentation: Augmentation, generator: torch.Generator
    ) -> "Distortions":
        """Draw for so many images."""
        affine = _affine(count, generator) if augmentation.affine else None
        chance = augmentation.hflip
        flip = torch.rand(count, generator=generator) < chance if chance else None
        return cls(affine, flip)

    def of(self, positions: Tensor) -> "Distortions":
        """Those of some of the images."""
        affine = None if self.affine is None else self.affine[positions]
        return Distortions(affine, None if self.flip is None else self.flip[positions])

    def apply(self, images: Tensor) -> Tensor:
        """Distort images (count, C, H, W); outside pixels repeat the border."""
        if self.affine is not None:
            grid = F.affine_grid(self.affine, list(images.shape), False)
            images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        if self.flip is not None:
            images = torch.where(self.flip[:, None, None, None], images.flip(-1), images)
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
