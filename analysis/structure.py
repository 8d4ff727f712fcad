"""What the networks keep: tokens, head dimensions and MLP units, by block and position."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

import slim
from analysis import theme, wording

MOST_MAPS = 4
PARTS = {"tokens": "Tokens", "mhsa": "MHSA dimensions", "mlp": "MLP units"}


class StructureData(NamedTuple):
    """Shares kept (0 to 1) by block (rows) and network (columns), cheapest network first."""

    trials: tuple[int, ...]
    gmacs: tuple[float, ...]
    tokens: np.ndarray  # (blocks, networks)
    mhsa: np.ndarray  # (blocks, networks)
    mlp: np.ndarray  # (blocks, networks)


class HeadData(NamedTuple):
    """Dimensions kept per block (rows) and head (columns), the mean over the networks.

    Where a block has fewer heads than another, `kept` is NaN; `head_dims` are the dense widths.
    """

    kept: np.ndarray  # (blocks, most heads)
    head_dims: np.ndarray  # (blocks,)
    networks: int


class TokenMap(NamedTuple):
    """In how many blocks each position of the patch grid is kept, for one network."""

    trial: int
    kept: np.ndarray  # (rows, columns)
    depth: int


class Thirds(NamedTuple):
    """Mean share of one part kept in the first, middle and last third of the blocks.

    `shares` has the mean over the networks for each block; `agreeing` counts the networks whose
    middle third keeps more than both others; `least` has the blocks that keep the smallest share.
    """

    part: str
    first: float
    middle: float
    last: float
    shares: tuple[float, ...]
    agreeing: int
    networks: int
    least: tuple[int, ...]


def structure_data(architectures: Mapping[int, slim.Architecture]) -> StructureData:
    """The share of each dimension that each network keeps in each block.

    Args:
        architectures: By trial; all cut from one model.
    """
    costs = {trial: slim.count(a).macs / 1e9 for trial, a in architectures.items()}
    trials = tuple(sorted(architectures, key=lambda trial: (costs[trial], trial)))
    shares = [kept_shares(architectures[trial]) for trial in trials]
    return StructureData(
        trials=trials,
        gmacs=tuple(costs[trial] for trial in trials),
        **{part: _columns([share[part] for share in shares]) for part in PARTS},
    )


def kept_shares(architecture: slim.Architecture) -> dict[str, np.ndarray]:
    """The share kept per block, for each of tokens, mhsa and mlp."""
    blocks = architecture.spec.blocks
    dims = [architecture.dims_in(index) for index in range(len(blocks))]
    return {
        "tokens": _shares(map(len, architecture.tokens), [b.num_patches for b in blocks]),
        "mhsa": _shares(dims, [b.num_heads * b.head_dim for b in blocks]),
        "mlp": _shares(map(len, architecture.units), [b.mlp_hidden for b in blocks]),
    }


def head_data(architectures: Mapping[int, slim.Architecture]) -> HeadData:
    """Dimensions kept per block and head, the mean over at least one network."""
    blocks = next(iter(architectures.values())).spec.blocks
    kept = np.full((len(blocks), max(block.num_heads for block in blocks)), np.nan)
    for index, block in enumerate(blocks):
        dims = [[len(head) for head in a.heads[index]] for a in architectures.values()]
        kept[index, : block.num_heads] = np.mean(dims, axis=0)
    return HeadData(kept, np.array([block.head_dim for block in blocks]), len(architectures))


def token_map(trial: int, architecture: slim.Architecture) -> TokenMap:
    """Count for each patch position the blocks that it enters."""
    first = architecture.spec.block(0)
    kept = np.zeros(first.num_patches, dtype=int)
    for positions in architecture.tokens:
        kept[list(positions)] += 1
    return TokenMap(trial, kept.reshape(first.grid_size), architecture.spec.depth)


def token_maps(architectures: Mapping[int, slim.Architecture]) -> tuple[TokenMap, ...]:
    """The token maps of a few networks that drop tokens, spread from cheap to dear."""
    order = structure_data(architectures).trials
    dropping = [t for t in order if kept_shares(architectures[t])["tokens"].min() < 1]
    spread = np.linspace(0, len(dropping) - 1, min(MOST_MAPS, len(dropping))).round().astype(int)
    return tuple(token_map(dropping[i], architectures[dropping[i]]) for i in spread)


def structure_sentence(architectures: Mapping[int, slim.Architecture], members: int) -> str:
    """What the networks keep in all, and whether some could not be read, in Markdown.

    Args:
        architectures: Those of the front that are known.
        members: How many networks the front has.
    """
    if not members:
        return "No trial is complete yet, so there is no network to look into."
    if not architectures:
        return "The networks of the front have no `architecture.json` in MLflow."
    data = structure_data(architectures)
    told = [f"The front has {wording.counted(members, 'network')}"]
    if len(data.trials) < members:
        told.append(
            f", {members - len(data.trials)} of them without `architecture.json` in MLflow"
        )
    told.append(f". Trial {data.trials[0]}, the cheapest of those shown, keeps ")
    kept = [
        f"{wording.share(float(getattr(data, part)[:, 0].mean()))} of its {title}"
        for part, title in (
            ("tokens", "token slots"),
            ("mhsa", "MHSA dimensions"),
            ("mlp", "MLP units"),
        )
    ]
    return "".join(told) + wording.listed(kept) + "."


def middle_against_ends(architectures: Mapping[int, slim.Architecture]) -> tuple[Thirds, ...]:
    """Test the paper's observation: middle blocks keep more than the ends, the deepest least.

    ViT-Slim (arXiv 2201.00814) shows it for head dimensions and MLP units. Networks that keep
    everything of a part say nothing about it and are left out.

    Returns:
        One entry for each of mhsa and mlp that some network cuts; none for models of fewer than
        three blocks.
    """
    shares = [kept_shares(architecture) for architecture in architectures.values()]
    parts = {part: [s[part] for s in shares if s[part].min() < 1] for part in ("mhsa", "mlp")}
    return tuple(
        _thirds(part, np.array(cut)) for part, cut in parts.items() if cut and len(cut[0]) >= 3
    )


def middle_sentence(thirds: tuple[Thirds, ...]) -> str:
    """Whether the paper's observation holds in this run, in Markdown."""
    if not thirds:
        return (
            "Whether middle blocks keep more than the ends cannot be tested here: it takes a "
            "network that cuts MHSA or MLP in a model of at least three blocks."
        )
    told = [
        "The paper observes that middle blocks keep more head dimensions and MLP units than both "
        "ends, and that the deepest blocks are cut most."
    ]
    told += [_verdict(part) for part in thirds]
    return " ".join(
        [*told, "All networks are cut by one ranking, so they are not independent evidence."]
    )


