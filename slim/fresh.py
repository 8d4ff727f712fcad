"""The same architecture with weights that have learned nothing."""

from typing import Any

from timm.layers import trunc_normal_
from torch import nn

from slim.subnetwork import architecture_of, build_subnetwork


def with_fresh_weights(vit: Any) -> nn.Module:
    """Build a network of the same architecture, initialised as timm initialises a ViT.

    Args:
        vit: A subnetwork, or a dense timm model of a family; left as it is.

    Returns:
        A new network, in training mode, with the classifier that `vit` has now.
    """
    fresh = build_subnetwork(architecture_of(vit))
    for module in fresh.modules():
        if isinstance(module, nn.Linear):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return fresh
