"""Giving a network a new classifier for another task."""

from dataclasses import replace

from torch import nn

from slim.architecture import Architecture
from slim.spec import read_spec


def with_new_head(vit: nn.Module, num_classes: int) -> nn.Module:
    """Replace the classifier by a fresh one.

    Args:
        vit: A subnetwork, or a dense timm VisionTransformer; changed in place.
        num_classes: Of the new task.

    Returns:
        The same network; its `architecture` counts the new head.
    """
    architecture = getattr(vit, "architecture", None) or Architecture.dense(read_spec(vit))
    spec = replace(architecture.spec, num_classes=num_classes)
    vit.reset_classifier(num_classes)
    for head in (getattr(vit, "head", None), getattr(vit, "head_dist", None)):
        if isinstance(head, nn.Linear):
            nn.init.trunc_normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)
    vit.architecture = replace(architecture, spec=spec)
    return vit
