"""Attention inside windows, with a bias for each relative position."""

from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slim.aligned import AlignedLinear
from slim.architecture import Architecture
from slim.attention import head_order
from slim.swin.spec import SwinSpec
from slim.swin.windows import Windows


class PositionBias(nn.Module):
    """What is added to the scores inside windows: no parameters, only where they go.

    Args:
        windows: Of the block.
    """

    index: Tensor
    apart: Tensor | None

    def __init__(self, windows: Windows) -> None:
        super().__init__()
        self.area = windows.area
        self.register_buffer("index", windows.position_index(), persistent=False)
        self.register_buffer("apart", windows.apart(), persistent=False)

    def forward(self, table: Tensor) -> Tensor:
        """Spread a table (relative positions, heads): (1 or windows, heads, area, area)."""
        bias = table[self.index].view(self.area, self.area, -1).permute(2, 0, 1)[None]
        return bias if self.apart is None else bias + self.apart[:, None].to(bias.dtype)


def attend_in_windows(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float, dropout: float = 0.0
) -> Tensor:
    """Attention of (B, windows, heads, area, d) to the same.

    Windows that share a bias lie in the batch, others beside the heads: either way the bias is
    broadcast over images, not copied.

    Args:
        q: Queries.
        k: Keys, of the same shape.
        v: Values, of the same shape.
        bias: (1 or windows, heads, area, area).
        scale: Of the scores.
        dropout: Of the attention weights.
    """
    windows, heads = q.shape[1], q.shape[2]
    bias = bias.to(q.dtype)
    if len(bias) == 1:
        q, k, v = (part.flatten(0, 1) for part in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, bias, dropout, scale=scale)
        return out.unflatten(0, (-1, windows))
    q, k, v = (part.flatten(1, 2) for part in (q, k, v))
    bias = bias.flatten(0, 1)[None]
    out = F.scaled_dot_product_attention(q, k, v, bias, dropout, scale=scale)
    return out.unflatten(1, (windows, heads))


class SlimWindowAttention(nn.Module):
    """timm's `WindowAttention` with one width per head, in and out of the windows.

    Heads of one width share an attention call. The relative position table has a column for each
    head kept, in the order of the `qkv` rows. Parameters have timm's names; the softmax scale
    stays the dense `head_dim ** -0.5`.
    """

    def __init__(self, architecture: Architecture, spec: SwinSpec, block: int) -> None:
        super().__init__()
        dense, order = spec.block(block), head_order(architecture, block)
        widths = order.widths
        self.groups = [tuple(equal) for _, equal in groupby(widths)]
        self.windows = spec.windows(block)
        self.scale = dense.head_dim**-0.5
        self.qkv = AlignedLinear(dense.embed_dim, 3 * sum(widths), bias=spec.qkv_bias)
        self.proj = nn.Linear(sum(widths), dense.embed_dim)
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros(self.windows.table_rows, len(widths))
        )
        self.position_bias = PositionBias(self.windows)

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (B, rows, columns, D) to the same."""
        q, k, v = self.qkv(self.windows.partition(x)).chunk(3, dim=-1)  # (B, windows, area, S)
        bias = self.position_bias(self.relative_position_bias_table)
        biases = bias.split([len(group) for group in self.groups], dim=1)
        calls = zip(self._heads(q), self._heads(k), self._heads(v), biases, strict=True)
        out = [attend_in_windows(q, k, v, added, self.scale) for q, k, v, added in calls]
        heads = [head for group in out for head in group.unbind(2)]
        return self.windows.merge(self.proj(torch.cat(heads, dim=-1)))

    def _heads(self, x: Tensor) -> list[Tensor]:
        """The heads of each width: (B, windows, area, S) to (B, windows, heads, area, width)."""
        parts = x.split([sum(group) for group in self.groups], dim=-1)
        return [
            part.unflatten(-1, (len(group), group[0])).transpose(2, 3)
            for part, group in zip(parts, self.groups, strict=True)
        ]
