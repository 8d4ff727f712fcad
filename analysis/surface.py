"""Accuracy as a surface over the budgets: a polynomial through what was measured."""

from collections.abc import Sequence
from itertools import combinations, combinations_with_replacement
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis import theme, wording
from analysis.budgets import BUDGETS

GRID_STEPS = 31


class Surface(NamedTuple):
    """A polynomial of validation top-1 in the budgets that vary, fitted by least squares.

    Args:
        names: Budgets that vary: some of tokens, mhsa and mlp.
        points: What it was fitted to: the columns tokens, mhsa, mlp and val_top1 (percent).
        degree: 2 or 1, whichever has the smaller error.
        coefficients: Of the terms, in the order of `_terms`.
        error: Root mean square of each point's distance to a surface fitted without it, in
            percentage points.
        spread: The same of a flat surface: each point's distance to the mean of the others.
    """

    names: tuple[str, ...]
    points: pd.DataFrame
    degree: int
    coefficients: np.ndarray  # (terms,)
    error: float
    spread: float

    @property
    def is_of_use(self) -> bool:
        """Whether it tells more of a network than the mean of the others does."""
        return self.error < self.spread

    def at(self, budgets: np.ndarray) -> np.ndarray:
        """Top-1 (%, within 0 and 100) at budgets (..., len(names))."""
        flat = budgets.reshape(-1, len(self.names))
        values: np.ndarray = _terms(flat, self.degree) @ self.coefficients
        return values.clip(0, 100).reshape(budgets.shape[:-1])

    def middle(self) -> np.ndarray:
        """The median of each budget that varies: (len(names),)."""
        return self.points[list(self.names)].median().to_numpy(dtype=float)

    def slopes(self) -> dict[str, float]:
        """Points of top-1 for ten points more of each budget, at the medians."""
        middle, step = self.middle(), 0.05
        slopes = {}
        for index, name in enumerate(self.names):
            ends = np.tile(middle, (2, 1))
            ends[:, index] += (-step, step)
            low, high = self.at(ends)
            slopes[name] = float(high - low)
        return slopes


def fit_surface(rows: pd.DataFrame) -> Surface | None:
    """Fit a plane and a quadratic, as far as the points can support them, and take the better.

    Args:
        rows: The columns tokens, mhsa, mlp (fractions) and val_top1 (percent).

    Returns:
        None where fewer than two budgets vary, or there are not three points for every two
        coefficients of a plane.
    """
    columns = [*BUDGETS, "val_top1"]
    points = rows[columns].astype(float).dropna().reset_index(drop=True)
    names = tuple(name for name in BUDGETS if points[name].nunique() > 2)
    if len(names) < 2:
        return None
    budgets = points[list(names)].to_numpy()
    accuracy = points["val_top1"].to_numpy()
    spread = float(accuracy.std()) * len(accuracy) / (len(accuracy) - 1)
    found = []
    for degree in (1, 2):
        terms = _terms(budgets, degree)
        if 2 * len(terms) >= 3 * terms.shape[1] and np.linalg.matrix_rank(terms) == terms.shape[1]:
            coefficients = np.linalg.lstsq(terms, accuracy, rcond=None)[0]
            leverage = np.einsum("ij,ji->i", terms, np.linalg.pinv(terms))
            left_out = (accuracy - terms @ coefficients) / np.maximum(1 - leverage, 1e-9)
            error = float(np.sqrt(np.mean(left_out**2)))
            found.append(Surface(names, points, degree, coefficients, error, spread))
    return min(found, key=lambda surface: surface.error, default=None)


