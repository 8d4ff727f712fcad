"""Two runs beside each other: their fronts, what each offers at a cost, and how they were made."""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd
import plotly.graph_objects as go

from analysis import theme, wording
from analysis.hypervolume import hypervolume_of
from analysis.pareto_front import FrontData, Point, front_data, network_for
from analysis.runs import Run

LEVELS = (1, 0.8, 0.6, 0.4, 0.2, 0.1)
NOT_ABOUT_RESULTS = {
    *("name", "storage", "tracking_uri", "cluster", "verbose", "register", "download"),
    *("max_retries", "kept_images_gb"),
}


class OneRun(NamedTuple):
    """A run's front.

    `beaten` counts its networks that some network of the other run's front dominates. `volume`
    is the share (0 to 1) of the box between no accuracy at 1.1 times the dearest network of both
    runs and the ideal; NaN without a front.
    """

    name: str
    data: FrontData
    beaten: int
    volume: float


class TwoRunsData(NamedTuple):
    """Both runs, and the values of their configurations that differ (name, first, second).

    `warning` says where their accuracies are of different images, and is empty elsewhere.
    """

    first: OneRun
    second: OneRun
    differences: tuple[tuple[str, str, str], ...]
    warning: str


def two_runs_data(first: Run, second: Run) -> TwoRunsData:
    """Set two runs against each other."""
    fronts = front_data(first.trials, first.dense), front_data(second.trials, second.dense)
    points = [point for front in fronts for point in (*front.front, *front.dominated)]
    limit = 1.1 * max((point.gmacs for point in points), default=float("nan"))
    one, other = (
        OneRun(
            run.name,
            mine,
            sum(any(dominates(rival, point) for rival in theirs.front) for point in mine.front),
            hypervolume_of([(p.gmacs, p.val_top1) for p in mine.front], limit),
        )
        for run, mine, theirs in ((first, *fronts), (second, *fronts[::-1]))
    )
    differences = differing(first.params, second.params)
    return TwoRunsData(one, other, differences, _unlike(first, second))


def _unlike(first: Run, second: Run) -> str:
    """Whether the images differ; runs of earlier versions tell only what they were called."""
    images = [run.params.get("images.sha256") for run in (first, second)]
    names = [wording.escaped(run.params.get("data", "")) for run in (first, second)]
    if None not in images and images[0] != images[1]:
        return "The two runs have different images: their accuracies are not comparable."
    if None in images and names[0] != names[1]:
        return f"The two runs were given different data, {names[0]} and {names[1]}."
    return ""


def dominates(one: Point, other: Point) -> bool:
    """Whether a network is at least as cheap and as accurate as another, and better in one."""
    no_worse = one.gmacs <= other.gmacs and one.val_top1 >= other.val_top1
    return no_worse and (one.gmacs < other.gmacs or one.val_top1 > other.val_top1)


def differing(
    first: Mapping[str, str], second: Mapping[str, str]
) -> tuple[tuple[str, str, str], ...]:
    """The values that differ and may change results, by name; a dash where one has none."""
    every = (first.keys() | second.keys()) - NOT_ABOUT_RESULTS
    names = sorted(name for name in every if not name.startswith("images."))
    values = [(name, first.get(name), second.get(name)) for name in names]
    return tuple((n, a or wording.MISSING, b or wording.MISSING) for n, a, b in values if a != b)


