"""The blocks of a slimmed Swin Transformer."""

from typing import Any

from timm.layers import DropPath, Mlp
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from slim.aligned import with_aligned_rows
from slim.architecture import Architecture
from slim.constant_branch import ConstantBranch
from slim.network import SlimNetwork
from slim.swin.attention import SlimWindowAttention


class SlimSwinTransformer(SlimNetwork, SwinTransformer):
    """A slimmed Swin Transformer of timm."""


class SlimSwinBlock(nn.Module):
    """timm's `SwinTransformerBlock` that holds only what is kept.

    A branch pruned whole is a `ConstantBranch`. Parameters have timm's names.
    """

    def __init__(self, architecture: Architecture, block: int) -> None:
        super().__init__()
        spec: Any = architecture.spec
        width, units = spec.block(block).embed_dim, len(architecture.units[block])
        if architecture.dims_in(block):
            self.norm1: nn.Module = nn.LayerNorm(width, eps=spec.norm_eps)
            self.attn: nn.Module = SlimWindowAttention(architecture, spec, block)
        else:
            self.norm1, self.attn = nn.Identity(), ConstantBranch(width)
        self.drop_path1 = DropPath(0.0)
        if units:
            self.norm2: nn.Module = nn.LayerNorm(width, eps=spec.norm_eps)
            self.mlp: nn.Module = with_aligned_rows(Mlp(width, hidden_features=units))
        else:
            self.norm2, self.mlp = nn.Identity(), ConstantBranch(width)
        self.drop_path2 = DropPath(0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, rows, columns, D) to the same."""
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        x = x + self.drop_path2(self.mlp(self.norm2(x)))
        return x