def surface_sentence(surface: Surface | None, what: str) -> str:
    """Which budget is steepest, and how far the surface can be trusted, in Markdown.

    Args:
        surface: The surface.
        what: Of what the accuracies are: "complete trials", "judged budgets".
    """
    if surface is None:
        return (
            f"There are too few {what} for a surface, or their budgets vary only together or not "
            "at all: a plane over two budgets takes five that are not in one line."
        )
    kind = "quadratic" if surface.degree == 2 else "plane"
    if not surface.is_of_use:
        return (
            f"The better of plane and quadratic through {len(surface.points)} {what}, a {kind}, "
            f"misses a network that it was fitted without by {surface.error:.2f} points, no less "
            f"than the mean of the others does ({surface.spread:.2f}): they show no surface."
        )
    slopes = surface.slopes()
    ranked = sorted(slopes, key=lambda name: -slopes[name])
    each = wording.listed(f"{BUDGETS[name]} {wording.points(slopes[name])}" for name in ranked)
    return (
        f"A {kind} through {len(surface.points)} {what}. In the middle of the budgets, ten points "
        f"more of one of them are worth, in points of validation top-1: {each}. It misses a "
        f"network that it was fitted without by {surface.error:.2f} points, the mean of "
        f"the others by {surface.spread:.2f}."
    )


def draw_surface(surface: Surface) -> go.Figure:
    """Draw a map for each pair of budgets, the third at its median, with the points on it."""
    pairs = list(combinations(range(len(surface.names)), 2))
    figure = make_subplots(1, len(pairs), horizontal_spacing=0.1)
    for column, pair in enumerate(pairs, start=1):
        for trace in _map_of(surface, pair):
            figure.add_trace(trace, row=1, col=column)
        across, upward = (BUDGETS[surface.names[index]] for index in pair)
        figure.update_xaxes(title_text=f"{across} (% kept)", row=1, col=column)
        figure.update_yaxes(title_text=f"{upward} (% kept)", row=1, col=column)
    figure.update_xaxes(showgrid=False, dtick=25)
    figure.update_yaxes(showgrid=False, dtick=25)
    low, high = np.percentile(surface.points["val_top1"], (2, 100))
    bar = {"title": {"text": "val top-1<br>(%)"}}
    scale = {"cmin": low, "cmax": high, "colorscale": theme.SHARES, "colorbar": bar}
    figure.update_layout(template=theme.TEMPLATE, height=380, coloraxis=scale)
    return figure


def _map_of(surface: Surface, pair: Sequence[int]) -> tuple[go.Heatmap, go.Scatter]:
    """The surface over two budgets as a heatmap, and the measured points."""
    axes = [_range(surface, index) for index in pair]
    grid = np.tile(surface.middle(), (GRID_STEPS, GRID_STEPS, 1))
    grid[..., pair[0]], grid[..., pair[1]] = np.meshgrid(*axes)
    names = [surface.names[index] for index in pair]
    heat = go.Heatmap(
        x=100 * axes[0],
        y=100 * axes[1],
        z=surface.at(grid),
        coloraxis="coloraxis",
        zsmooth="best",
        hovertemplate=f"{BUDGETS[names[0]]} %{{x:.0f}} %<br>{BUDGETS[names[1]]} %{{y:.0f}} %<br>"
        "surface: %{z:.2f} %<extra></extra>",
    )
    points = go.Scatter(
        x=100 * surface.points[names[0]],
        y=100 * surface.points[names[1]],
        mode="markers",
        marker={
            "color": surface.points["val_top1"],
            "coloraxis": "coloraxis",
            "size": 8 if len(surface.points) < 60 else 5,
            "line": {"color": "white", "width": 1},
        },
        customdata=surface.points[["val_top1"]],
        hovertemplate="measured: %{customdata[0]:.2f} %<extra></extra>",
        showlegend=False,
    )
    return heat, points


def _range(surface: Surface, index: int) -> np.ndarray:
    values = surface.points[surface.names[index]]
    return np.linspace(values.min(), values.max(), GRID_STEPS)


def _terms(budgets: np.ndarray, degree: int) -> np.ndarray:
    """1, each budget, and for degree 2 all products of two: (points, terms)."""
    count = budgets.shape[1]
    products = list(combinations_with_replacement(range(count), 2)) if degree == 2 else []
    columns = [np.ones(len(budgets)), *budgets.T]
    columns += [budgets[:, one] * budgets[:, other] for one, other in products]
    return np.stack(columns, axis=1)
