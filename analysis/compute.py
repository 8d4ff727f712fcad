"""Where the time went: seconds by stage and by trial, epochs trained, states counted."""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd
import plotly.graph_objects as go

from analysis import theme, wording

STAGES = {
    "dense": "Dense training",
    "search": "Mask search",
    "share": "Weight sharing",
    "judge": "Judging",
    "trials": "Trials",
    "repeats": "Repeats",
    "transfer": "Transfer",
}
MOST_REASONS = 3
"""Why trials did not complete, as a table tells it."""
ALWAYS = ("dense", "search", "trials")
_COLOURS = {
    "COMPLETE": theme.BLUE,
    "PRUNED": theme.ORANGE,
    "FAILED": theme.VERMILLION,
    "RUNNING": theme.FAINT,
}


class ComputeData(NamedTuple):
    """Seconds by stage (only stages with a measured time) and the trials that took them.

    `seconds` is summed over networks that were trained or judged side by side, so it is not the
    time on the clock. `trials` has the columns trial, state, epochs, seconds and reason; `states`
    counts the trials by state; `epochs` is of all trials, `repeated` of their repeats.
    """

    seconds: dict[str, float]
    trials: pd.DataFrame
    states: dict[str, int]
    epochs: float
    repeated: float


def compute_data(
    trials: pd.DataFrame,
    stages: pd.DataFrame,
    judged: pd.DataFrame | None = None,
    metrics: Mapping[str, float] | None = None,
) -> ComputeData:
    """Sum the seconds of each stage.

    Args:
        trials: The columns of `trials.csv`.
        stages: One row per other child run, with the columns kind and seconds.
        judged: One row per judged budget, with the column seconds.
        metrics: Of the sweep, `repeats_seconds` and `repeats_epochs` among them where networks
            were trained again.
    """
    totals = metrics or {}
    sums = {kind: _sum(stages.loc[stages["kind"] == kind, "seconds"]) for kind in STAGES}
    sums["judge"] = 0.0 if judged is None else _sum(judged["seconds"])
    sums["trials"] = _sum(trials["seconds"])
    sums["repeats"] = totals.get("repeats_seconds", 0.0)
    columns = ["trial", "state", "epochs", "seconds", "reason"]
    known = trials[columns].sort_values("trial", ignore_index=True)
    counts = trials["state"].value_counts()
    return ComputeData(
        seconds={kind: sums[kind] for kind in STAGES if sums[kind] > 0},
        trials=known.astype({"epochs": float, "seconds": float}),
        states={str(state): int(counts[state]) for state in sorted(counts.index)},
        epochs=_sum(trials["epochs"]),
        repeated=totals.get("repeats_epochs", 0.0),
    )


def compute_sentence(data: ComputeData) -> str:
    """The total, the largest stage, and what early stopping and failures did, in Markdown."""
    if not data.seconds:
        return "No stage has logged its time yet."
    total = sum(data.seconds.values())
    largest = max(data.seconds, key=lambda kind: data.seconds[kind])
    told = [
        f"The networks took {wording.duration(total)}, summed over those that were trained or "
        "judged side by side; the largest part was "
        f"{STAGES[largest].lower()} ({wording.share(data.seconds[largest] / total)})."
    ]
    missing = [STAGES[kind].lower() for kind in ALWAYS if kind not in data.seconds]
    if missing:
        told.append(f"No time is logged for {wording.listed(missing)}.")
    if data.states:
        states = wording.listed(f"{count} {state.lower()}" for state, count in data.states.items())
        told.append(
            f"Of the trials, {states}; they trained "
            f"{wording.counted(round(data.epochs), 'epoch')} in all"
            + (f", their repeats {round(data.repeated)}." if data.repeated else ".")
        )
    return " ".join(told)


def early_stops_sentence(data: ComputeData) -> str:
    """How many trials were stopped early, and the epochs that this saved, in Markdown."""
    pruned = data.trials[data.trials["state"] == "PRUNED"]
    stopped = pruned[pruned["epochs"] > 0]
    slow = len(pruned) - len(stopped)
    told = _stops_sentence(stopped, data)
    return told + (f" {wording.counted(slow, 'trial')} ended untrained." if slow else "")


