"""The non-dominated trials: accuracy up, MACs down."""

from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from analysis.pareto_front import front_mask
from sweeps.trials import TrialRow


def pareto_front(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The non-dominated COMPLETE trials, cheapest first; equal ones all stay."""
    if not rows:
        return []
    mask = front_mask(pd.DataFrame([asdict(row) for row in rows]))
    front = [row for row, kept in zip(rows, mask, strict=True) if kept]
    return sorted(front, key=lambda row: (row.gmacs, row.trial))
