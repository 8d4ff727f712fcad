"""The non-dominated trials: accuracy up, MACs down."""

from collections.abc import Sequence

import moocore
import numpy as np

from sweeps.trials import COMPLETE, TrialRow


def pareto_front(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The non-dominated COMPLETE trials, cheapest first; equal ones all stay."""
    done = [row for row in rows if row.state == COMPLETE and row.val_top1 is not None]
    if not done:
        return []
    points = np.array([[-(row.val_top1 or 0.0), row.gmacs] for row in done])
    keep = moocore.is_nondominated(points, keep_weakly=True)
    front = [row for row, kept in zip(done, keep, strict=True) if kept]
    return sorted(front, key=lambda row: (row.gmacs, row.trial))
