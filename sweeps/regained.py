"""What training makes of networks that are known untrained."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sweeps.proposals import Observation

_UNTOLD = 0.5  # the share that is taken for granted before a trial has told of one
_LEAST_LOSS = 1.0  # points; of less, the share that is regained is chance


@dataclass(frozen=True)
class Regained:
    """Training regains a share of what a network lost to the dense model when it was cut.

    So a network that lost much gains much, and one that lost nothing is worth the dense model.
    One share for all is a rough rule: networks that lost nearly all regain less.

    Args:
        dense: Top-1 in percent of the dense budget as others were judged: untrained, on the same
            images of val.
        dense_top1: Of the dense model on all of val.
        share: 0 to 1.
    """

    dense: float
    dense_top1: float
    share: float = _UNTOLD

    def told_by(self, pairs: Sequence[tuple[float, float]]) -> "Regained":
        """With the mean share of networks, and of one more that regains half.

        Args:
            pairs: Top-1 of each before and after training, in percent.
        """
        losses = [(self.dense - before, self.dense_top1 - after) for before, after in pairs]
        shares = [1 - after / before for before, after in losses if before >= _LEAST_LOSS]
        told = [min(max(share, 0.0), 1.0) for share in shares]
        return replace(self, share=(_UNTOLD + sum(told)) / (1 + len(told)))

    def foretold(self, untrained: Observation) -> Observation:
        """What a network is worth if it is trained."""
        lost = self.dense - float(untrained.val_top1 or 0.0)
        return replace(untrained, val_top1=self.dense_top1 - (1 - self.share) * lost)
