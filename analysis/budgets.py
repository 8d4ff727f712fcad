"""The three budgets against accuracy: the paper's columns, and which budget matters."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis import theme, wording
from slim import Architecture

BUDGETS = {"tokens": "Tokens", "mhsa": "MHSA", "mlp": "MLP"}


class BudgetsData(NamedTuple):
    """The COMPLETE trials, cheapest first, and how accuracy goes with each budget.

    `trials` has the columns trial, tokens, mhsa, mlp (fractions), gmacs, params_m, val_top1 and
    test_top1 (percent) and `cut`, the modules that are cut. `tau` is Kendall's rank correlation
    of each budget with val_top1, over the judged budgets where there are any, NaN where it is not
    defined; `ranked` says over how many.
    """

    trials: pd.DataFrame
    tau: dict[str, float]
    ranked: int
    judged: bool


def budgets_data(
    trials: pd.DataFrame,
    judged: pd.DataFrame | None = None,
    architectures: Mapping[int, Architecture] | None = None,
) -> BudgetsData:
    """Take the COMPLETE trials and rank budgets against accuracy.

    Args:
        trials: The columns of `trials.csv`.
        judged: The columns of `judged.csv`: many budgets, spread over the space.
        architectures: By trial; what a network cuts is read off it. A budget just below 1 may cut
            nothing.
    """
    columns = ["trial", *BUDGETS, "gmacs", "params_m", "val_top1", "test_top1"]
    complete = trials.loc[(trials["state"] == "COMPLETE") & trials["val_top1"].notna(), columns]
    complete = complete.astype(dict.fromkeys(columns[1:], float))
    complete = complete.sort_values(["gmacs", "trial"], ignore_index=True)
    known = architectures or {}
    asked = dict(zip(complete["trial"], complete[list(BUDGETS)].to_numpy(), strict=True))
    kept = [_kept(known[n]) if n in known else asked[n] for n in asked]
    complete["cut"] = pd.Series([cut_modules(*shares) for shares in kept], dtype="str")
    ranks_judged = judged is not None and len(judged) >= FEWEST_PAIRS
    rows = judged if judged is not None and ranks_judged else complete
    tau = {name: kendall(rows[name], rows["val_top1"], FEWEST_PAIRS) for name in BUDGETS}
    return BudgetsData(complete, tau, len(rows), ranks_judged)


def _kept(architecture: Architecture) -> np.ndarray:
    """What a network keeps of the tokens, the MHSA dimensions and the MLP units (0 to 1)."""
    kept, whole = architecture.kept(), Architecture.dense(architecture.spec).kept()
    return np.array([kept[name] / whole[name] for name in BUDGETS])


def cut_modules(tokens: float, mhsa: float, mlp: float) -> str:
    """Which modules a budget cuts: "MHSA", "MHSA + MLP", ..., or "dense"."""
    shares = zip(BUDGETS.values(), (tokens, mhsa, mlp), strict=True)
    return " + ".join(name for name, share in shares if share < 1) or "dense"


# Rank correlations from here on are told as following.
CLOSE = 0.5
FEWEST_PAIRS = 5  # fewer say nothing of a rank correlation


def kendall(first: pd.Series, second: pd.Series, fewest: int = 3) -> float:
    """Kendall's tau-b; NaN for fewer pairs than that or where one side is constant."""
    if len(first) < fewest or first.nunique() < 2 or second.nunique() < 2:
        return float("nan")
    return float(first.corr(second, method="kendall"))


def budgets_sentence(data: BudgetsData) -> str:
    """Which budget accuracy follows most closely, in Markdown."""
    known = {name: tau for name, tau in data.tau.items() if tau == tau}
    if data.trials.empty:
        return "No trial is complete yet, so there are no budgets to compare."
    of = "judged budget" if data.judged else "complete trial"
    over = wording.counted(data.ranked, of)
    if not known:
        return f"{over}: too few, or too alike, to rank the budgets by what they are worth."
    ranked = sorted(known, key=lambda name: -known[name])
    each = wording.listed(f"{BUDGETS[name]} {known[name]:+.2f}" for name in ranked)
    best = [BUDGETS[name] for name in ranked if f"{known[name]:.2f}" == f"{known[ranked[0]]:.2f}"]
    most = f"accuracy follows {wording.listed(best)} most closely"
    weak = "accuracy follows none of them closely, so others may rank them otherwise"
    return (
        f"Over {over}, Kendall's rank correlation of validation top-1 with the share kept is "
        f"{each}. Near 1, accuracy falls wherever less is kept of this part, be it for that or "
        "because small networks keep less of everything: here "
        f"{most if known[ranked[0]] >= CLOSE else weak}."
    )


