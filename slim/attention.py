"""Self-attention whose heads keep different numbers of dimensions."""

from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slim.architecture import Architecture


class HeadGroup(NamedTuple):
    """Neighbouring heads of one width, which share one attention call."""

    start: int
    num_heads: int
    width: int


class HeadOrder(NamedTuple):
    """How the kept dimensions of a block's heads lie in its `qkv` rows.

    `rows` are positions among the dense heads' dimensions (head * head_dim + dimension), heads
    of equal width side by side; the order of heads does not change the function. `heads` are the
    dense heads in that order.
    """

    rows: list[int]
    groups: list[HeadGroup]
    heads: list[int]


def head_order(architecture: Architecture, block: int) -> HeadOrder:
    """Lay a block's non-empty heads out by width, ties by index."""
    heads = architecture.heads[block]
    kept = sorted((h for h in range(len(heads)) if heads[h]), key=lambda h: (len(heads[h]), h))
    head_dim = architecture.spec.block(block).head_dim
    groups, start = [], 0
    for width, members in groupby(kept, key=lambda h: len(heads[h])):
        num_heads = len(list(members))
        groups.append(HeadGroup(start, num_heads, width))
        start += num_heads * width
    return HeadOrder([h * head_dim + dim for h in kept for dim in heads[h]], groups, kept)


class HeadNorm(nn.Module):
    """A qk-norm over the kept dimensions of each head; its weights are shared by the heads.

    Args:
        dims: Per kept row of `qkv`, its dimension within the dense head.
        kind: "layernorm" or "rmsnorm".
        eps: As in the dense norm.
    """

    index: Tensor

    def __init__(self, dims: list[int], kind: str, eps: float) -> None:
        super().__init__()
        used = sorted(set(dims))
        self.kind = kind
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(len(used)))
        self.bias = nn.Parameter(torch.zeros(len(used))) if kind == "layernorm" else None
        place = {dim: i for i, dim in enumerate(used)}
        index = torch.tensor([place[dim] for dim in dims], device="cpu")
        self.register_buffer("index", index, persistent=False)

    def forward(self, x: Tensor, group: HeadGroup) -> Tensor:
        """Normalise one group of heads: (B, heads, N, width) to the same."""
        columns = self.index[group.start : group.start + group.num_heads * group.width]
        weight = self.weight[columns].view(group.num_heads, 1, group.width)
        if self.bias is None:
            return F.rms_norm(x, (group.width,), eps=self.eps) * weight
        bias = self.bias[columns].view(group.num_heads, 1, group.width)
        return F.layer_norm(x, (group.width,), eps=self.eps) * weight + bias


class SlimAttention(nn.Module):
    """timm's `Attention` with one width per head, computed by one fused call per group of heads.

    Parameters have timm's names; the softmax scale stays the dense `head_dim ** -0.5`.
    """

    def __init__(self, architecture: Architecture, block: int) -> None:
        super().__init__()
        spec: Any = architecture.spec
        dense = spec.block(block)
        order = head_order(architecture, block)
        self.groups = order.groups
        self.scale = dense.head_dim**-0.5
        total = len(order.rows)
        self.qkv = nn.Linear(dense.embed_dim, 3 * total, bias=spec.qkv_bias)
        dims = [row % dense.head_dim for row in order.rows]
        self.q_norm = HeadNorm(dims, spec.norm_layer, spec.norm_eps) if spec.qk_norm else None
        self.k_norm = HeadNorm(dims, spec.norm_layer, spec.norm_eps) if spec.qk_norm else None
        self.proj = nn.Linear(total, dense.embed_dim, bias=spec.proj_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (B, N, D) to (B, N, D)."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # (B, N, S) each
        out = [self._attend(q, k, v, group) for group in self.groups]
        joined = out[0] if len(out) == 1 else torch.cat(out, dim=-1)  # (B, N, S)
        projected: Tensor = self.proj(joined)
        return projected

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, group: HeadGroup) -> Tensor:
        """One group's heads: (B, N, S) each to (B, N, heads * width)."""
        q, k, v = (_split_heads(part, group) for part in (q, k, v))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q, group), self.k_norm(k, group)
        out = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return out.transpose(1, 2).flatten(2)


def _split_heads(x: Tensor, group: HeadGroup) -> Tensor:
    """(B, N, S) to (B, heads, N, width)."""
    part = x.narrow(-1, group.start, group.num_heads * group.width)
    return part.unflatten(-1, (group.num_heads, group.width)).transpose(1, 2)
