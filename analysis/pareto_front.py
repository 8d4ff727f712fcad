"""The front: which trials are non-dominated (accuracy up, MACs down), and the picture of them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import moocore
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis import theme, wording
from analysis.runs import DenseModel

MOST_ON_A_LINE = 10.0
"""From the cheapest to the dearest network; on a linear scale most would be at the left edge."""


class Point(NamedTuple):
    """One COMPLETE trial.

    Budgets are fractions, `gmacs` is 1e9 MACs for one image, `params_m` 1e6 parameters, `*_top1`
    is percent; `latency_ms` is of one image, NaN where it was not measured. With 0 `epochs` it
    was not trained: the dense model as it stands.
    """

    trial: int
    tokens: float
    mhsa: float
    mlp: float
    gmacs: float
    params_m: float
    val_top1: float
    test_top1: float
    epochs: float
    latency_ms: float
    url: str | None

    @property
    def is_dense(self) -> bool:
        """Whether its budget keeps everything."""
        return self.tokens == self.mhsa == self.mlp == 1


class FrontData(NamedTuple):
    """What the front's picture shows; points stand in order of MACs."""

    front: tuple[Point, ...]
    dominated: tuple[Point, ...]
    dense: DenseModel | None
    knee: Point | None

    @property
    def dense_trial(self) -> Point | None:
        """The dense budget: the dense model as it stands, or trained as all trials."""
        return next((point for point in (*self.front, *self.dominated) if point.is_dense), None)


def front_mask(trials: pd.DataFrame) -> pd.Series:
    """Mark the COMPLETE trials that no other COMPLETE trial dominates.

    Of trials with equal accuracy and equal MACs all are kept.

    Args:
        trials: At least the columns state, val_top1 and gmacs.

    Returns:
        Booleans with the index of `trials`.
    """
    mask = pd.Series(False, index=trials.index, dtype=bool)
    judged = _judged(trials)
    if judged.any():
        values = trials.loc[judged, ["val_top1", "gmacs"]].to_numpy(dtype=float)
        mask[judged] = moocore.is_nondominated(values, maximise=[True, False], keep_weakly=True)
    return mask


def front_data(trials: pd.DataFrame, dense: DenseModel | None = None) -> FrontData:
    """Sort the COMPLETE trials into front and dominated ones.

    Args:
        trials: The columns of `trials.csv`; `url`, where there is one, links the run's page.
        dense: What the networks are set against; None for nothing.
    """
    on_front = front_mask(trials)
    front = _points(trials[on_front])
    dominated = _points(trials[_judged(trials) & ~on_front])
    return FrontData(front=front, dominated=dominated, dense=dense, knee=knee(front))


def knee(front: Sequence[Point]) -> Point | None:
    """Find where the front bends most.

    That is the point farthest above the line from the cheapest to the dearest one, both axes
    scaled to the front's own range.

    Returns:
        The point, or None where the front has no point above that line.
    """
    if len(front) < 3:
        return None
    cheapest = min(front, key=lambda point: (point.gmacs, point.trial))
    dearest = max(front, key=lambda point: (point.gmacs, -point.trial))
    width, height = dearest.gmacs - cheapest.gmacs, dearest.val_top1 - cheapest.val_top1
    if width <= 0 or height <= 0:
        return None

    def rise(point: Point) -> float:
        along = (point.gmacs - cheapest.gmacs) / width
        return (point.val_top1 - cheapest.val_top1) / height - along

    best = max(front, key=lambda point: (rise(point), -point.trial))
    return best if rise(best) > 1e-9 else None


def network_for(front: Sequence[Point], gmacs: float) -> Point | None:
    """The most accurate member of the front that costs at most `gmacs`; None if none does."""
    affordable = [point for point in front if point.gmacs <= gmacs]
    return max(affordable, key=lambda p: (p.val_top1, -p.gmacs, -p.trial), default=None)


def front_sentence(data: FrontData, val_images: int | None = None) -> str:
    """What the front says, in a few sentences of Markdown.

    Args:
        data: The front.
        val_images: Images that its accuracies are of, for what they can tell apart.
    """
    if not data.front:
        return "No trial is complete yet, so there is no front to show."
    total = len(data.front) + len(data.dominated)
    told = [
        f"Of {wording.counted(total, 'complete trial')}, {len(data.front)} "
        f"{'is' if len(data.front) == 1 else 'are'} on the front: no other trial is at least as "
        "cheap and at least as accurate on the validation split, and better in one of the two."
    ]
    told += [_against_dense(data.front, data.dense)] if data.dense else [_NO_DENSE]
    if data.dense and data.dense_trial and data.dense_trial.epochs:
        told.append(
            f"The dense budget, searched and trained as all trials (trial "
            f"{data.dense_trial.trial}), has {wording.top1(data.dense_trial.val_top1)} %."
        )
    if data.knee:
        told.append(
            f"The front bends most at trial {data.knee.trial} "
            f"({wording.number(data.knee.gmacs)} GMACs, {wording.top1(data.knee.val_top1)} %): "
            "beyond it, each further point of accuracy costs more MACs."
        )
    elif len(data.front) < 3:
        told.append("With fewer than three points a front has no knee.")
    if val_images:
        told.append(_resolution(max(point.val_top1 for point in data.front), val_images))
    return " ".join(told)


