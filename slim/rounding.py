"""Widths that kernels like: head dimensions and MLP units in whole multiples."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from slim.architecture import Architecture
from slim.errors import SlimError
from slim.ranking import Scores

Indices = tuple[int, ...]


def round_widths(
    architecture: Architecture, scores: Scores, head_multiple: int = 8, unit_multiple: int = 16
) -> Architecture:
    """Bring every head to a multiple of dimensions and every MLP to a multiple of units.

    Each width goes to the multiple below it or above it, at most to its dense width. Which of
    them go up is decided over all blocks together, attention and MLP apart: those whose next
    multiple is worth most by its mean score, as long as that brings the total kept nearer to
    what it was. So the total changes by at most half a multiple, and each width by less than one.
    A head or MLP narrower than a multiple may go; what was pruned whole stays pruned. A width
    grows by its best-scored dropped entries and shrinks by its worst-scored kept ones; ties go to
    the lower index. Tokens stay as they are.

    Args:
        architecture: What a budget selected, or any other of the same model.
        scores: What decides; usually `checkpoint.ranking`.
        head_multiple: Dimensions; 1 leaves heads as they are.
        unit_multiple: MLP units; 1 leaves MLPs as they are.

    Returns:
        Another architecture of the same model, with a cost of its own (`slim.count`).

    Raises:
        SlimError: If a multiple is below 1, or the scores are of another model.
    """
    for name, multiple in (("head_multiple", head_multiple), ("unit_multiple", unit_multiple)):
        if multiple < 1:
            raise SlimError(f"{name}={multiple} is not a number of at least 1")
    _check_scores(architecture, scores)
    heads = [
        _Width.of(kept, scores.mhsa[block][head], head_multiple)
        for block, block_heads in enumerate(architecture.heads)
        for head, kept in enumerate(block_heads)
    ]
    units = [
        _Width.of(kept, scores.mlp[block], unit_multiple)
        for block, kept in enumerate(architecture.units)
    ]
    rounded = iter(_round(heads))
    return replace(
        architecture,
        heads=tuple(tuple(next(rounded) for _ in block) for block in architecture.heads),
        units=tuple(_round(units)),
    )


@dataclass(frozen=True)
class _Width:
    """One head or MLP: its entries from the first to keep to the last, and its two choices."""

    order: Indices
    asked: int
    below: int
    above: int
    worth: float

    @classmethod
    def of(cls, kept: Indices, scores: Tensor, multiple: int) -> "_Width":
        values = scores.double().tolist()
        chosen = set(kept)
        order = sorted(range(len(values)), key=lambda i: (i not in chosen, -values[i], i))
        below = len(values) if len(kept) == len(values) else len(kept) // multiple * multiple
        above = min(-(-len(kept) // multiple) * multiple, len(values))
        step = [values[i] for i in order[below:above]]
        worth = sum(step) / len(step) if step else 0.0
        return cls(tuple(order), len(kept), below, above, worth)

    def first(self, width: int) -> Indices:
        """The best entries, ascending."""
        return tuple(sorted(self.order[:width]))


def _round(widths: Sequence[_Width]) -> list[Indices]:
    """Go up where it is worth most, while that brings the total nearer to what was asked."""
    missing = sum(width.asked - width.below for width in widths)
    chosen = [width.below for width in widths]
    for i in sorted(range(len(widths)), key=lambda i: (-widths[i].worth, i)):
        step = widths[i].above - widths[i].below
        if abs(missing - step) < abs(missing):
            missing -= step
            chosen[i] = widths[i].above
    return [width.first(count) for width, count in zip(widths, chosen, strict=True)]


def _check_scores(architecture: Architecture, scores: Scores) -> None:
    """Shapes are those of the model, block by block."""
    dense = Architecture.dense(architecture.spec)
    blocks = len(scores.mhsa), len(scores.mlp)
    if blocks != (len(dense.heads), len(dense.units)):
        raise SlimError(
            f"the scores are of {blocks[0]} blocks (MHSA) and {blocks[1]} (MLP), the architecture "
            f"is of a model with {len(dense.units)}"
        )
    for block, (heads, units) in enumerate(zip(dense.heads, dense.units, strict=True)):
        expected = (len(heads), len(heads[0])), (len(units),)
        given = tuple(scores.mhsa[block].shape), tuple(scores.mlp[block].shape)
        if given != expected:
            raise SlimError(
                f"the scores of block {block} have shapes {given}, the architecture is of a "
                f"model with {expected}"
            )
