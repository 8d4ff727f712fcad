"""This run beside published results, each network against its own dense model."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import plotly.graph_objects as go

from analysis import theme, wording
from analysis.pareto_front import FrontData, Point
from analysis.runs import DenseModel

VIT_SLIM = "ViT-Slim, CVPR 2022, arXiv 2201.00814"
ISOMORPHIC = "Isomorphic Pruning, ECCV 2024, arXiv 2407.04616"
SAVIT = "SAViT, NeurIPS 2022"
NVIT = "NViT, CVPR 2023, arXiv 2110.04869"
OFB = "OFB, CVPR 2024, arXiv 2403.15835, table of its repository"
AUTOFORMER = "AutoFormer, ICCV 2021, arXiv 2107.00651"


class Dense(NamedTuple):
    """The model that a published network was cut from: GMACs and ImageNet-1k top-1 (%)."""

    name: str
    gmacs: float
    top1: float


DEIT_TI = Dense("DeiT-Ti", 1.3, 72.2)
DEIT_S = Dense("DeiT-S", 4.6, 79.9)
DEIT_B = Dense("DeiT-B", 17.6, 81.8)
SWIN_T = Dense("Swin-T", 4.5, 81.3)
DEIT_B_DISTILLED = Dense("DeiT-B distilled", 17.7, 83.4)  # accuracy: the DeiT repository's table


class Published(NamedTuple):
    """One network as its paper prints it: parameters (1e6; NaN if not given), GMACs, top-1 (%)."""

    method: str
    setting: str
    dense: Dense
    params_m: float
    gmacs: float
    top1: float
    source: str


def _vit_slim(setting: str, params_m: float, gmacs: float, top1: float) -> Published:
    return Published("ViT-Slim", setting, DEIT_S, params_m, gmacs, top1, VIT_SLIM)


def _isomorphic(params_m: float, gmacs: float, top1: float) -> Published:
    return Published("Isomorphic Pruning", "", DEIT_B_DISTILLED, params_m, gmacs, top1, ISOMORPHIC)


PUBLISHED = (
    _vit_slim("MHSA 70 %", 19.9, 4.1, 80.90),
    _vit_slim("MHSA 60 %", 19.2, 3.9, 80.63),
    _vit_slim("MHSA 50 %", 18.5, 3.7, 80.10),
    _vit_slim("MHSA 40 %", 17.8, 3.5, 79.61),
    _vit_slim("MLP 70 %", 17.8, 3.8, 80.80),
    _vit_slim("MLP 60 %", 16.4, 3.5, 80.39),
    _vit_slim("MLP 50 %", 15.0, 3.2, 79.89),
    _vit_slim("MLP 40 %", 13.5, 2.9, 79.20),
    _vit_slim("MHSA + MLP 80 %", 17.7, 3.7, 80.60),
    _vit_slim("MHSA + MLP 70 %", 15.6, 3.3, 80.03),
    _vit_slim("MHSA + MLP 60 %", 13.5, 2.8, 79.20),
    _vit_slim("MHSA + MLP 50 %", 11.4, 2.3, 77.94),
    _vit_slim("MHSA + MLP 70 %, tokens 80 %", math.nan, 3.1, 79.91),
    _vit_slim("MHSA + MLP 70 %, tokens 70 %", math.nan, 2.9, 79.72),
    _vit_slim("MHSA + MLP 70 %, tokens 60 %", math.nan, 2.8, 79.51),
    Published("ViT-Slim", "60 %", DEIT_B, 52.6, 10.6, 82.4, VIT_SLIM),
    Published("ViT-Slim", "80 %", SWIN_T, math.nan, 3.8, 81.3, VIT_SLIM),
    Published("ViT-Slim", "70 %", SWIN_T, math.nan, 3.4, 80.7, VIT_SLIM),
    _isomorphic(20.69, 4.16, 82.41),
    _isomorphic(13.07, 2.61, 81.13),
    _isomorphic(5.74, 1.21, 77.50),
    _isomorphic(3.08, 0.62, 72.60),
    Published("SAViT", "", DEIT_B_DISTILLED, math.nan, 6.7, 83.31, SAVIT),
    Published("NViT", "", DEIT_B_DISTILLED, math.nan, 6.8, 83.29, NVIT),
    Published("OFB", "D", DEIT_S, 17.6, 3.6, 80.3, OFB),
    Published("OFB", "E", DEIT_B, 43.9, 8.7, 81.7, OFB),
    Published("AutoFormer", "tiny", DEIT_TI, 5.7, 1.3, 74.7, AUTOFORMER),
    Published("AutoFormer", "small", DEIT_S, 22.9, 5.1, 81.7, AUTOFORMER),
    Published("AutoFormer", "base", DEIT_B, 53.7, 11.0, 82.4, AUTOFORMER),
)


class Compared(NamedTuple):
    """One network against its dense model: share of MACs (0 to 1), change of top-1 (points).

    `val_top1` is of this run's networks, which are chosen by it.
    """

    method: str
    network: str
    params_m: float
    gmacs: float
    top1: float
    relative_macs: float
    change: float
    source: str
    val_top1: float = math.nan


class ComparisonData(NamedTuple):
    """This run's front (empty where the dense model is not known) and the published networks.

    `split` is the split of this run's accuracies: test where every point has it, else validation.
    """

    own: tuple[Compared, ...]
    published: tuple[Compared, ...]
    split: str


def comparison_data(data: FrontData, name: str) -> ComparisonData:
    """Set a run's front and published networks against their own dense models.

    Args:
        data: The run's front.
        name: What to call the run.
    """
    others = tuple(_published(network) for network in PUBLISHED)
    if data.dense is None:
        return ComparisonData((), others, "validation")
    tested = [point.test_top1 for point in data.front] + [data.dense.test_top1]
    split = "test" if all(map(math.isfinite, tested)) else "validation"
    own = tuple(_own(point, data.dense, name, split) for point in data.front)
    return ComparisonData(own, others, split)


def comparison_sentence(data: ComparisonData) -> str:
    """How the run stands against a published network of about its relative cost, in Markdown."""
    caution = (
        "Published numbers are ImageNet-1k top-1 as printed by their authors; recipes, "
        "distillation and, in general, data differ from this run's, so only the shape of the "
        "trade can be compared."
    )
    slimmed = [own for own in data.own if own.relative_macs < 0.995]
    if not data.own:
        return (
            "This run cannot be placed: its front is empty, or its dense model's accuracy is not "
            f"known. {caution}"
        )
    if not slimmed:
        return f"No network of this run's front is cheaper than the dense model. {caution}"
    best = max(slimmed, key=lambda own: (own.val_top1, -own.relative_macs))
    nearest = min(data.published, key=lambda o: abs(o.relative_macs - best.relative_macs))
    return (
        f"This run's slimmed network of the best validation accuracy ({best.network}) keeps "
        f"{wording.share(best.relative_macs)} of the dense MACs and changes {data.split} top-1 by "
        f"{wording.points(best.change)} points; the published network closest in relative cost is "
        f"{nearest.method} ({wording.share(nearest.relative_macs)}, "
        f"{wording.points(nearest.change)} points). {caution}"
    )


def comparison_table(data: ComparisonData) -> pd.DataFrame:
    """All networks for reading, by share of MACs."""
    ranked = sorted((*data.own, *data.published), key=lambda network: -network.relative_macs)
    rows = [
        {
            "Method": network.method,
            "Network": network.network,
            "Params (M)": wording.number(network.params_m),
            "GMACs": wording.number(network.gmacs),
            "MACs of dense": wording.share(network.relative_macs),
            "Top-1 (%)": wording.top1(network.top1),
            "Change (points)": wording.points(network.change),
        }
        for network in ranked
    ]
    return pd.DataFrame(rows)


def sources_sentence(data: ComparisonData) -> str:
    """Where the published numbers are from, in Markdown."""
    sources = dict.fromkeys(wording.escaped(network.source) for network in data.published)
    return (
        f"Sources: {'; '.join(sources)}. Isomorphic Pruning, SAViT and NViT are set against the "
        "distilled DeiT-B that they start from (83.4 %, from the DeiT repository's table). "
        "AutoFormer is searched from scratch and not cut; it is set against the DeiT of about its "
        "size, OFB against the DeiT next above."
    )


def draw_comparison(data: ComparisonData) -> go.Figure:
    """Draw the change of top-1 over the share of MACs, one colour and symbol per method."""
    figure = go.Figure()
    if data.own:
        figure.add_trace(_method_trace(data.own, 0, own=True))
    for index, method in enumerate(dict.fromkeys(n.method for n in data.published), start=1):
        members = [network for network in data.published if network.method == method]
        figure.add_trace(_method_trace(members, index, own=False))
    figure.add_hline(y=0, line={"color": theme.TEXT, "dash": "dash", "width": 1})
    figure.update_xaxes(title_text="MACs (% of the own dense model's)", rangemode="tozero")
    figure.update_yaxes(title_text="Change of top-1 (points)")
    figure.update_layout(template=theme.TEMPLATE, showlegend=True)
    return figure


def _method_trace(members: Sequence[Compared], index: int, *, own: bool) -> go.Scatter:
    color = theme.PALETTE[index % len(theme.PALETTE)]
    symbol = theme.SYMBOLS[index % len(theme.SYMBOLS)]
    return go.Scatter(
        x=[100 * network.relative_macs for network in members],
        y=[network.change for network in members],
        name=wording.figure_text(members[0].method),
        mode="lines+markers" if own else "markers",
        line={"color": color, "shape": "hv"},
        marker={"color": color, "symbol": symbol, "size": 11 if own else 9},
        hovertext=[_hover(network) for network in members],
        hoverinfo="text",
    )


def _published(network: Published) -> Compared:
    label = ", ".join(part for part in (network.dense.name, network.setting) if part)
    return Compared(
        method=network.method,
        network=label,
        params_m=network.params_m,
        gmacs=network.gmacs,
        top1=network.top1,
        relative_macs=network.gmacs / network.dense.gmacs,
        change=network.top1 - network.dense.top1,
        source=network.source,
    )


def _own(point: Point, dense: DenseModel, name: str, split: str) -> Compared:
    top1, reference = (
        (point.test_top1, dense.test_top1) if split == "test" else (point.val_top1, dense.val_top1)
    )
    return Compared(
        method=name,
        network=f"trial {point.trial}",
        params_m=point.params_m,
        gmacs=point.gmacs,
        top1=top1,
        relative_macs=point.gmacs / dense.gmacs,
        change=top1 - reference,
        source="this run",
        val_top1=point.val_top1,
    )


def _hover(network: Compared) -> str:
    title = wording.figure_text(f"{network.method}: {network.network}")
    return (
        f"<b>{title}</b><br>{wording.number(network.gmacs)} GMACs "
        f"({wording.share(network.relative_macs)})<br>top-1 {wording.top1(network.top1)} % "
        f"({wording.points(network.change)} points)"
    )