def _stops_sentence(stopped: pd.DataFrame, data: ComputeData) -> str:
    """Of the trials that were stopped at a rung."""
    if stopped.empty:
        return "No trial was stopped early."
    complete = data.trials["state"] == "COMPLETE"
    whole = data.trials.loc[complete, "epochs"].max()
    ended = data.trials["state"] != "RUNNING"
    untrained = (complete | (data.trials["state"] == "PRUNED")) & ~(data.trials["epochs"] > 0)
    asked = int((ended & ~untrained).sum())  # not the dense model as it stands, nor what is slow
    told = (
        f"{wording.counted(len(stopped), 'trial')} of {asked} "
        f"{'was' if len(stopped) == 1 else 'were'} stopped early"
    )
    if not whole > 0:
        return f"{told}; no complete trial tells how many epochs that saved."
    saved = float((whole - stopped["epochs"].fillna(0)).clip(lower=0).sum())
    planned = whole * asked
    return (
        f"{told}, which saved {saved:.0f} of {planned:.0f} epochs "
        f"({wording.share(saved / planned)})."
    )


def compute_table(data: ComputeData) -> pd.DataFrame:
    """Time by stage, for reading."""
    total = sum(data.seconds.values())
    rows = [
        {"Stage": STAGES[kind], "Time": wording.duration(sec), "Share": wording.share(sec / total)}
        for kind, sec in data.seconds.items()
    ]
    return pd.DataFrame(rows)


def states_table(data: ComputeData) -> pd.DataFrame:
    """Trials, epochs and time by state, for reading."""
    rows = []
    for state, count in data.states.items():
        of_state = data.trials[data.trials["state"] == state]
        rows.append(
            {
                "State": state,
                "Trials": count,
                "Epochs": round(_sum(of_state["epochs"])),
                "Time": wording.duration(_sum(of_state["seconds"])),
                "Median per trial": wording.duration(float(of_state["seconds"].median())),
                "Why": _reasons(of_state["reason"]),
            }
        )
    return pd.DataFrame(rows)


def _reasons(told: pd.Series) -> str:
    """The different ones, the most frequent first, a few of them."""
    known = told[told != ""].value_counts()
    more = [f"and {len(known) - MOST_REASONS} more"] if len(known) > MOST_REASONS else []
    return "; ".join([*known.index[:MOST_REASONS], *more])


def draw_stages(data: ComputeData) -> go.Figure:
    """Draw the time of each stage as bars, in the order in which they run."""
    scale, unit = _unit(max(data.seconds.values()))
    kinds = list(reversed(data.seconds))
    figure = go.Figure(
        go.Bar(
            x=[data.seconds[kind] / scale for kind in kinds],
            y=[STAGES[kind] for kind in kinds],
            text=[wording.duration(data.seconds[kind]) for kind in kinds],
            orientation="h",
            marker={"color": theme.BLUE},
            textfont={"color": theme.TEXT},
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{text}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text=f"Time, summed over networks ({unit})")
    height, margin = 160 + 45 * len(kinds), {"r": 90, "t": 40}
    figure.update_layout(template=theme.TEMPLATE, height=height, margin=margin)
    return figure


def draw_trial_times(data: ComputeData) -> go.Figure:
    """Draw the time of each trial as bars, coloured by state; needs one measured time."""
    timed = data.trials.dropna(subset="seconds")
    scale, unit = _unit(float(timed["seconds"].max()))
    figure = go.Figure()
    for state, rows in timed.groupby("state"):
        figure.add_trace(
            go.Bar(
                x=rows["trial"].astype(str),
                y=rows["seconds"] / scale,
                name=str(state).lower(),
                marker={"color": _COLOURS.get(str(state), theme.PURPLE)},
                customdata=[
                    [wording.duration(row["seconds"]), f"{row['epochs']:.0f}"]
                    for row in rows.to_dict("records")
                ],
                hovertemplate="trial %{x}: %{customdata[0]}, %{customdata[1]} epochs"
                "<extra></extra>",
            )
        )
    order = timed["trial"].astype(str).tolist()
    figure.update_xaxes(type="category", categoryarray=order, title_text="Trial", nticks=30)
    figure.update_yaxes(title_text=f"Time ({unit})")
    figure.update_layout(template=theme.TEMPLATE, height=360, showlegend=True, barmode="stack")
    return figure


def _sum(values: pd.Series) -> float:
    return float(values.astype(float).sum())


def _unit(longest: float) -> tuple[float, str]:
    """The unit that keeps the longest time readable, in seconds, and its name."""
    if longest < 120:
        return 1.0, "s"
    return (60.0, "min") if longest < 7200 else (3600.0, "h")
