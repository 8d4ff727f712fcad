"""How many calls a block's attention takes: run-time layouts of heads of different widths."""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

Widths = tuple[int, ...]
"""Dimensions that neighbouring heads keep."""


def _per_head(widths: Widths) -> list[Widths]:
    return [(width,) for width in widths]


def _grouped(widths: Widths) -> list[Widths]:
    return [tuple(group) for _, group in groupby(widths)]


def _near(widths: Widths) -> list[Widths]:
    return [tuple(group) for _, group in groupby(widths, key=lambda width: -(-width // 16))]


def _padded(widths: Widths) -> list[Widths]:
    return [widths]


LAYOUTS: dict[str, Callable[[Widths], list[Widths]]] = {
    "per_head": _per_head,
    "grouped": _grouped,
    "near": _near,
    "padded": _padded,
}
"""By name, how a block's heads (ascending widths) are shared out to attention calls.

One call per head; per width; per multiple of 16 that widths round up to; for all heads. Heads of
one call that differ in width are padded with zeros inside the layer. All compute one function.
"""

DEFAULT_LAYOUT = "per_head"


def share_out(x: Tensor, calls: list[Widths]) -> Sequence[Tensor]:
    """The heads of each call: (B, N, S) to (B, heads, N, widest of the call) each."""
    if _one_head_each(calls):
        return x.unsqueeze(1).split([width for (width,) in calls], dim=-1)
    parts = x.split([sum(widths) for widths in calls], dim=-1)
    return [split_heads(part, widths) for part, widths in zip(parts, calls, strict=True)]


def split_heads(x: Tensor, widths: Widths) -> Tensor:
    """Set the heads of one call side by side: (B, N, sum of widths) to (B, heads, N, widest)."""
    if len(widths) == 1:
        return x.unsqueeze(1)
    if widths[0] != widths[-1]:
        x = _pad_heads(x, widths)
    return x.unflatten(-1, (len(widths), widths[-1])).transpose(1, 2)


def join_heads(heads: Sequence[Tensor], calls: list[Widths]) -> Tensor:
    """Undo `share_out`, padding left out: to (B, N, S)."""
    if _one_head_each(calls):
        return torch.cat(list(heads), dim=-1).squeeze(1)
    parts: list[Tensor] = []
    for call, widths in zip(heads, calls, strict=True):
        if len(widths) == 1:
            parts.append(call.squeeze(1))
        elif widths[0] == widths[-1]:
            parts.append(call.transpose(1, 2).flatten(2))
        else:
            parts += [head[..., :w] for head, w in zip(call.unbind(1), widths, strict=True)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _one_head_each(calls: list[Widths]) -> bool:
    """Then one view serves all heads, which a small batch feels."""
    return all(len(widths) == 1 for widths in calls)


def _pad_heads(x: Tensor, widths: Widths) -> Tensor:
    """Put zeros behind every head, up to the widest: (B, N, S) to (B, N, heads * widest)."""
    zero, parts = x.new_zeros(()), []
    for head in x.split(widths, dim=-1):
        parts += [head, zero.expand(*head.shape[:-1], widths[-1] - head.shape[-1])]
    return torch.cat(parts, dim=-1)
