"""Giving a network a new classifier for another task."""

from typing import Any

from torch import nn

from slim.errors import SlimError


def with_new_head(vit: Any, num_classes: int) -> nn.Module:
    """Replace the classifier by a fresh one, initialised as timm does.

    Args:
        vit: A subnetwork, or a dense timm model of a family; changed in place.
        num_classes: Of the new task.

    Returns:
        The same network.

    Raises:
        SlimError: If `num_classes` is negative.
    """
    if num_classes < 0:
        raise SlimError(f"num_classes {num_classes} is below 0")
    vit.reset_classifier(num_classes)
    heads = vit.get_classifier()
    for head in heads if isinstance(heads, tuple) else (heads,):
        if isinstance(head, nn.Linear):
            nn.init.trunc_normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)
    network: nn.Module = vit
    return network