def draw_structure(data: StructureData) -> go.Figure:
    """Draw the shares kept as heatmaps, blocks upwards, networks from cheap to dear."""
    figure = make_subplots(1, 3, subplot_titles=list(PARTS.values()), shared_yaxes=True)
    labels = [str(trial) for trial in data.trials]
    costs = [wording.number(gmacs) for gmacs in data.gmacs]
    for column, (part, title) in enumerate(PARTS.items(), start=1):
        shares = getattr(data, part)
        heatmap = go.Heatmap(
            z=100 * shares,
            x=labels,
            y=list(range(len(shares))),
            customdata=np.tile(costs, (len(shares), 1)),
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            hovertemplate="trial %{x} (%{customdata} GMACs)<br>block %{y}<br>"
            f"{title}: %{{z:.0f}} % kept<extra></extra>",
        )
        figure.add_trace(heatmap, row=1, col=column)
    figure.update_xaxes(type="category", title_text="Trial, cheapest first", showgrid=False)
    figure.update_yaxes(dtick=_block_step(len(data.mhsa)), showgrid=False)
    figure.update_yaxes(title_text="Block (0 is next to the image)", col=1)
    figure.update_layout(template=theme.TEMPLATE, coloraxis=_percent_axis("kept (%)"))
    return figure


