"""How far the sweep got: the front's hypervolume after each trial."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import moocore
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis import theme, wording


class HypervolumeData(NamedTuple):
    """The front's hypervolume after each ended trial.

    `value` is the share of the box between the reference point and the ideal one (100 % top-1 at
    no cost), 0 to 1. `reference_top1` is in percent, `reference_gmacs` in 1e9 MACs (NaN while no
    trial is complete).
    """

    trial: tuple[int, ...]
    value: tuple[float, ...]
    reference_top1: float
    reference_gmacs: float


def hypervolume_data(trials: pd.DataFrame, num_classes: int | None = None) -> HypervolumeData:
    """Follow the hypervolume over the trials in order of their numbers.

    The reference point is chance (100 / num_classes percent) at 1.1 times the dense network's
    MACs, or the dearest trial's where no dense trial is complete.

    Args:
        trials: The columns of `trials.csv`. Only COMPLETE trials count; trials that still run
            are left out, others repeat the value before them.
        num_classes: Of the source task; chance is taken as 0 without it.
    """
    ended = trials[trials["state"].isin(["COMPLETE", "PRUNED", "FAILED"])].sort_values("trial")
    counts = (ended["state"] == "COMPLETE") & ended[["val_top1", "gmacs"]].notna().all(axis=1)
    chance = 100 / num_classes if num_classes else 0.0
    limit = 1.1 * _dense_gmacs(ended[counts])
    box = (100 - chance) * limit
    values = []
    for seen in range(1, len(ended) + 1):
        front = ended.iloc[:seen][counts.iloc[:seen]][["val_top1", "gmacs"]].to_numpy(dtype=float)
        volume = _volume(front, chance, limit) if len(front) else 0.0
        values.append(volume / box if len(front) and box else 0.0)
    return HypervolumeData(tuple(int(t) for t in ended["trial"]), tuple(values), chance, limit)


def hypervolume_of(front: Sequence[tuple[float, float]], limit: float) -> float:
    """Share (0 to 1) of the box from (`limit` GMACs, 0 %) to (0 GMACs, 100 %) that is dominated.

    Args:
        front: GMACs and top-1 (%) of each network.
        limit: GMACs; dearer networks count for nothing.

    Returns:
        NaN without a network.
    """
    points = np.array([(top1, gmacs) for gmacs, top1 in front], dtype=float)
    return _volume(points, 0.0, limit) / (100 * limit) if len(points) else math.nan


def hypervolume_sentence(data: HypervolumeData) -> str:
    """Whether more trials still help, in a sentence or two of Markdown."""
    if not any(data.value):
        return "No complete trial lies within the reference box, so there is no hypervolume yet."
    final = data.value[-1]
    needed = next(t for t, value in zip(data.trial, data.value, strict=True) if value >= final)
    told = (
        f"The front covers {100 * final:.1f} % of the box between chance "
        f"({wording.top1(data.reference_top1)} % at {wording.number(data.reference_gmacs)} GMACs) "
        "and the ideal (100 % at no cost)."
    )
    if len(data.trial) == 1:
        return told
    after = len(data.trial) - 1 - data.trial.index(needed)
    if not after:
        return f"{told} The last trial still enlarged it, so more trials may help."
    return f"{told} Trial {needed} was the last to enlarge it; {after} came after."


def draw_hypervolume(data: HypervolumeData) -> go.Figure:
    """Draw the hypervolume over the trial numbers, as steps."""
    figure = go.Figure(
        go.Scatter(
            x=data.trial,
            y=[100 * value for value in data.value],
            mode="lines+markers",
            line={"shape": "hv", "color": theme.BLUE, "width": 2},
            hovertemplate="after trial %{x}: %{y:.2f} %<extra></extra>",
        )
    )
    figure.update_layout(
        template=theme.TEMPLATE,
        height=340,
        xaxis={"title": {"text": "Trial"}, "tickformat": "d", "dtick": _tick(len(data.trial))},
        yaxis={"title": {"text": "Hypervolume (% of the box)"}, "rangemode": "tozero"},
    )
    return figure


def _tick(count: int) -> int:
    """A distance of whole trials that gives about ten ticks."""
    return max(1, math.ceil(count / 10))


def _dense_gmacs(complete: pd.DataFrame) -> float:
    """The dense trial's MACs; without one the dearest trial's; NaN without any."""
    dense = complete[(complete[["tokens", "mhsa", "mlp"]] == 1).all(axis=1)]
    return float((dense if len(dense) else complete)["gmacs"].astype(float).max())


def _volume(points: object, chance: float, limit: float) -> float:
    return float(moocore.hypervolume(points, ref=[chance, limit], maximise=[True, False]))