def two_runs_sentence(data: TwoRunsData) -> str:
    """Which front is ahead, in Markdown."""
    empty = [one.name for one in (data.first, data.second) if not one.data.front]
    if empty:
        names = wording.listed(f"**{wording.escaped(name)}**" for name in empty)
        return f"There is no complete trial in {names}, so there is nothing to compare."
    told = [f"**{data.warning}**"] if data.warning else []
    for one, other in ((data.first, data.second), (data.second, data.first)):
        told.append(
            f"Of the {wording.counted(len(one.data.front), 'network')} on the front of "
            f"**{wording.escaped(one.name)}**, {one.beaten or 'none'} "
            f"{'are' if one.beaten > 1 else 'is'} beaten by **{wording.escaped(other.name)}**"
            + (", which has one no dearer and no less accurate." if one.beaten else ".")
        )
    ahead, behind = sorted((data.first, data.second), key=lambda one: -one.volume)
    gap = 100 * (ahead.volume - behind.volume)
    told.append(
        f"By hypervolume **{wording.escaped(ahead.name)}** is ahead by {gap:.2f} points "
        f"({100 * ahead.volume:.2f} against {100 * behind.volume:.2f} % of one box)."
        if gap > 0
        else "By hypervolume both are equal."
    )
    dense = [one.data.dense for one in (data.first, data.second)]
    tops = [wording.top1(model.val_top1) for model in dense if model]
    if len(tops) == len(dense):
        told.append(f"Their dense models have {' and '.join(tops)} % on val.")
    if any(name == "seed" for name, _, _ in data.differences):
        told.append("The seeds differ: a part of the distance is theirs.")
    return " ".join(told)


def levels_table(data: TwoRunsData) -> pd.DataFrame:
    """What each run offers at shares of the cost of the dearest network of both fronts."""
    dearest = max(p.gmacs for one in (data.first, data.second) for p in one.data.front)
    rows = []
    for level in LEVELS:
        best = [network_for(one.data.front, level * dearest) for one in (data.first, data.second)]
        tops = [point.val_top1 if point else float("nan") for point in best]
        limit = f"{wording.number(level * dearest)} ({wording.share(level)})"
        row = {"At most (GMACs)": limit}
        for one, point, top in zip((data.first, data.second), best, tops, strict=True):
            trial = f" (trial {point.trial})" if point else ""
            row[f"{one.name}, val top-1 (%)"] = wording.top1(top) + trial
        rows.append(row | {"Difference (points)": wording.points(tops[1] - tops[0])})
    return pd.DataFrame(rows)


def differences_table(data: TwoRunsData) -> pd.DataFrame:
    """The values that differ, for reading."""
    columns = ["Value", data.first.name, data.second.name]
    return pd.DataFrame(data.differences, columns=columns)


def draw_two_runs(data: TwoRunsData) -> go.Figure:
    """Draw both fronts as steps over the cost; a star is the dense network."""
    figure = go.Figure()
    for index, one in enumerate((data.first, data.second)):
        color, symbol = theme.PALETTE[index], theme.SYMBOLS[index]
        front = one.data.front
        figure.add_trace(
            go.Scatter(
                x=[point.gmacs for point in front],
                y=[point.val_top1 for point in front],
                customdata=[[p.trial, p.tokens, p.mhsa, p.mlp] for p in front],
                mode="lines+markers",
                name=wording.figure_text(one.name),
                line={"shape": "hv", "color": color, "width": 2},
                marker={"color": color, "symbol": symbol, "size": 10},
                hovertemplate="trial %{customdata[0]}<br>tokens %{customdata[1]:.0%}, "
                "MHSA %{customdata[2]:.0%}, MLP %{customdata[3]:.0%}<br>"
                "%{x:.3g} GMACs, val top-1 %{y:.2f} %",
            )
        )
        dense = one.data.dense
        if dense:
            figure.add_trace(
                go.Scatter(
                    x=[dense.gmacs],
                    y=[dense.val_top1],
                    mode="markers",
                    name=f"dense, {wording.figure_text(one.name)}",
                    marker={"color": color, "symbol": "star", "size": 14},
                    hovertemplate="dense<br>%{x:.3g} GMACs, val top-1 %{y:.2f} %",
                )
            )
    figure.update_xaxes(title_text=theme.GMACS)
    figure.update_yaxes(title_text=theme.VAL_TOP1)
    figure.update_layout(template=theme.TEMPLATE, showlegend=True, hovermode="closest")
    return figure