def module_counts(data: BudgetsData) -> dict[str, int]:
    """How many networks cut which modules, dense first, then from one module to three."""
    counts = data.trials["cut"].value_counts()
    order = sorted(counts.index, key=lambda cut: (cut != "dense", cut.count("+"), cut))
    return {str(cut): int(counts[cut]) for cut in order}


def modules_sentence(data: BudgetsData) -> str:
    """Which of the paper's columns this run can fill, in Markdown."""
    if data.trials.empty:
        return "There is no complete trial to list."
    counts = module_counts(data)
    each = wording.listed(f"{count} of {cut}" for cut, count in counts.items())
    told = f"By the modules that are cut: {each}."
    alone = [cut for cut in counts if cut != "dense" and "+" not in cut]
    if not alone:
        told += (
            " None cuts one module alone, as the paper's single-module columns do; a sweep in "
            "which the other two stay whole (`--space.tokens_min 1 --space.mlp_min 1`) fills them."
        )
    return told


def modules_table(data: BudgetsData, single: bool) -> pd.DataFrame:
    """The networks that cut one module (the paper's single-module tables), or several.

    The dense network stands on top of both; empty where no network belongs there.
    """
    cut = data.trials["cut"]
    chosen = (cut != "dense") & (cut.str.contains("+", regex=False) != single)
    if not chosen.any():
        return pd.DataFrame()
    return budgets_table(data._replace(trials=data.trials[chosen | (cut == "dense")]))


def budgets_table(data: BudgetsData) -> pd.DataFrame:
    """The paper's columns (params, MACs, top-1) for each network, dearest first."""
    rows = [
        {
            "Trial": int(row["trial"]),
            "Cut": row["cut"],
            **{title: wording.share(row[name]) for name, title in BUDGETS.items()},
            "Params (M)": wording.number(row["params_m"]),
            "GMACs": wording.number(row["gmacs"]),
            "Val top-1 (%)": wording.top1(row["val_top1"]),
            "Test top-1 (%)": wording.top1(row["test_top1"]),
        }
        for row in reversed(data.trials.to_dict("records"))
    ]
    return pd.DataFrame(rows)


def draw_budgets(data: BudgetsData) -> go.Figure:
    """Draw one line per network through its three budgets, its MACs and its accuracy."""
    trials = data.trials
    axes = [{"label": title, "range": [0, 1]} for title in BUDGETS.values()]
    axes += [{"label": "GMACs", "range": theme.span(trials["gmacs"]), "tickformat": "~g"}]
    axes += [{"label": "Val top-1 (%)", "range": theme.span(trials["val_top1"], 100)}]
    names = [*BUDGETS, "gmacs", "val_top1"]
    figure = go.Figure(
        go.Parcoords(
            dimensions=[a | {"values": trials[n]} for a, n in zip(axes, names, strict=True)],
            line={
                "color": trials["val_top1"],
                "colorscale": theme.SHARES,
                "cmin": axes[-1]["range"][0],
                "cmax": axes[-1]["range"][1],
            },
            labelfont={"color": theme.TEXT, "size": 13},
            tickfont={"color": theme.TEXT, "size": 12},
            rangefont={"color": theme.CLEAR, "size": 1},
        )
    )
    margin = {"l": 60, "r": 80, "t": 70, "b": 20}
    figure.update_layout(template=theme.TEMPLATE, height=380, margin=margin)
    return figure


def draw_accuracy_by_budget(data: BudgetsData) -> go.Figure:
    """Draw validation top-1 over each budget; the colour is the cost."""
    figure = make_subplots(1, 3, shared_yaxes=True, horizontal_spacing=0.04)
    trials = data.trials
    for column, (name, title) in enumerate(BUDGETS.items(), start=1):
        scatter = go.Scatter(
            x=100 * trials[name],
            y=trials["val_top1"],
            customdata=trials[["trial", "gmacs"]],
            mode="markers",
            marker={"size": 10, "color": trials["gmacs"], "coloraxis": "coloraxis"},
            hovertemplate="trial %{customdata[0]}<br>%{customdata[1]:.3g} GMACs<br>"
            f"{title} %{{x:.0f}} %<br>val top-1 %{{y:.2f}} %<extra></extra>",
            showlegend=False,
        )
        figure.add_trace(scatter, row=1, col=column)
        figure.update_xaxes(title_text=f"{title} budget (% kept)", row=1, col=column)
    figure.update_xaxes(range=[0, 104])
    figure.update_yaxes(title_text=theme.VAL_TOP1, col=1)
    low, high = theme.span(trials["gmacs"])
    axis: dict[str, object] = {"cmin": low, "cmax": high, "colorbar": {"title": {"text": "GMACs"}}}
    axis["colorscale"] = theme.SHARES
    figure.update_layout(template=theme.TEMPLATE, height=380, coloraxis=axis)
    return figure
