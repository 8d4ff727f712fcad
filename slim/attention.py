"""Self-attention whose heads keep different numbers of dimensions."""

from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slim.aligned import AlignedLinear
from slim.architecture import Architecture
from slim.layouts import DEFAULT_LAYOUT, LAYOUTS, Widths, join_heads, share_out


class HeadOrder(NamedTuple):
    """How the kept dimensions of a block's heads lie in its `qkv` rows.

    `rows` are positions among the dense heads' dimensions (head * head_dim + dimension), heads
    by ascending width; `heads` are the dense heads in that order, `widths` what they keep. The
    order of heads does not change the function.
    """

    rows: list[int]
    heads: list[int]
    widths: Widths


def head_order(architecture: Architecture, block: int) -> HeadOrder:
    """Lay a block's non-empty heads out by width, ties by index."""
    heads = architecture.heads[block]
    kept = sorted((h for h in range(len(heads)) if heads[h]), key=lambda h: (len(heads[h]), h))
    head_dim = architecture.spec.block(block).head_dim
    rows = [h * head_dim + dim for h in kept for dim in heads[h]]
    return HeadOrder(rows, kept, tuple(len(heads[h]) for h in kept))


class HeadNorm(nn.Module):
    """A qk-norm over the kept dimensions of each head; its weights are shared by the heads.

    Args:
        dims: Per kept row of `qkv`, its dimension within the dense head.
        widths: Of the heads.
        kind: "layernorm" or "rmsnorm".
        eps: As in the dense norm.
    """

    index: Tensor

    def __init__(self, dims: list[int], widths: Widths, kind: str, eps: float) -> None:
        super().__init__()
        used = sorted(set(dims))
        self.groups = [tuple(group) for _, group in groupby(widths)]
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(len(used)))
        self.bias = nn.Parameter(torch.zeros(len(used))) if kind == "layernorm" else None
        place = {dim: i for i, dim in enumerate(used)}
        index = torch.tensor([place[dim] for dim in dims], device="cpu")
        self.register_buffer("index", index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each head: (B, N, S) to the same."""
        parts = x.split([sum(group) for group in self.groups], dim=-1)
        normed = [self._normalise(p, g) for p, g in zip(parts, self.groups, strict=True)]
        out = torch.cat(normed, dim=-1) * self.weight[self.index]
        return out if self.bias is None else out + self.bias[self.index]

    def _normalise(self, x: Tensor, group: Widths) -> Tensor:
        """Heads of one width: (B, N, heads * width) to the same."""
        norm = F.rms_norm if self.bias is None else F.layer_norm
        heads = x.unflatten(-1, (len(group), group[0]))
        return norm(heads, group[:1], eps=self.eps).flatten(-2)


class SlimAttention(nn.Module):
    """timm's `Attention` with one width per head; `layout` says how many fused calls it takes.

    Parameters have timm's names; the softmax scale stays the dense `head_dim ** -0.5`.
    """

    def __init__(self, architecture: Architecture, block: int) -> None:
        super().__init__()
        spec: Any = architecture.spec
        dense = spec.block(block)
        order = head_order(architecture, block)
        self.widths = order.widths
        self.layout = DEFAULT_LAYOUT
        self.scale = dense.head_dim**-0.5
        total = len(order.rows)
        self.qkv = AlignedLinear(dense.embed_dim, 3 * total, bias=spec.qkv_bias)
        norm = partial(HeadNorm, kind=spec.norm_layer, eps=spec.norm_eps)
        dims = [row % dense.head_dim for row in order.rows]
        self.q_norm = norm(dims, order.widths) if spec.qk_norm else None
        self.k_norm = norm(dims, order.widths) if spec.qk_norm else None
        self.proj = nn.Linear(total, dense.embed_dim, bias=spec.proj_bias)

    @property
    def layout(self) -> str:
        """The name in `LAYOUTS` of how the heads are shared out to attention calls."""
        return self._layout

    @layout.setter
    def layout(self, name: str) -> None:
        self._layout = name
        self._calls = LAYOUTS[name](self.widths)

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (B, N, D) to (B, N, D)."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # (B, N, S) each
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (share_out(part, self._calls) for part in (q, k, v))
        attend = partial(F.scaled_dot_product_attention, scale=self.scale)
        out = [attend(*call) for call in zip(q, k, v, strict=True)]  # (B, heads, N, width) each
        projected: Tensor = self.proj(join_heads(out, self._calls))  # of (B, N, S)
        return projected
