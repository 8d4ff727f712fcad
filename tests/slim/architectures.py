"""Architectures to test with: hypothesis draws them, and a few are named."""

from dataclasses import replace

from hypothesis import strategies as st

from slim import Architecture, ModelSpec
from slim.spec import BlockSpec

Indices = tuple[int, ...]


def subsets(of: Indices) -> st.SearchStrategy[Indices]:
    """Any part of some indices; nothing and everything come often."""
    some = st.integers(0, 2 ** len(of) - 1).map(
        lambda bits: tuple(index for place, index in enumerate(of) if bits >> place & 1)
    )
    return st.one_of(st.just(()), some, some, st.just(of))


@st.composite
def architectures(draw: st.DrawFn, spec: ModelSpec) -> Architecture:
    """Uneven heads, heads, MLPs and blocks pruned whole, tokens that nest, down to none."""
    tokens, heads, units = [], [], []
    entering = tuple(range(spec.block(0).num_patches))
    for dense in spec.blocks:
        if spec.drops_tokens:
            entering = draw(subsets(entering)) or (entering[:1] if spec.needs_patches else ())
        else:
            entering = tuple(range(dense.num_patches))
        gone = draw(st.sampled_from(["nothing", "nothing", "nothing", "attention", "block"]))
        tokens.append(entering)
        heads.append(draw(_heads(dense)) if gone == "nothing" else ((),) * dense.num_heads)
        units.append(draw(subsets(tuple(range(dense.mlp_hidden)))) if gone != "block" else ())
    return Architecture(spec, tuple(tokens), tuple(heads), tuple(units))


def _heads(dense: BlockSpec) -> st.SearchStrategy[tuple[Indices, ...]]:
    return st.tuples(*[subsets(tuple(range(dense.head_dim)))] * dense.num_heads)


def without_head(spec: ModelSpec) -> Architecture:
    """The middle head of the middle block is pruned whole."""
    everything = Architecture.dense(spec)
    heads = [list(block) for block in everything.heads]
    heads[1][1] = ()
    return replace(everything, heads=tuple(tuple(block) for block in heads))


def without_mlp(spec: ModelSpec) -> Architecture:
    """The MLP of the middle block is pruned whole."""
    everything = Architecture.dense(spec)
    return replace(everything, units=(everything.units[0], (), everything.units[2]))


def without_block(spec: ModelSpec) -> Architecture:
    """Attention and MLP of the middle block are pruned whole."""
    everything = Architecture.dense(spec)
    none = ((),) * spec.block(1).num_heads
    return replace(without_mlp(spec), heads=(everything.heads[0], none, everything.heads[2]))


def with_fewest_tokens(spec: ModelSpec) -> Architecture:
    """Patch tokens leave one after the other, until none is left or those that must stay."""
    if not spec.drops_tokens:
        return Architecture.dense(spec)
    last = (0,) if spec.needs_patches else ()
    dense = Architecture.dense(spec)
    return replace(dense, tokens=(dense.tokens[0], (0, dense.tokens[0][-1]), last))


def uneven(spec: ModelSpec) -> Architecture:
    """Heads of three widths, every other unit, a token fewer in each block if that can be."""
    tokens = Architecture.dense(spec).tokens
    if spec.drops_tokens:
        tokens = tuple(kept[1 : len(kept) - block] for block, kept in enumerate(tokens))
    widths: tuple[Indices, ...] = ((0, 2), (1, 2, 3), (3,))
    return Architecture(
        spec,
        tokens=tokens,
        heads=tuple(widths * (dense.num_heads // 3) for dense in spec.blocks),
        units=tuple(tuple(range(0, dense.mlp_hidden, 2)) for dense in spec.blocks),
    )


def one_block_left(spec: ModelSpec) -> Architecture:
    """The smallest network with all that a compiler may stumble over: the middle block has heads
    of two widths, the first and the last are pruned whole, tokens leave."""
    some, heads = uneven(spec), [[()] * dense.num_heads for dense in spec.blocks]
    heads[1] = [(0, 2), (1, 2, 3), (1, 3)] * (spec.block(1).num_heads // 3)
    units = tuple(kept if block == 1 else () for block, kept in enumerate(some.units))
    return replace(some, heads=tuple(tuple(block) for block in heads), units=units)


NAMED = {
    "dense": Architecture.dense,
    "without_head": without_head,
    "without_mlp": without_mlp,
    "without_block": without_block,
    "with_fewest_tokens": with_fewest_tokens,
    "uneven": uneven,
}
