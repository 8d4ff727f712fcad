"""The front on downstream tasks: top-1 over MACs, and whether the order of networks holds."""

import math
from typing import NamedTuple

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis import theme, wording
from analysis.budgets import BUDGETS, kendall
from analysis.pareto_front import front_mask

DENSE = "dense"
TITLE_LENGTH = 30  # characters that fit over a third of the page


class TransferData(NamedTuple):
    """Mean top-1 over the seeds per task, method and network.

    `networks` has the columns task, method, trial (a number as text, or `dense`), gmacs,
    params_m, top1 and spread (percent; the spread is the sample standard deviation, NaN for one
    seed), seeds, slimmed (whether anything was cut) and difference (points against the dense
    network of the same task and method, NaN without one), cheapest first. `split` is test, or
    val while no test accuracy is known. `correlation` has task, method, tau (Kendall, source
    val_top1 against task top1 over the slimmed networks; NaN below three) and networks.
    """

    networks: pd.DataFrame
    correlation: pd.DataFrame
    split: str


def transfer_data(transfer: pd.DataFrame, trials: pd.DataFrame) -> TransferData:
    """Average the seeds and set the networks against dense and against the source's order.

    Args:
        transfer: The columns of `transfer.csv`. Networks that are no longer on the front, as
            trials were added since, are left out.
        trials: The columns of `trials.csv`. A trial that is the dense model as it stands is left
            out: its rows are those of `dense`.
    """
    split = "test" if transfer["test_top1"].notna().any() else "val"
    measured = transfer.assign(top1=transfer[f"{split}_top1"].astype(float)).dropna(subset="top1")
    measured = measured.assign(trial=measured["trial"].astype(str))
    kept = trials.loc[front_mask(trials) & (trials["epochs"] != 0), "trial"].astype(str)
    measured = measured[measured["trial"].isin([DENSE, *kept])]
    grouped = measured.groupby(["task", "method", "trial"], as_index=False)
    networks = grouped.agg(
        gmacs=("gmacs", "mean"),
        params_m=("params_m", "mean"),
        top1=("top1", "mean"),
        spread=("top1", "std"),
        seeds=("top1", "size"),
    )
    dense = networks[networks["trial"] == DENSE].set_index(["task", "method"])["top1"]
    keys = zip(networks["task"], networks["method"], strict=True)
    reference = [float(dense.get(key, math.nan)) for key in keys]
    networks["difference"] = networks["top1"] - pd.Series(reference, dtype=float)
    whole = trials.loc[(trials[list(BUDGETS)] == 1).all(axis=1), "trial"].astype(str)
    networks["slimmed"] = ~networks["trial"].isin([DENSE, *whole])
    networks = networks.sort_values(["task", "method", "gmacs", "trial"], ignore_index=True)
    return TransferData(networks, _correlation(networks, trials), split)


def transfer_sentence(data: TransferData) -> str:
    """Where slimming helps or hurts, a line of Markdown for each task and method."""
    if data.networks.empty:
        return (
            "This run has no transfer results: none were asked for (`--tasks`), or none has ended."
        )
    slimmed = data.networks[data.networks["slimmed"]]
    several = data.networks["method"].nunique() > 1
    told = [
        f"- {_task_sentence(str(task), str(method) if several else '', rows)}"
        for (task, method), rows in slimmed.groupby(["task", "method"])
    ]
    if slimmed.empty:
        told = ["Only the dense network has been transferred so far."]
    if data.split == "val":
        told += ["", "Accuracies are those of the validation split: no test accuracy is logged."]
    return "\n".join(told)


def correlation_sentence(data: TransferData) -> str:
    """Whether the order on the source task holds on the others, in Markdown."""
    known = data.correlation.dropna(subset="tau")
    if known.empty:
        return (
            "Whether the order of the networks holds downstream cannot be told: it takes at least "
            "three slimmed networks of different accuracy on one task."
        )
    told = [
        f"{wording.escaped(row['task'])} ({wording.escaped(row['method'])}) {row['tau']:+.2f} "
        f"over {row['networks']} networks"
        for row in known.to_dict("records")
    ]
    return (
        "Kendall's rank correlation between validation top-1 on the source task and top-1 "
        f"downstream (1: the same order, 0: unrelated): {wording.listed(told)}."
    )


def transfer_table(data: TransferData) -> pd.DataFrame:
    """Each network's top-1 per task and its difference to the dense one."""
    accuracy = f"{data.split.capitalize()} top-1 (%)"
    rows = [
        {
            "Task": row["task"],
            "Method": row["method"],
            "Network": DENSE if row["trial"] == DENSE else f"trial {row['trial']}",
            "Params (M)": wording.number(row["params_m"]),
            "GMACs": wording.number(row["gmacs"]),
            accuracy: wording.top1(row["top1"]) + _plus_minus(row["spread"]),
            "Seeds": row["seeds"],
            "Against dense (points)": (
                wording.MISSING if row["trial"] == DENSE else wording.points(row["difference"])
            ),
        }
        for row in data.networks.to_dict("records")
    ]
    return pd.DataFrame(rows)


