"""Fitting what a Vision Transformer knows of positions to another grid."""

from typing import Any

from timm.layers import resample_abs_pos_embed
from torch import Tensor

from slim.architecture import Architecture


def resample(state: dict[str, Tensor], old: Architecture, new: Architecture) -> None:
    """Resample the position embedding in place, as timm does.

    Args:
        state: Parameters by name.
        old: The network that they are of.
        new: The one that they are for.
    """
    spec: Any = old.spec
    if spec.pos_embed and old.spec.block(0).grid_size != new.spec.block(0).grid_size:
        state["pos_embed"] = resample_abs_pos_embed(
            state["pos_embed"],
            new_size=list(new.spec.block(0).grid_size),
            old_size=list(spec.grid_size),
            num_prefix_tokens=0 if spec.no_embed_class else spec.num_prefix_tokens,
        )
