"""How the trials learned: validation top-1 after each epoch, and where trials were stopped."""

from typing import NamedTuple

import pandas as pd
import plotly.graph_objects as go

from analysis import theme


class Curve(NamedTuple):
    """One trial's validation top-1 (%) after each epoch."""

    trial: int
    state: str
    epochs: tuple[int, ...]
    val_top1: tuple[float, ...]


def curves_data(trials: pd.DataFrame, epochs: pd.DataFrame) -> tuple[Curve, ...]:
    """The curves of all trials that logged at least one epoch, in order of number.

    Args:
        trials: With the columns trial and state.
        epochs: With the columns trial, epoch and val_top1.
    """
    states = dict(zip(trials["trial"], trials["state"], strict=True))
    curves = []
    for trial in sorted(set(epochs["trial"])):
        rows = epochs[epochs["trial"] == trial].sort_values("epoch")
        logged = tuple(rows["epoch"].tolist()), tuple(rows["val_top1"].tolist())
        curves.append(Curve(int(trial), states[trial], *logged))
    return tuple(curves)


def curves_sentence(curves: tuple[Curve, ...]) -> str:
    """Whether the complete trials had stopped improving, in Markdown."""
    complete = [curve for curve in curves if curve.state == "COMPLETE" and len(curve.epochs) > 1]
    if not complete:
        return "No complete trial has logged more than one epoch, so there is no curve to judge."
    rising = sum(curve.val_top1[-1] >= max(curve.val_top1) for curve in complete)
    stopped = sum(curve.state == "PRUNED" and curve.epochs[-1] > 0 for curve in curves)
    told = (
        f"{rising} of {len(complete)} complete trials with a history ended at their best epoch: "
        "the more of them, the more another epoch may still give."
    )
    return told + (
        f" {stopped} {'was' if stopped == 1 else 'were'} stopped early (dotted)."
        if stopped
        else ""
    )


def draw_curves(curves: tuple[Curve, ...]) -> go.Figure:
    """Draw validation top-1 over epochs; trials that did not complete are dotted."""
    figure = go.Figure()
    for curve in curves:
        complete = curve.state == "COMPLETE"
        color = theme.BLUE if complete else theme.VERMILLION
        figure.add_trace(
            go.Scatter(
                x=curve.epochs,
                y=curve.val_top1,
                mode="lines+markers",
                line={"color": color, "dash": "solid" if complete else "dot", "width": 1.5},
                marker={"size": 5},
                opacity=0.7,
                hovertemplate=f"trial {curve.trial} ({curve.state.lower()})<br>epoch %{{x}}: "
                "%{y:.2f} %<extra></extra>",
            )
        )
    last = max((epoch for curve in curves for epoch in curve.epochs), default=1)
    figure.update_xaxes(title_text="Epoch", dtick=max(1, -(-last // 12)))
    figure.update_yaxes(title_text=theme.VAL_TOP1)
    figure.update_layout(template=theme.TEMPLATE, height=380, showlegend=False)
    return figure
