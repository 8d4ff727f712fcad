"""What training makes of networks that are known untrained."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from sweeps.proposals import Observation
from sweeps.space import DENSE, BudgetSpace

_UNTOLD = (0.4, 0.5, 0.1)  # what is left of losses until trials tell otherwise
_TRUST = (3.0, 2.0, 10.0)  # how far that is kept to when they do: as losses of so many points
_LEAST_LOSS = 1.0  # points; of less, what is left is chance
_EVEN_LOSS = 10.0  # points, up to which errors count as points, and beyond as shares of the loss


@dataclass(frozen=True)
class Regained:
    """Training regains most of what a network lost with MHSA dimensions and MLP units, and little
    of what it lost with tokens.

    What a network lost is what it scores below the dense model. A part of it the network would
    have lost with its tokens alone; the rest was lost with the others. Of the tokens' part a share
    is left after training, that grows with it; of the rest another share. Neither is below 0, so
    the more a network lost of either the less it is worth.

    Args:
        dense: Top-1 in percent of the dense budget as others were judged: untrained, on the same
            images of val.
        dense_top1: Of the dense model on all of val.
        chance: Of a model that guesses.
        tokens_alone: Share of the tokens, ascending, and top-1 where nothing but tokens is cut;
            without any all that a network without some tokens lost is the tokens'.
        left: Share of a small tokens' loss that is left; what adds to it in a loss down to chance;
            share of the rest.
    """

    dense: float
    dense_top1: float
    chance: float
    tokens_alone: tuple[tuple[float, float], ...] = ()
    left: tuple[float, float, float] = _UNTOLD

    @classmethod
    def untold(
        cls, judged: Sequence[Observation], space: BudgetSpace, dense_top1: float
    ) -> "Regained":
        """As it is taken for granted before a trial has ended.

        Args:
            judged: Untrained. Where limits kept out all budgets that cut nothing but tokens, what
                these would score is taken to be the best of what no more tokens scored.
            space: Where they lie.
            dense_top1: Of the dense model on all of val; the dense budget is as good as that where
                limits kept it out of judging.
        """
        known = {space.identity(one.budget): one for one in judged if one.val_top1 is not None}
        whole = known.pop(space.identity(DENSE), None)
        alone = {
            one.budget.tokens: float(one.val_top1 or 0.0)
            for identity, one in known.items()
            if identity == space.identity(replace(DENSE, tokens=one.budget.tokens))
        }
        dense = dense_top1 if whole is None else float(whole.val_top1 or 0.0)
        chance = 100 / space.spec.num_classes
        told = alone or _at_least(known.values())
        return cls(dense, dense_top1, chance, tuple(sorted(told.items())))

    def told_by(self, pairs: Sequence[tuple[Observation, float]]) -> "Regained":
        """With the shares that networks tell, as far as they tell any: by least squares.

        Args:
            pairs: Each untrained, and its top-1 on all of val after training, in percent.
        """
        rows = [np.diag(_TRUST)]
        wanted = [np.multiply(_TRUST, _UNTOLD)]
        for untrained, after in pairs:
            lost = self._lost(untrained)
            loss = self.dense - float(untrained.val_top1 or 0.0)
            if loss >= _LEAST_LOSS:
                rows.append(lost[None] / (1 + loss / _EVEN_LOSS))
                still = min(max(self.dense_top1 - after, 0.0), loss)
                wanted.append(np.array([still / (1 + loss / _EVEN_LOSS)]))
        little, more, rest = nnls(np.concatenate(rows), np.concatenate(wanted))[0]
        return replace(self, left=(float(little), float(more), float(rest)))

    def foretold(self, untrained: Observation) -> Observation:
        """What a network is worth if it is trained: at most the dense model, and at least what it
        is worth untrained if that is less."""
        still = float(self._lost(untrained) @ self.left)
        loss = self.dense - float(untrained.val_top1 or 0.0)
        return replace(untrained, val_top1=self.dense_top1 - min(still, max(loss, 0.0)))

    def _lost(self, untrained: Observation) -> np.ndarray:
        """Points lost with tokens; the same, weighed by how near chance that is; the rest."""
        loss = max(self.dense - float(untrained.val_top1 or 0.0), 0.0)
        tokens = min(self._lost_with_tokens(untrained.budget.tokens, loss), loss)
        way = max(self.dense - self.chance, _LEAST_LOSS)
        return np.array([tokens, tokens * tokens / way, loss - tokens])

    def _lost_with_tokens(self, tokens: float, loss: float) -> float:
        """Points that a network with so many tokens, and all else, lost."""
        if tokens >= 1 or not self.tokens_alone:
            return 0.0 if tokens >= 1 else loss
        shares, top1 = zip(*self.tokens_alone, (1.0, self.dense), strict=True)
        alone = float(np.interp(np.log(tokens), np.log(shares), top1))
        return max(self.dense - alone, 0.0)


def _at_least(judged: Iterable[Observation]) -> dict[float, float]:
    """By share of the tokens, the best top-1 of networks with no more: others would not hurt."""
    best: dict[float, float] = {}
    for one in sorted(judged, key=lambda one: one.budget.tokens):
        top1 = float(one.val_top1 or 0.0)
        if one.budget.tokens < 1 and top1 > max(best.values(), default=0.0):
            best[one.budget.tokens] = top1
    return best
