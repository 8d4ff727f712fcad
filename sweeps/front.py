"""The non-dominated networks: accuracy up, MACs down."""

from collections.abc import Sequence
from typing import Any, TypeVar

import moocore
import numpy as np

from sweeps.trials import COMPLETE, TrialRow

Row = TypeVar("Row")


def pareto_front(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The non-dominated COMPLETE trials, cheapest first; equal ones all stay."""
    front = non_dominated([row for row in rows if row.state == COMPLETE])
    return sorted(front, key=lambda row: (row.gmacs, row.trial))


def non_dominated(rows: Sequence[Row]) -> list[Row]:
    """The rows that no other one dominates in `val_top1` and `gmacs`, cheapest first."""
    if not rows:
        return []
    mask = moocore.is_nondominated(values(rows), maximise=[True, False], keep_weakly=True)
    front = [row for row, kept in zip(rows, mask, strict=True) if kept]
    return sorted(front, key=lambda row: row.gmacs)  # type: ignore[attr-defined]


def spread_over_macs(front: Sequence[Row]) -> list[Row]:
    """A front reordered so that its first rows, however many, are spread over the MACs.

    The dearest and the cheapest first, then again and again the one that is farthest in MACs from
    all before.
    """
    gmacs = values(front)[:, 1]
    order = [int(gmacs.argmax()), int(gmacs.argmin())] if len(front) > 1 else [*range(len(front))]
    while len(order) < len(front):
        gaps = np.abs(gmacs[:, None] - gmacs[order][None]).min(axis=1)
        gaps[order] = -1.0
        order.append(int(gaps.argmax()))
    return [front[index] for index in order]


def values(rows: Sequence[Any]) -> np.ndarray:
    """Accuracy and MACs of each row: (rows, 2)."""
    return np.array([[row.val_top1, row.gmacs] for row in rows], dtype=float).reshape(-1, 2)