def front_table(data: FrontData) -> pd.DataFrame:
    """The front's networks for reading, cheapest first."""
    timed = any(math.isfinite(point.latency_ms) for point in data.front)
    rows = [
        {
            "Trial": point.trial,
            "Tokens": wording.share(point.tokens),
            "MHSA": wording.share(point.mhsa),
            "MLP": wording.share(point.mlp),
            "Params (M)": wording.number(point.params_m),
            "GMACs": wording.number(point.gmacs),
            **({"Latency (ms)": wording.number(point.latency_ms)} if timed else {}),
            "Val top-1 (%)": wording.top1(point.val_top1),
            "Test top-1 (%)": wording.top1(point.test_top1),
            "": wording.listed(_marks(point, data)),
        }
        for point in data.front
    ]
    return pd.DataFrame(rows)


def network_table(
    data: FrontData, shares: Sequence[float] = (1, 0.5, 0.3, 0.2, 0.1, 0.05)
) -> pd.DataFrame:
    """The network to take for a budget of MACs, each network once.

    Args:
        data: With at least one point on the front.
        shares: Budgets as fractions of the dense model's MACs (the dearest point's where that is
            not known).
    """
    whole = data.dense.gmacs if data.dense else data.front[-1].gmacs
    rows = []
    for share in shares:
        point = network_for(data.front, share * whole)
        rows.append(
            {
                "At most (GMACs)": f"{wording.number(share * whole)} ({wording.share(share)})",
                "Trial": str(point.trial) if point else "none this cheap",
                "GMACs": wording.number(point.gmacs if point else math.nan),
                "Val top-1 (%)": wording.top1(point.val_top1 if point else math.nan),
                "Test top-1 (%)": wording.top1(point.test_top1 if point else math.nan),
            }
        )
    return pd.DataFrame(rows).drop_duplicates("Trial", ignore_index=True)


def draw_front(data: FrontData) -> go.Figure:
    """Draw validation top-1 over MACs: front as steps, the rest faint, dense and knee marked.

    MACs are on a logarithmic scale where the dearest network costs ten times the cheapest.
    """
    figure = go.Figure()
    if data.dominated:
        figure.add_trace(_markers(data.dominated, "dominated", color=theme.FAINT, opacity=0.5))
    if data.front:
        figure.add_trace(_steps(data.front))
    if data.knee:
        knee = _place((data.knee,))
        figure.add_trace(_ring(knee, "knee", theme.VERMILLION, "circle-open", 18))
    if data.dense:
        figure.add_trace(_ring(_place_of(data.dense), "dense model", theme.ORANGE, "star", 15))
    figure.update_layout(
        template=theme.TEMPLATE,
        xaxis={"title": {"text": theme.GMACS}},
        yaxis={"title": {"text": theme.VAL_TOP1}},
        showlegend=True,
        hovermode="closest",
    )
    costs = {point.gmacs for point in (*data.front, *data.dominated)}
    if len(costs) == 1:
        figure.update_xaxes(range=theme.span(costs))
    elif costs and min(costs) > 0 and max(costs) > MOST_ON_A_LINE * min(costs):
        figure.update_xaxes(type="log", tickformat="~g", dtick="D2")
    return figure


_NO_DENSE = "The dense model's accuracy is not known, so nothing is compared with it."


def _judged(trials: pd.DataFrame) -> pd.Series:
    complete = trials["state"] == "COMPLETE"
    return complete & trials["val_top1"].notna() & trials["gmacs"].notna()


def _points(trials: pd.DataFrame) -> tuple[Point, ...]:
    columns = [name for name in Point._fields if name != "url"]
    ordered = trials.sort_values(["gmacs", "val_top1", "trial"])
    latency = ordered.get("latency_ms", pd.Series(math.nan, ordered.index))
    ordered = ordered.assign(latency_ms=latency.astype(float))
    urls = ordered["url"] if "url" in ordered else [None] * len(ordered)
    points = []
    for row, url in zip(ordered[columns].to_dict("records"), urls, strict=True):
        values = {name: float(row[name]) for name in columns if name != "trial"}
        link = url if isinstance(url, str) else None
        points.append(Point(trial=int(row["trial"]), url=link, **values))
    return tuple(points)


