"""The judged budgets: what networks give before anything is trained by itself."""

from collections.abc import Collection

import pandas as pd
import plotly.graph_objects as go

from analysis import theme, wording


def draw_judged(judged: pd.DataFrame, front: Collection[int]) -> go.Figure:
    """Draw untrained validation top-1 over MACs.

    Args:
        judged: The columns of `judged.csv`.
        front: Numbers of the non-dominated ones.
    """
    on_front = judged["number"].isin(list(front))
    figure = go.Figure()
    for rows, name, color, size in (
        (judged[~on_front], "judged", theme.FAINT, 6),
        (judged[on_front], "judged front", theme.BLUE, 9),
    ):
        ordered = rows.sort_values("gmacs")
        figure.add_trace(
            go.Scatter(
                x=ordered["gmacs"].to_numpy(),
                y=ordered["val_top1"].to_numpy(),
                name=name,
                mode="markers" if color == theme.FAINT else "lines+markers",
                line={"shape": "hv", "color": color, "width": 2},
                marker={"color": color, "size": size},
                hovertext=[_hover(row) for _, row in ordered.iterrows()],
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


def _hover(row: pd.Series) -> str:
    kept = f"tokens {row['tokens']:.3g}, MHSA {row['mhsa']:.3g}, MLP {row['mlp']:.3g}"
    cost = f"{wording.number(row['gmacs'])} GMACs, {wording.number(row['params_m'])} M parameters"
    top1 = f"val top-1 {wording.top1(row['val_top1'])} %, untrained"
    return "<br>".join([f"<b>budget {int(row['number'])}</b>", f"budget: {kept}", cost, top1])