def draw_transfer(data: TransferData) -> go.Figure:
    """Draw one panel per task: top-1 over MACs per method, the dense network as a dashed line."""
    tasks = sorted(data.networks["task"].unique())
    methods = sorted(data.networks["method"].unique())
    columns = min(3, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    titles = [wording.figure_text(wording.shortened(task, TITLE_LENGTH)) for task in tasks]
    figure = make_subplots(rows, columns, subplot_titles=titles)
    named: set[str] = set()  # in the legend
    for panel, task in enumerate(tasks):
        where = {"row": panel // columns + 1, "col": panel % columns + 1}
        for index, method in enumerate(methods):
            one = (data.networks["task"] == task) & (data.networks["method"] == method)
            for trace in _method_traces(data.networks[one], method, index):
                figure.add_trace(trace.update(showlegend=trace.name not in named), **where)
                named.add(trace.name)
        costs = data.networks.loc[data.networks["task"] == task, "gmacs"]
        figure.update_xaxes(range=theme.span(costs), **where)
        figure.update_xaxes(title_text="GMACs per image", nticks=4, **where)
    figure.update_yaxes(title_text=f"{data.split.capitalize()} top-1 (%)", col=1)
    legend = {"y": 1 + 0.12 / rows}
    figure.update_layout(template=theme.TEMPLATE, height=120 + 320 * rows, legend=legend)
    figure.update_layout(margin={"t": 90})
    return figure


def _method_traces(networks: pd.DataFrame, method: str, index: int) -> list[go.Scatter]:
    """The networks of one method as points, its dense network as a line."""
    color = theme.PALETTE[index % len(theme.PALETTE)]
    name = wording.figure_text(method)
    trained = networks[networks["trial"] != DENSE]
    dense = networks[networks["trial"] == DENSE]
    points = go.Scatter(
        x=trained["gmacs"],
        y=trained["top1"],
        error_y=_error_bars(trained),
        customdata=trained[["trial", "seeds"]],
        name=name,
        legendgroup=name,
        mode="markers",
        marker={"color": color, "size": 9, "symbol": theme.SYMBOLS[index % len(theme.SYMBOLS)]},
        hovertemplate="trial %{customdata[0]}, %{customdata[1]} seed(s)<br>%{x:.3g} GMACs<br>"
        "%{y:.2f} %<extra></extra>",
    )
    if dense.empty:
        return [points]
    top1, gmacs = float(dense["top1"].iloc[0]), float(dense["gmacs"].iloc[0])
    start = float(networks["gmacs"].min())
    line = go.Scatter(
        x=[start, gmacs],
        y=[top1, top1],
        name=f"dense, {name}",
        legendgroup=f"dense {name}",
        mode="lines+markers",
        line={"color": color, "dash": "dash", "width": 1.5},
        marker={"symbol": "star", "size": [0, 12], "color": color},
        hovertemplate=f"dense<br>{wording.number(gmacs)} GMACs<br>%{{y:.2f}} %<extra></extra>",
    )
    return [points, line]


def _error_bars(networks: pd.DataFrame) -> dict[str, object]:
    """The spread around the mean, cut where there is no accuracy: below 0 and above 100 %."""
    spread, top1 = networks["spread"].fillna(0), networks["top1"]
    return {
        "type": "data",
        "array": spread.clip(upper=100 - top1),
        "arrayminus": spread.clip(upper=top1),
        "symmetric": False,
        "thickness": 1,
    }


def _correlation(networks: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    source = dict(zip(trials["trial"].astype(str), trials["val_top1"].astype(float), strict=True))
    rows = []
    slimmed = networks[networks["slimmed"]]
    slimmed = slimmed.assign(source=slimmed["trial"].map(source).astype(float)).dropna(
        subset="source"
    )
    for (task, method), group in slimmed.groupby(["task", "method"]):
        tau = kendall(group["source"], group["top1"])
        rows.append({"task": task, "method": method, "tau": tau, "networks": len(group)})
    return pd.DataFrame(rows, columns=["task", "method", "tau", "networks"])


def _task_sentence(task: str, method: str, slimmed: pd.DataFrame) -> str:
    name = f"On **{wording.escaped(task)}**" + (f" by {wording.escaped(method)}" if method else "")
    known = slimmed.dropna(subset="difference")
    if known.empty:
        return f"{name} there is no dense row to compare with."
    ahead = int((known["difference"] >= 0).sum())
    ranked = known.sort_values("difference").to_dict("records")
    worst, best = ranked[0], ranked[-1]
    told = (
        f"{name} {ahead} of {wording.counted(len(known), 'slimmed result')} "
        f"{'is' if ahead == 1 else 'are'} at least as good as the dense network"
    )
    if len(known) == 1:
        return f"{told} (trial {best['trial']}: {wording.points(best['difference'])} points)."
    return (
        f"{told}: from {wording.points(worst['difference'])} points (trial {worst['trial']}) "
        f"to {wording.points(best['difference'])} (trial {best['trial']})."
    )


def _plus_minus(spread: float) -> str:
    return f" ± {spread:.2f}" if math.isfinite(spread) else ""
