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


def most_gain_first(front: Sequence[Row], chance: float, gmacs: float, most: int) -> list[Row]:
    """Greedy hypervolume subset selection: next is ever the row that adds most to those before.

    Of equal ones it is the first.

    Args:
        front: In any order.
        chance: Worst accuracy of the box, in percent.
        gmacs: Dearest cost of the box; rows outside the box come last.
        most: How many at most.
    """
    points, order = values(front), list[int]()
    left = list(range(len(front)))
    while left and len(order) < most:
        volumes = [
            moocore.hypervolume(points[[*order, index]], [chance, gmacs], maximise=[True, False])
            for index in left
        ]
        order.append(left.pop(int(np.argmax(volumes))))
    return [front[index] for index in order]


def covered(points: Sequence[tuple[float, float]], chance: float, dense_gmacs: float) -> float:
    """Hypervolume in percent of the box from chance at 1.1 times the dense cost to 100 % at none.

    Args:
        points: Accuracy in percent and 1e9 MACs of networks, in any order.
        chance: Worst accuracy of the box, in percent.
        dense_gmacs: 1e9 MACs of the dense model.
    """
    if not points:
        return 0.0
    limit = 1.1 * dense_gmacs
    volume = moocore.hypervolume(points, [chance, limit], maximise=[True, False])
    return 100 * float(volume) / ((100 - chance) * limit)


def values(rows: Sequence[Any]) -> np.ndarray:
    """Accuracy and MACs of each row: (rows, 2)."""
    return np.array([[row.val_top1, row.gmacs] for row in rows], dtype=float).reshape(-1, 2)
