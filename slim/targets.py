"""What a batch is trained towards: labels mixed and smoothed as the recipe asks."""

import torch
from timm.data import Mixup
from torch import Tensor
from torch.nn import functional as F

from slim.recipe import Recipe


class Targets:
    """Mixes images and makes labels soft.

    Args:
        recipe: Its `mixup`, `cutmix` and `label_smoothing`.
        num_classes: Of the task.
    """

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        self.num_classes, self.smoothing = num_classes, recipe.label_smoothing
        self.mixup = _mixup(recipe, num_classes)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W), mixed in place, and targets: labels (B,) or soft (B, classes)."""
        if self.mixup is not None:
            even = len(images) // 2 * 2  # timm takes pairs, and mixes them in place
            _, soft = self.mixup(images[:even], labels[:even])
            return images, torch.cat([soft, self._smooth(labels[even:])])
        return images, self._smooth(labels) if self.smoothing else labels

    def _smooth(self, labels: Tensor) -> Tensor:
        return smooth_labels(labels, self.num_classes, self.smoothing)


def smooth_labels(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Labels (B,) as distributions (B, classes)."""
    hard = F.one_hot(labels, num_classes).float()
    return hard * (1 - smoothing) + smoothing / num_classes


def _mixup(recipe: Recipe, num_classes: int) -> Mixup | None:
    if not recipe.mixup and not recipe.cutmix:
        return None
    return Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        label_smoothing=recipe.label_smoothing,
        num_classes=num_classes,
    )
