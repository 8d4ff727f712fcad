"""How much of the front is luck: what other trainings of the same budgets gave."""

import math
from typing import NamedTuple

import pandas as pd
import plotly.graph_objects as go

from analysis import theme, wording
from analysis.pareto_front import front_mask


class RepeatsData(NamedTuple):
    """The networks of the front that were trained again.

    Args:
        networks: Rows of the trials, cheapest first, with `trainings`, `*_mean` and `*_std`.
        val_std: Pooled standard deviation of one training's val top-1, in points.
        test_std: The same on test.
        val_luck: By how many points of val top-1 the trainings that the front was chosen by are
            above the others of the same budgets, in the mean.
        test_luck: The same on test, which chose nothing.
        kept: How many are non-dominated among themselves by their means too.
    """

    networks: pd.DataFrame
    val_std: float
    test_std: float
    val_luck: float
    test_luck: float
    kept: int


def repeats_data(trials: pd.DataFrame) -> RepeatsData:
    """Gather what of the front was trained more than once; `trials` as a `Run` has them."""
    networks = trials[(trials["trainings"] > 1) & trials["front"]]
    networks = networks.sort_values(["gmacs", "trial"])
    by_mean = front_mask(networks.assign(val_top1=networks["val_top1_mean"]))
    return RepeatsData(
        networks,
        val_std=_pooled(networks, "val_top1"),
        test_std=_pooled(networks, "test_top1"),
        val_luck=_luck(networks, "val_top1"),
        test_luck=_luck(networks, "test_top1"),
        kept=int(by_mean.sum()),
    )


def repeats_sentence(data: RepeatsData) -> str:
    """What the repeats say of the front, in Markdown."""
    count = len(data.networks)
    if not count:
        return (
            "No network was trained more than once, so nothing tells what another seed would have "
            "given; `--repeats 3` does."
        )
    told = [
        f"{wording.counted(count, 'network')} of the front "
        f"{'was' if count == 1 else 'were'} trained again with other seeds. Trainings of one "
        f"budget scatter with a standard deviation of {wording.top1(data.val_std)} points on val "
        f"and {wording.top1(data.test_std)} on test; the difference of two has 1.4 times that.",
        f"The trainings that the front was chosen by differ from the others of their budgets by "
        f"{wording.points(data.val_luck)} points on val and {wording.points(data.test_luck)} on "
        "test, in the mean; what is chosen by val tends to be lucky there.",
    ]
    if count > 1:
        told.append(f"By their means, {data.kept} of the {count} are still non-dominated.")
    return " ".join(told)


def repeats_table(data: RepeatsData) -> pd.DataFrame:
    """Means and standard deviations for reading, cheapest first."""
    rows = [
        {
            "Trial": int(row["trial"]),
            "GMACs": wording.number(row["gmacs"]),
            "Trainings": int(row["trainings"]),
            "Val top-1 (%), on the front": wording.top1(row["val_top1"]),
            "mean ± std": _told(row, "val_top1"),
            "Test top-1 (%), on the front": wording.top1(row["test_top1"]),
            "mean ± std ": _told(row, "test_top1"),
        }
        for _, row in data.networks.iterrows()
    ]
    return pd.DataFrame(rows)


def draw_repeats(data: RepeatsData) -> go.Figure:
    """Draw means with their standard deviations over MACs, and the trainings that were chosen."""
    networks, figure = data.networks, go.Figure()
    means, chosen = networks["val_top1_mean"], networks["val_top1"]
    hover = [
        f"<b>trial {int(row['trial'])}</b><br>{int(row['trainings'])} trainings: "
        f"val {_told(row, 'val_top1')} %, test {_told(row, 'test_top1')} %"
        for _, row in networks.iterrows()
    ]
    figure.add_trace(
        go.Scatter(
            x=networks["gmacs"].to_numpy(),
            y=means.to_numpy(),
            error_y={"type": "data", "array": networks["val_top1_std"].to_numpy()},
            name="mean and standard deviation",
            mode="markers",
            marker={"color": theme.BLUE, "size": 9},
            hovertext=hover,
            hoverinfo="text",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=networks["gmacs"].to_numpy(),
            y=chosen.to_numpy(),
            name="on the front",
            mode="markers",
            marker={"color": theme.VERMILLION, "symbol": "circle-open", "size": 9},
            hovertext=hover,
            hoverinfo="text",
        )
    )
    figure.update_layout(
        template=theme.TEMPLATE,
        xaxis={"title": {"text": theme.GMACS}},
        yaxis={"title": {"text": theme.VAL_TOP1}},
        hovermode="closest",
    )
    return figure


def _pooled(networks: pd.DataFrame, split: str) -> float:
    """Of all networks together, each by its degrees of freedom."""
    freedom = networks["trainings"] - 1
    if networks.empty:
        return math.nan
    return float(((networks[f"{split}_std"] ** 2 * freedom).sum() / freedom.sum()) ** 0.5)


def _luck(networks: pd.DataFrame, split: str) -> float:
    """How far a trial's own accuracy is above the mean of the others, in the mean of networks."""
    count, own = networks["trainings"], networks[split]
    others = (networks[f"{split}_mean"] * count - own) / (count - 1)
    return float((own - others).mean())


def _told(row: pd.Series, split: str) -> str:
    return f"{wording.top1(row[f'{split}_mean'])} ± {wording.top1(row[f'{split}_std'])}"
