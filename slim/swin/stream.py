"""The residual stream of a Swin Transformer, step by step."""

from typing import Any

from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor


def embed(model: Any, images: Tensor) -> Tensor:
    """The tokens that enter the first block: (B, rows, columns, D)."""
    tokens: Tensor = model.patch_embed(images)
    return tokens


def enter(model: Any, name: str, x: Tensor) -> Tensor:
    """What the stream is before a block: patches merge before the first one of a stage."""
    stage, _, place = name.removeprefix("layers.").partition(".blocks.")
    merged: Tensor = model.layers[int(stage)].downsample(x) if place == "0" else x
    return merged


def branch(block: Any, name: str, x: Tensor) -> Tensor:
    """What a block's branch, `attn` or `mlp`, adds to the stream."""
    if name == "mlp":
        out: Tensor = block.mlp(block.norm2(x))
    elif isinstance(block, SwinTransformerBlock):
        out = block._attn(block.norm1(x))
    else:
        out = block.attn(block.norm1(x))
    return out
