"""What training makes of networks that are known untrained."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sweeps.proposals import Observation

_OF_LITTLE, _OF_ALL = 0.9, 0.1  # shares that are taken for granted until trials tell of others
_LEAST_LOSS = 1.0  # points; of less, the share that is regained is chance


@dataclass(frozen=True)
class Regained:
    """Training regains a share of what a network lost to the dense model when it was cut.

    The more a network lost, the smaller the share: on a line from what is regained of next to
    nothing to what is regained of all that lies between the dense model and chance.

    Args:
        dense: Top-1 in percent of the dense budget as others were judged: untrained, on the same
            images of val.
        dense_top1: Of the dense model on all of val.
        chance: Of a model that guesses.
        of_little: Share regained of a loss near none, 0 to 1.
        of_all: Of a loss down to chance, 0 to `of_little`, so that no network overtakes another
            by having lost more.
    """

    dense: float
    dense_top1: float
    chance: float
    of_little: float = _OF_LITTLE
    of_all: float = _OF_ALL

    def share(self, untrained: float) -> float:
        """Of the loss of a network with this top-1 before training."""
        return self.of_little + (self.of_all - self.of_little) * self._depth(untrained)

    def told_by(self, pairs: Sequence[tuple[float, float]]) -> "Regained":
        """With the line through the shares of networks, and through both ends taken for granted.

        Args:
            pairs: Top-1 of each before and after training, in percent.
        """
        telling = [(b, after) for b, after in pairs if self.dense - b >= _LEAST_LOSS]
        shares = [1 - (self.dense_top1 - after) / (self.dense - b) for b, after in telling]
        depths = [0.0, 1.0, *(self._depth(before) for before, _ in telling)]
        told = np.clip([_OF_LITTLE, _OF_ALL, *shares], 0.0, 1.0)
        slope, of_little = np.polyfit(depths, told, 1)
        if slope > 0:
            return replace(self, of_little=float(told.mean()), of_all=float(told.mean()))
        first, last = np.clip([of_little, of_little + slope], 0.0, 1.0)
        return replace(self, of_little=float(first), of_all=float(last))

    def foretold(self, untrained: Observation) -> Observation:
        """What a network is worth if it is trained."""
        top1 = float(untrained.val_top1 or 0.0)
        lost = self.dense - top1
        return replace(untrained, val_top1=self.dense_top1 - (1 - self.share(top1)) * lost)

    def _depth(self, untrained: float) -> float:
        """The part of the way down to chance that a network lost, 0 to 1."""
        way = max(self.dense - self.chance, _LEAST_LOSS)
        return min(max((self.dense - untrained) / way, 0.0), 1.0)
