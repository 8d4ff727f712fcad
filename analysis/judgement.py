"""What budgets were worth before they were trained, beside what training made of them."""

from typing import NamedTuple

import pandas as pd
import plotly.graph_objects as go

from analysis import theme, wording
from analysis.budgets import BUDGETS, FEWEST_PAIRS, kendall


class JudgementData(NamedTuple):
    """Judged budgets, and the trained ones among them.

    `judged` has the columns of `judged.csv`: at least tokens, mhsa, mlp (fractions), gmacs,
    params_m and val_top1 (percent, untrained). `pairs` has trial, gmacs, judged and trained
    (val top-1, percent) of each COMPLETE trial whose budget was judged. `tau` is Kendall's rank
    correlation over the pairs, NaN below three.
    """

    judged: pd.DataFrame
    pairs: pd.DataFrame
    tau: float


def judgement_data(judged: pd.DataFrame, trials: pd.DataFrame) -> JudgementData:
    """Match trials with judged budgets by their three budgets.

    Args:
        judged: The columns of `judged.csv`; empty where nothing was judged.
        trials: The columns of `trials.csv`. Those without an epoch were not trained: the dense
            model as it stands.
    """
    names = list(BUDGETS)
    left = trials.loc[_trained(trials), ["trial", "gmacs", "val_top1", *names]]
    left = left.assign(key=_keys(left)).rename(columns={"val_top1": "trained"})
    right = pd.DataFrame({"key": _keys(judged), "judged": judged["val_top1"].astype(float)})
    pairs = left.merge(right.drop_duplicates("key"), on="key")
    pairs = pairs[["trial", "gmacs", "judged", "trained"]].dropna().sort_values("trial")
    pairs = pairs.reset_index(drop=True)
    return JudgementData(judged, pairs, kendall(pairs["judged"], pairs["trained"]))


def judgement_sentence(data: JudgementData) -> str:
    """How well judging ranks, and what training added, in Markdown."""
    if data.judged.empty:
        return (
            "This run judged no budgets before training (`judged.csv` is not among its artifacts),"
            " so there is nothing to compare trained networks with."
        )
    told = f"{wording.counted(len(data.judged), 'budget')} were judged without training. "
    if len(data.pairs) < FEWEST_PAIRS or data.tau != data.tau:
        return told + (
            f"{wording.counted(len(data.pairs), 'trained network')} of these budgets: too few, or "
            "too alike, to say whether judging ranks them rightly."
        )
    gain = data.pairs["trained"] - data.pairs["judged"]
    order = data.pairs["trial"].to_numpy()[gain.to_numpy().argsort()]
    least, most = int(order[0]), int(order[-1])
    return told + (
        f"Over the {len(data.pairs)} that were trained too, Kendall's rank correlation of judged "
        f"and trained accuracy is {data.tau:+.2f} (1: the same order, 0: unrelated). The run's "
        "metric `kendall_tau` may differ: it goes by what all judged budgets together, where they "
        "are 32 or more, tell of each, has trials that the sampler picked later, and none that "
        "were added as judging misled. Training "
        f"changed top-1 by {wording.points(float(gain.median()))} points in the median, from "
        f"{wording.points(float(gain.min()))} (trial {least}) to "
        f"{wording.points(float(gain.max()))} (trial {most}). Budgets were picked for what "
        "they were judged at, or what that foretells, so judged accuracy tends to be too good and "
        "the change too small; where val has more than `judge.images`, judging was on so many of "
        "them, and the change has their sampling error."
    )


def draw_judgement(data: JudgementData) -> go.Figure:
    """Draw trained over judged top-1, one point per network; on the line nothing changed."""
    pairs = data.pairs
    low, high = theme.span([*pairs["judged"], *pairs["trained"]], 100)
    line = go.Scatter(
        x=[low, high],
        y=[low, high],
        mode="lines",
        name="unchanged by training",
        line={"color": theme.FAINT, "dash": "dash", "width": 1},
        hoverinfo="skip",
    )
    points = go.Scatter(
        x=pairs["judged"],
        y=pairs["trained"],
        customdata=pairs[["trial", "gmacs"]],
        mode="markers",
        name="network",
        marker={"color": theme.BLUE, "size": 10},
        hovertemplate="trial %{customdata[0]:.0f}, %{customdata[1]:.3g} GMACs<br>"
        "judged %{x:.2f} %, trained %{y:.2f} %<extra></extra>",
    )
    figure = go.Figure([line, points])
    figure.update_xaxes(
        title_text="Judged validation top-1 (%)", range=theme.span(pairs["judged"], 100)
    )
    figure.update_yaxes(
        title_text="Trained validation top-1 (%)", range=theme.span(pairs["trained"], 100)
    )
    figure.update_layout(template=theme.TEMPLATE, height=400, showlegend=True)
    return figure


def draw_judged_beside_trained(data: JudgementData, trials: pd.DataFrame) -> go.Figure:
    """Draw judged budgets and trained networks over their cost.

    Args:
        data: With at least one judged budget.
        trials: The columns of `trials.csv`.
    """
    trained = trials[_trained(trials)]
    figure = go.Figure()
    looks = ("judged", data.judged, theme.FAINT, 5), ("trained", trained, theme.BLUE, 9)
    for name, rows, color, size in looks:
        kept = [f"{title} %{{customdata[{i}]:.0%}}" for i, title in enumerate(BUDGETS.values())]
        trace = go.Scatter(
            x=rows["gmacs"],
            y=rows["val_top1"],
            customdata=rows[list(BUDGETS)],
            mode="markers",
            name=name,
            marker={"color": color, "size": size, "opacity": 0.8},
            hovertemplate=f"{name}<br>{', '.join(kept)}<br>"
            "%{x:.3g} GMACs, val top-1 %{y:.2f} %<extra></extra>",
        )
        figure.add_trace(trace)
    figure.update_xaxes(title_text=theme.GMACS)
    figure.update_yaxes(title_text=theme.VAL_TOP1)
    figure.update_layout(template=theme.TEMPLATE, showlegend=True, hovermode="closest")
    return figure


def _trained(trials: pd.DataFrame) -> pd.Series:
    """Which are COMPLETE and not the dense model as it stands."""
    return (trials["state"] == "COMPLETE") & (trials["epochs"] > 0)


def _keys(rows: pd.DataFrame) -> pd.Series:
    """The three budgets as one value, equal where they are to nine digits."""
    texts = [" ".join(f"{float(v):.9f}" for v in row) for row in rows[list(BUDGETS)].to_numpy()]
    return pd.Series(texts, index=rows.index, dtype="str")
