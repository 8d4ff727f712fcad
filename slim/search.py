"""The mask search: weights and soft masks trained together for a short time."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slim.masked_model import MaskedModel
from slim.parameter_groups import weight_groups
from slim.recipe import Recipe
from slim.tasks import Preprocessing, Task
from slim.training import Objective, Training, cross_entropy


@dataclass(frozen=True)
class Penalty:
    """Weights of the l1 penalties, each on the mean mask of its dimension.

    Args:
        tokens: Weight on the mean token mask.
        mhsa: Weight on the mean MHSA mask.
        mlp: Weight on the mean MLP mask.

    The paper's weights 1e-4, 2e-4 and 5e-5 on the sums over DeiT-S's 2,352 tokens, 4,608 MHSA
    dimensions and 18,432 MLP units are 0.24, 0.92 and 0.92 here; on the mean they carry over to
    models of other sizes.
    """

    tokens: float = 0.24
    mhsa: float = 0.92
    mlp: float = 0.92


def penalty_of(masked: MaskedModel, penalty: Penalty) -> Tensor:
    """The weighted sum of the mean absolute masks: a scalar, whatever batch and processes."""
    masks = masked.mask_values()
    total = penalty.mhsa * _mean(masks.mhsa) + penalty.mlp * _mean(masks.mlp)
    return total + penalty.tokens * _mean(masks.tokens) if masks.tokens else total


def _mean(masks: tuple[Tensor, ...]) -> Tensor:
    """The mean absolute value over all blocks: a scalar."""
    return torch.cat([mask.flatten() for mask in masks]).abs().mean()


def search_training(
    masked: MaskedModel,
    task: Task,
    preprocessing: Preprocessing,
    recipe: Recipe,
    penalty: Penalty,
    mask_lr: float,
    objective: Objective = cross_entropy,
    seed: int = 0,
    device: str = "cpu",
) -> Training:
    """Set a mask search up.

    Args:
        masked: From `attach_masks`; trained in place.
        task: The data.
        preprocessing: What the model expects of an image.
        recipe: For the weights.
        penalty: The pull of the masks towards 0.
        mask_lr: The masks' own learning rate; they get no weight decay.
        objective: The loss without the penalty.
        seed: See `Training`.
        device: Where.

    Returns:
        The training; masks stay in [0, 1] after each step.
    """

    def penalised(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        return objective(model, images, targets) + penalty_of(masked, penalty)

    return Training(
        masked,
        task,
        preprocessing,
        recipe,
        objective=penalised,
        seed=seed,
        device=device,
        param_groups=_groups(masked, recipe, mask_lr),
        after_step=masked.clamp_masks,
    )


def _groups(masked: MaskedModel, recipe: Recipe, mask_lr: float) -> list[dict[str, Any]]:
    """Masks apart from weights, with their own learning rate and no weight decay."""
    masks = [mask for mask in masked.mask_parameters().values() if mask.requires_grad]
    for mask in masks:
        mask.requires_grad_(False)  # leave them out of the weights' groups
    groups = weight_groups(masked, recipe.weight_decay, recipe.layer_decay)
    for mask in masks:
        mask.requires_grad_(True)
    apart = {"lr": mask_lr, "weight_decay": 0.0, "use_fallback": True}  # no matrices for Muon
    return [*groups, {"params": masks, **apart}]
