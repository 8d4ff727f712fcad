"""Soft masks on a dense Swin Transformer: on attention dimensions and MLP units."""

from typing import Any

import torch
from torch import Tensor, nn

from slim.folded_linear import folded_linear
from slim.masked_model import MaskedModel, mask_hidden_units
from slim.swin.attention import PositionBias, attend_in_windows
from slim.swin.spec import SwinSpec
from slim.swin.windows import Windows


class MaskedWindowAttention(nn.Module):
    """timm's `WindowAttention` with a mask on every head dimension, in and out of the windows.

    The mask, shared by q, k and v, is folded into the qkv weights in each step, so it keeps no
    activations.
    """

    kept: Tensor

    def __init__(self, attn: Any, windows: Windows) -> None:
        super().__init__()
        self.windows = windows
        self.num_heads: int = attn.num_heads
        self.head_dim: int = attn.qkv.out_features // (3 * attn.num_heads)
        self.scale: float = attn.scale
        self.qkv = attn.qkv
        self.relative_position_bias_table = attn.relative_position_bias_table
        self.position_bias = PositionBias(windows).to(self.qkv.weight.device)
        self.attn_drop: nn.Dropout = attn.attn_drop
        self.proj = attn.proj
        self.proj_drop = attn.proj_drop
        like = self.qkv.weight
        self.mask = nn.Parameter(like.new_ones(self.num_heads, self.head_dim))
        self.register_buffer("kept", torch.ones_like(self.mask), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (B, rows, columns, D) to the same."""
        x, dense = self.windows.partition(x), self.qkv
        qkv = folded_linear(x, self._fold_qkv, dense.weight, dense.bias, self.mask)
        qkv = qkv.unflatten(-1, (3, self.num_heads, self.head_dim))  # (B, W, area, 3, H, d)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)  # (B, W, H, area, d) each
        added = self.position_bias(self.relative_position_bias_table)
        drop = self.attn_drop.p if self.training else 0.0
        out = torch.cat(attend_in_windows(q, k, v, added, self.scale, drop).unbind(2), dim=-1)
        return self.windows.merge(self.proj_drop(self.proj(out)))

    def _fold_qkv(
        self, weight: Tensor, bias: Tensor | None, mask: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The masked weight, (3 * H * d, D), and bias."""
        fold = (mask * self.kept).flatten().repeat(3)
        return weight * fold[:, None], None if bias is None else bias * fold


class MaskedSwinBlock(nn.Module):
    """timm's `SwinTransformerBlock` with masks on its attention dimensions and MLP units."""

    def __init__(self, block: Any, windows: Windows) -> None:
        super().__init__()
        self.norm1, self.drop_path1 = block.norm1, block.drop_path1
        self.norm2, self.drop_path2 = block.norm2, block.drop_path2
        self.attn = MaskedWindowAttention(block.attn, windows)
        self.mlp = mask_hidden_units(block.mlp)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, rows, columns, D) to the same."""
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        x = x + self.drop_path2(self.mlp(self.norm2(x)))
        return x


class MaskedSwinTransformer(MaskedModel):
    """A dense timm Swin Transformer whose blocks carry masks; every token stays."""

    spec: SwinSpec

    def mask_block(self, block: Any, index: int) -> nn.Module:
        """Put masks on one block."""
        return MaskedSwinBlock(block, self.spec.windows(index))
