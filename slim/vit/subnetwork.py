"""The blocks of a slimmed Vision Transformer, each of its own width."""

from functools import partial
from typing import Any

import torch
from timm.layers import DropPath, LayerScale
from timm.models._features import feature_take_indices
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from slim.aligned import with_aligned_rows
from slim.architecture import Architecture
from slim.attention import SlimAttention
from slim.constant_branch import ConstantBranch
from slim.errors import UnsupportedModelError
from slim.network import SlimNetwork
from slim.vit.spec import ACTIVATIONS, MLPS, NORMS, VitSpec


class SlimVisionTransformer(SlimNetwork, VisionTransformer):
    """A slimmed Vision Transformer of timm."""

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        **kwargs: Any,
    ) -> Any:
        """What leaves the blocks, as timm's method gives it: maps or tokens (B, N kept, D).

        Raises:
            UnsupportedModelError: If maps are asked for of a block that dropped tokens.
        """
        asked, _ = feature_take_indices(len(self.blocks), indices)
        kept = self._built.tokens
        holes = [block for block in asked if len(kept[block]) < self.patch_embed.num_patches]
        if output_fmt == "NCHW" and holes:
            raise UnsupportedModelError(
                f"block {holes[0]} keeps {len(kept[holes[0]])} of "
                f"{self.patch_embed.num_patches} patch tokens, which are no map (NCHW); give "
                "output_fmt='NLC', and find their positions in vit.architecture.tokens"
            )
        given = (indices, return_prefix_tokens, norm, stop_early, output_fmt)
        return super().forward_intermediates(x, *given, **kwargs)


class SlimVisionTransformerDistilled(SlimVisionTransformer, VisionTransformerDistilled):
    """A slimmed Vision Transformer of timm with a distillation token."""


class SlimBlock(nn.Module):
    """timm's pre-norm `Block` that drops tokens first and holds only what is kept.

    A branch pruned whole is a `ConstantBranch`, or nothing if the dense branch has no bias.
    Parameters have timm's names.
    """

    keep: Tensor | None

    def __init__(self, architecture: Architecture, block: int) -> None:
        super().__init__()
        spec: Any = architecture.spec
        self.register_buffer("keep", token_index(architecture, block), persistent=False)
        if architecture.dims_in(block):
            self.norm1 = _norm(spec)
            self.attn: nn.Module | None = SlimAttention(architecture, block)
            self.ls1 = LayerScale(spec.embed_dim) if spec.layer_scale else nn.Identity()
        else:
            self.norm1, self.ls1 = nn.Identity(), nn.Identity()
            self.attn = ConstantBranch(spec.embed_dim) if spec.proj_bias else None
        self.drop_path1 = DropPath(0.0)
        if architecture.units[block]:
            self.norm2 = _norm(spec)
            self.mlp: nn.Module | None = _mlp(spec, len(architecture.units[block]))
            self.ls2 = LayerScale(spec.embed_dim) if spec.layer_scale else nn.Identity()
        else:
            self.norm2, self.ls2 = nn.Identity(), nn.Identity()
            self.mlp = ConstantBranch(spec.embed_dim) if spec.proj_bias else None
        self.drop_path2 = DropPath(0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N kept, D)."""
        if self.keep is not None:
            x = x.index_select(1, self.keep)
        if self.attn is not None:
            x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        if self.mlp is not None:
            x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x


def token_index(architecture: Architecture, block: int) -> Tensor | None:
    """Which of the tokens that left the block before stay: positions (N kept,), None for all."""
    spec: Any = architecture.spec
    before = architecture.tokens[block - 1] if block else tuple(range(spec.num_patches))
    kept = architecture.tokens[block]
    if kept == before:
        return None
    place = {position: i for i, position in enumerate(before)}
    prefix = list(range(spec.num_prefix_tokens))
    index = prefix + [spec.num_prefix_tokens + place[position] for position in kept]
    return torch.tensor(index, device="cpu")


def _norm(spec: VitSpec) -> nn.Module:
    return NORMS[spec.norm_layer](spec.embed_dim, eps=spec.norm_eps)


def _mlp(spec: VitSpec, units: int) -> nn.Module:
    """timm's MLP layer of the dense model, with fewer units."""
    build = partial(MLPS[spec.mlp_layer], act_layer=ACTIVATIONS[spec.act_layer])
    width = units * (2 if spec.mlp_layer.startswith("glu") else 1)
    mlp: nn.Module = build(spec.embed_dim, hidden_features=width, bias=spec.proj_bias)
    return with_aligned_rows(mlp)
