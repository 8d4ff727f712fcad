"""Where a budget becomes indices: one global order per dimension, over all blocks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slim.architecture import Architecture
from slim.budget import Budget
from slim.errors import BudgetError
from slim.spec import ModelSpec


@dataclass(frozen=True)
class Scores:
    """How much each part is worth; only the order within a dimension matters.

    Each dimension has one tensor per block; blocks may differ in shape.

    Args:
        tokens: Per block (patches,); nothing for a model that cannot drop tokens.
        mhsa: Per block (heads, head dimensions).
        mlp: Per block (units,).
    """

    tokens: tuple[Tensor, ...]
    mhsa: tuple[Tensor, ...]
    mlp: tuple[Tensor, ...]

    @classmethod
    def fill(cls, spec: ModelSpec, make: Callable[[tuple[int, ...]], Tensor]) -> "Scores":
        """Scores of a model, each tensor made from its shape (`torch.ones`, `torch.rand`, ...)."""
        blocks = spec.blocks
        return cls(
            tokens=tuple(make((b.num_patches,)) for b in blocks) if spec.drops_tokens else (),
            mhsa=tuple(make((block.num_heads, block.head_dim)) for block in blocks),
            mlp=tuple(make((block.mlp_hidden,)) for block in blocks),
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> "Scores":
        """Every tensor changed."""
        return Scores(
            tokens=tuple(map(change, self.tokens)),
            mhsa=tuple(map(change, self.mhsa)),
            mlp=tuple(map(change, self.mlp)),
        )


def select(spec: ModelSpec, scores: Scores, budget: Budget) -> Architecture:
    """Keep the best `round(budget * total)` of each dimension; ties go to the lower index.

    Token scores are made monotone in depth before the cut (a position is worth in a block what
    it is worth in the best block from there on), so that the kept share is the budget's.

    Raises:
        BudgetError: If the model cannot drop tokens and the token budget is not 1, or if it pools
            patch tokens alone and the token budget leaves a block without any.
    """
    mhsa = _kept(scores.mhsa, budget.mhsa)
    units = _kept(scores.mlp, budget.mlp)
    return Architecture(
        spec=spec,
        tokens=_kept_tokens(spec, scores, budget),
        heads=tuple(tuple(_indices(head) for head in block) for block in mhsa),
        units=tuple(_indices(block) for block in units),
    )


def _kept_tokens(spec: ModelSpec, scores: Scores, budget: Budget) -> tuple[tuple[int, ...], ...]:
    """The positions that enter each block."""
    if spec.drops_tokens:
        tokens = _kept(_monotone_token_scores(spec, scores.tokens, budget), budget.tokens)
        return tuple(_indices(block) for block in tokens)
    if budget.tokens != 1:
        raise BudgetError(
            f"budget tokens={budget.tokens} cannot be met: this model cannot drop tokens, because "
            "its windows need every token; give tokens=1"
        )
    return Architecture.dense(spec).tokens


def _kept(scores: Sequence[Tensor], share: float) -> list[Tensor]:
    """Mark the best entries over all blocks: per block, booleans of its scores' shape."""
    flat = torch.cat([block.flatten() for block in scores]).double()
    order = torch.sort(flat, descending=True, stable=True).indices
    kept = torch.zeros(len(flat), dtype=torch.bool)
    kept[order[: round(share * len(flat))]] = True
    parts = kept.split([block.numel() for block in scores])
    return [part.view(block.shape) for part, block in zip(parts, scores, strict=True)]


def _monotone_token_scores(
    spec: ModelSpec, scores: Sequence[Tensor], budget: Budget
) -> tuple[Tensor, ...]:
    """Scores that never rise with depth, so that any cut nests."""
    stacked = torch.stack(list(scores)).double()  # (blocks, patches)
    monotone = stacked.flip(0).cummax(dim=0).values.flip(0)
    if not spec.needs_patches:
        return monotone.unbind()
    slots = round(budget.tokens * stacked.numel())
    if slots < spec.depth:
        raise BudgetError(
            f"budget tokens={budget.tokens} keeps {slots} of {stacked.numel()} token slots, but a "
            f"model that pools patch tokens needs one in each of its {spec.depth} blocks; "
            f"give at least {spec.depth / stacked.numel():.4g}"
        )
    monotone[:, monotone[-1].argmax()] = torch.inf
    return monotone.unbind()


def _indices(kept: Tensor) -> tuple[int, ...]:
    return tuple(kept.nonzero().flatten().tolist())
