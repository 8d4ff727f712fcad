"""The residual stream of a Vision Transformer, step by step."""

from typing import Any

from torch import Tensor

from slim.vit.masks import MaskedBlock


def embed(model: Any, images: Tensor) -> Tensor:
    """The tokens that enter the first block: (B, N, D)."""
    patches = model.patch_embed(images)
    tokens: Tensor = model.norm_pre(model.patch_drop(model._pos_embed(patches)))
    return tokens


def enter(model: Any, name: str, x: Tensor) -> Tensor:
    """What the stream is before a block: as the block before left it."""
    del model, name
    return x


def branch(block: Any, name: str, x: Tensor) -> Tensor:
    """What a block's branch, `attn` or `mlp`, adds to the stream."""
    if isinstance(block, MaskedBlock):
        return block.attention_branch(x) if name == "attn" else block.mlp_branch(x)
    if name == "attn":
        out: Tensor = block.ls1(block.attn(block.norm1(x)))
    else:
        out = block.ls2(block.mlp(block.norm2(x)))
    return out
