"""How every figure looks: legible on light and dark pages, safe for colour-blind readers."""

import math
from collections.abc import Iterable

import plotly.graph_objects as go

# Okabe and Ito's palette without black and yellow, which vanish on dark or light pages.
BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
VERMILLION = "#D55E00"
SKY = "#56B4E9"
PURPLE = "#CC79A7"
GREY = "#7a7a7a"
PALETTE = (BLUE, ORANGE, GREEN, VERMILLION, SKY, PURPLE, GREY)
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "pentagon")
SHARES = "Cividis"

TEXT = GREY
"""A grey of contrast above 4 : 1 on white and on near-black."""
FAINT = "#9a9a9a"
GRID = "rgba(128, 128, 128, 0.25)"
CLEAR = "rgba(0, 0, 0, 0)"

GMACS = "Cost (GMACs per image)"
VAL_TOP1 = "Validation top-1 (%)"


def span(values: Iterable[float], most: float = math.inf) -> list[float]:
    """A range around values with 5 % to spare, or from 0 to twice the value if all are equal.

    Args:
        values: At least one.
        most: Where the range ends at the latest, but for its 5 %.
    """
    known = [float(value) for value in values]
    low, high = min(known), max(known)
    slack = 0.05 * (high - low) or abs(high) or 1.0
    return [low - slack, min(high + slack, 1.05 * most)]


_AXIS = {
    "color": TEXT,
    "gridcolor": GRID,
    "linecolor": TEXT,
    "showline": True,
    "zeroline": False,
    "ticks": "outside",
    "exponentformat": "none",
    "automargin": True,
    "title": {"standoff": 10},
}

TEMPLATE = go.layout.Template(
    layout={
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"color": TEXT, "size": 13, "family": "system-ui, sans-serif"},
        "colorway": PALETTE,
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "hoverlabel": {"align": "left", "bgcolor": "#2b2b2b", "font": {"color": "#ffffff"}},
        "margin": {"l": 70, "r": 30, "t": 60, "b": 60},
        "height": 460,
        "colorscale": {"sequential": SHARES},
        "coloraxis": {"colorbar": {"outlinewidth": 0, "thickness": 14, "exponentformat": "none"}},
        "modebar": {"bgcolor": CLEAR, "color": FAINT, "activecolor": TEXT},
    }
)