def _resolution(top1: float, images: int) -> str:
    """What so many images can tell apart, of networks that err on different ones at worst."""
    share = (top1 / 100 * images + 2) / (images + 4)  # Agresti and Coull's: not 0 at 100 %
    error = 100 * math.sqrt(share * (1 - share) / (images + 4))
    apart = 1.96 * math.sqrt(2) * error
    return (
        f"One of the {images:,} validation images is {wording.number(100 / images)} points, and "
        f"the standard error of {wording.top1(top1)} % on them is {wording.number(error)}: of two "
        f"networks that are equally good, chance alone sets one pair in twenty apart by more than "
        f"{wording.number(apart)}."
    )


def _against_dense(front: Sequence[Point], dense: DenseModel) -> str:
    """The cheapest network that is at least as good as dense, else the one that loses least."""
    as_good = [p for p in front if p.val_top1 >= dense.val_top1 and p.gmacs < dense.gmacs]
    if as_good:
        best = min(as_good, key=lambda point: point.gmacs)
        share = wording.share(best.gmacs / dense.gmacs)
        return (
            f"Trial {best.trial} needs {share} of the dense model's MACs and is at least as "
            f"accurate ({wording.top1(best.val_top1)} against {wording.top1(dense.val_top1)} %)."
        )
    cheaper = [point for point in front if point.gmacs < dense.gmacs]
    if not cheaper:
        return "No network of the front is cheaper than the dense model."
    closest = max(cheaper, key=lambda point: point.val_top1)
    lost = wording.points(closest.val_top1 - dense.val_top1)
    share = wording.share(closest.gmacs / dense.gmacs)
    return (
        "No cheaper network reaches the dense model's accuracy; closest comes "
        f"trial {closest.trial}, {lost} points at {share} of its MACs."
    )


def _marks(point: Point, data: FrontData) -> list[str]:
    """What is special about a point of the front."""
    special = {"dense budget": data.dense_trial, "knee": data.knee}
    return [mark for mark, one in special.items() if one and one.trial == point.trial]


def _hover(point: Point) -> str:
    kept = f"tokens {point.tokens:.3g}, MHSA {point.mhsa:.3g}, MLP {point.mlp:.3g}"
    lines = [
        f"<b>trial {point.trial}</b>",
        f"budget: {kept}",
        f"{wording.number(point.gmacs)} GMACs, {wording.number(point.params_m)} M parameters"
        + (f", {wording.number(point.latency_ms)} ms" if math.isfinite(point.latency_ms) else ""),
        f"top-1: val {wording.top1(point.val_top1)} %, test {wording.top1(point.test_top1)} %",
    ]
    return "<br>".join(lines + (["its number links to its MLflow run"] if point.url else []))


def _label(point: Point) -> str:
    return f'<a href="{point.url}">{point.trial}</a>' if point.url else str(point.trial)


def _place(points: Sequence[Point]) -> dict[str, object]:
    return {
        "x": np.array([point.gmacs for point in points]),
        "y": np.array([point.val_top1 for point in points]),
        "hovertext": [_hover(point) for point in points],
        "hoverinfo": "text",
    }


def _markers(points: Sequence[Point], name: str, color: str, opacity: float) -> go.Scatter:
    marker = {"color": color, "size": 8, "opacity": opacity}
    return go.Scatter(**_place(points), name=name, mode="markers", marker=marker)


def _steps(points: Sequence[Point]) -> go.Scatter:
    return go.Scatter(
        **_place(points),
        name="front",
        mode="lines+markers+text",
        line={"shape": "hv", "color": theme.BLUE, "width": 2},
        marker={"color": theme.BLUE, "size": 10},
        text=[_label(point) for point in points],
        textposition=[("top left", "bottom right")[index % 2] for index in range(len(points))],
        cliponaxis=False,
    )


def _place_of(dense: DenseModel) -> dict[str, object]:
    lines = [
        "<b>dense model</b>, before the search",
        f"{wording.number(dense.gmacs)} GMACs, {wording.number(dense.params_m)} M parameters",
        f"top-1: val {wording.top1(dense.val_top1)} %, test {wording.top1(dense.test_top1)} %",
    ]
    x, y = np.array([dense.gmacs]), np.array([dense.val_top1])
    return {"x": x, "y": y, "hovertext": ["<br>".join(lines)], "hoverinfo": "text"}


def _ring(place: dict[str, object], name: str, color: str, symbol: str, size: int) -> go.Scatter:
    edge = {"width": 2, "color": color}
    marker = {"color": color, "symbol": symbol, "size": size, "line": edge}
    return go.Scatter(**place, name=name, mode="markers", marker=marker)
