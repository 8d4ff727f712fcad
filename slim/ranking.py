"""Where a budget becomes indices: one global order per dimension, over all blocks."""

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

    Args:
        tokens: (blocks, patches).
        mhsa: (blocks, heads, head dimensions).
        mlp: (blocks, units).
    """

    tokens: Tensor
    mhsa: Tensor
    mlp: Tensor


def select(spec: ModelSpec, scores: Scores, budget: Budget) -> Architecture:
    """Keep the best `round(budget * total)` of each dimension; ties go to the lower index.

    Token scores are made monotone in depth before the cut (a position is worth in a block what
    it is worth in the best block from there on), so that the kept share is the budget's.

    Raises:
        BudgetError: If the model pools patch tokens alone and the token budget leaves a block
            without any.
    """
    tokens = _kept(_monotone_token_scores(spec, scores.tokens, budget), budget.tokens)
    mhsa = _kept(scores.mhsa, budget.mhsa)
    units = _kept(scores.mlp, budget.mlp)
    return Architecture(
        spec=spec,
        tokens=tuple(_indices(block) for block in tokens),
        heads=tuple(tuple(_indices(head) for head in block) for block in mhsa),
        units=tuple(_indices(block) for block in units),
    )


def _kept(scores: Tensor, share: float) -> Tensor:
    """Mark the best entries of a tensor of scores: booleans of its shape."""
    order = torch.sort(scores.flatten().double(), descending=True, stable=True).indices
    kept = torch.zeros(scores.numel(), dtype=torch.bool)
    kept[order[: round(share * scores.numel())]] = True
    return kept.view(scores.shape)


def _monotone_token_scores(spec: ModelSpec, scores: Tensor, budget: Budget) -> Tensor:
    """Scores (blocks, patches) that never rise with depth, so that any cut nests."""
    monotone = scores.double().flip(0).cummax(dim=0).values.flip(0)
    if not spec.needs_patches:
        return monotone
    slots = round(budget.tokens * scores.numel())
    if slots < spec.depth:
        raise BudgetError(
            f"budget tokens={budget.tokens} keeps {slots} of {scores.numel()} token slots, but a "
            f"model that pools patch tokens needs one in each of its {spec.depth} blocks; "
            f"give at least {spec.depth / scores.numel():.4g}"
        )
    monotone[:, monotone[-1].argmax()] = torch.inf
    return monotone


def _indices(kept: Tensor) -> tuple[int, ...]:
    return tuple(kept.nonzero().flatten().tolist())