def draw_heads(data: HeadData) -> go.Figure:
    """Draw the dimensions kept per head and block."""
    blocks, heads = data.kept.shape
    figure = go.Figure(
        go.Heatmap(
            z=data.kept,
            x=list(range(heads)),
            y=list(range(blocks)),
            customdata=np.tile(data.head_dims[:, None], (1, heads)),
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            hovertemplate="head %{x}, block %{y}<br>"
            "%{z:.1f} of %{customdata} dimensions kept<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="Head", dtick=1, showgrid=False)
    figure.update_yaxes(title_text="Block", dtick=_block_step(blocks), showgrid=False)
    bar = {"title": {"text": "kept"}}
    scale = {"cmin": 0, "cmax": int(data.head_dims.max()), "colorbar": bar}
    figure.update_layout(template=theme.TEMPLATE, coloraxis={"colorscale": theme.SHARES, **scale})
    return figure


def draw_token_maps(maps: Sequence[TokenMap]) -> go.Figure:
    """Draw the patch grids of some networks side by side."""
    titles = [f"trial {one.trial}" for one in maps]
    figure = make_subplots(1, len(maps), subplot_titles=titles)
    for column, one in enumerate(maps, start=1):
        heatmap = go.Heatmap(
            z=one.kept,
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            hovertemplate="row %{y}, column %{x}<br>"
            f"enters %{{z}} of {one.depth} blocks<extra></extra>",
        )
        figure.add_trace(heatmap, row=1, col=column)
        across = "x" if column == 1 else f"x{column}"
        figure.update_yaxes(autorange="reversed", scaleanchor=across, row=1, col=column)
        figure.update_yaxes(constrain="domain", constraintoward="top", row=1, col=column)
        figure.update_xaxes(constrain="domain", title_text="Patch column", row=1, col=column)
    figure.update_xaxes(showgrid=False, dtick=_block_step(maps[0].kept.shape[1]))
    figure.update_yaxes(showgrid=False, dtick=_block_step(maps[0].kept.shape[0]))
    figure.update_yaxes(title_text="Patch row", col=1)
    bar = {"title": {"text": "blocks<br>entered"}}
    scale = {"cmin": 0, "cmax": maps[0].depth, "colorbar": bar, "colorscale": theme.SHARES}
    figure.update_layout(template=theme.TEMPLATE, height=380, coloraxis=scale)
    return figure


def draw_middle_against_ends(thirds: tuple[Thirds, ...]) -> go.Figure:
    """Draw the mean share kept in each block; the middle third is shaded."""
    figure = go.Figure()
    for index, part in enumerate(thirds):
        figure.add_trace(
            go.Scatter(
                x=list(range(len(part.shares))),
                y=[100 * share for share in part.shares],
                name=PARTS[part.part],
                mode="lines+markers",
                line={"color": theme.PALETTE[index], "width": 2},
                marker={"symbol": theme.SYMBOLS[index], "size": 9},
                hovertemplate=f"block %{{x}}<br>{PARTS[part.part]}: %{{y:.0f}} %<extra></extra>",
            )
        )
    depth = len(thirds[0].shares)
    start, end = depth // 3, depth - depth // 3
    figure.add_vrect(x0=start - 0.5, x1=end - 0.5, fillcolor=theme.GRID, line_width=0)
    figure.update_xaxes(title_text="Block (middle third shaded)", dtick=_block_step(depth))
    figure.update_yaxes(title_text="Kept, mean over networks (%)", rangemode="tozero")
    figure.update_layout(template=theme.TEMPLATE, height=380, showlegend=True)
    return figure


def _shares(kept: Iterable[int], dense: list[int]) -> np.ndarray:
    return np.array(list(kept)) / np.array(dense)


def _columns(shares: list[np.ndarray]) -> np.ndarray:
    return np.stack(shares, axis=1) if shares else np.empty((0, 0))


def _thirds(part: str, shares: np.ndarray) -> Thirds:
    """Compare thirds of the blocks; shares is (networks, blocks)."""
    end = shares.shape[1] // 3
    first, middle, last = shares[:, :end], shares[:, end:-end], shares[:, -end:]
    agrees = middle.mean(1) > np.maximum(first.mean(1), last.mean(1))
    mean = shares.mean(axis=0)
    return Thirds(
        part=part,
        first=float(first.mean()),
        middle=float(middle.mean()),
        last=float(last.mean()),
        shares=tuple(mean.tolist()),
        agreeing=int(agrees.sum()),
        networks=len(shares),
        least=tuple(int(block) for block in np.flatnonzero(mean <= mean.min() + 1e-9)),
    )


def _verdict(thirds: Thirds) -> str:
    holds = {
        (True, True): "it holds",
        (True, False): "it holds on average, but not for most networks",
        (False, True): "it holds for most networks, but not on average",
        (False, False): "it does not hold",
    }[thirds.middle > max(thirds.first, thirds.last), 2 * thirds.agreeing > thirds.networks]
    return (
        f"**{PARTS[thirds.part]}: {holds}.** The middle "
        f"third keeps {wording.share(thirds.middle)}, the first {wording.share(thirds.first)} and "
        f"the last {wording.share(thirds.last)}; the middle keeps most in {thirds.agreeing} of "
        f"{wording.counted(thirds.networks, 'network')}. {_cut_most(thirds)}"
    )


def _cut_most(thirds: Thirds) -> str:
    """Whether the deepest block is; several may keep as little."""
    last = len(thirds.shares) - 1
    if len(thirds.least) == 1:
        (block,) = thirds.least
        return f"Block {block} is cut most, which is {'' if block == last else 'not '}the deepest."
    deepest = "the deepest among them" if last in thirds.least else "not the deepest"
    return f"Blocks {wording.listed(thirds.least)} are cut most, {deepest}."


def _block_step(blocks: int) -> int:
    """A distance of whole ticks that keeps labels apart."""
    return max(1, -(-blocks // 14))


def _percent_axis(title: str) -> dict[str, object]:
    bar = {"title": {"text": title}}
    return {"cmin": 0, "cmax": 100, "colorscale": theme.SHARES, "colorbar": bar}
