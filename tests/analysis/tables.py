"""Small tables of trials with the columns of `trials.csv`."""

from collections.abc import Sequence

import pandas as pd


def trials_table(
    gmacs: Sequence[float],
    val_top1: Sequence[float],
    state: Sequence[str] | None = None,
    tokens: Sequence[float] | None = None,
    mhsa: Sequence[float] | None = None,
    mlp: Sequence[float] | None = None,
    seconds: Sequence[float] | None = None,
) -> pd.DataFrame:
    """Trials 0, 1, ...; the first is dense, the others keep half of everything unless told."""
    count = len(gmacs)
    halves = ([1.0] + [0.5] * count)[:count]
    return pd.DataFrame(
        {
            "trial": range(count),
            "state": list(state or ["COMPLETE"] * count),
            "tokens": list(tokens or halves),
            "mhsa": list(mhsa or halves),
            "mlp": list(mlp or halves),
            "gmacs": [float(value) for value in gmacs],
            "params_m": [2.0] * count,
            "val_top1": [float(value) for value in val_top1],
            "test_top1": [float("nan")] * count,
            "epochs": [3.0] * count,
            "seconds": list(seconds or [10.0] * count),
        }
    )
