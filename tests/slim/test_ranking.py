"""A budget keeps exactly its share of each dimension, best first."""

from collections.abc import Iterable
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slim import Architecture, Budget, BudgetError, ModelSpec, Scores
from slim.ranking import select
from slim.vit.subnetwork import token_index
from tests.slim.families import FAMILIES, SWINS, VITS, spec_of

POOLS_PATCHES = [family for family in VITS if spec_of(family).needs_patches]
READS_PREFIX = [family for family in VITS if not spec_of(family).needs_patches]
FRACTIONS = st.floats(0.001, 1.0)
SMALLEST = {"tokens": 3 / 18, "mhsa": 0.001, "mlp": 0.001}  # a token in each of three blocks


@st.composite
def scores(draw: st.DrawFn, spec: ModelSpec) -> Scores:
    """Random scores of few different values, so that ties abound."""
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    values = draw(st.sampled_from([1, 3, 1000]))

    return Scores.fill(spec, lambda shape: torch.randint(values, shape, generator=random) / values)


def budgets(spec: ModelSpec) -> st.SearchStrategy[Budget]:
    tokens = st.floats(0.2, 1.0) if spec.needs_patches else FRACTIONS
    tokens = tokens if spec.drops_tokens else st.just(1.0)
    return st.builds(Budget, tokens, FRACTIONS, FRACTIONS)


def totals(spec: ModelSpec) -> dict[str, int]:
    return Architecture.dense(spec).kept()


Place = tuple[int, ...]


def best(values: Iterable[torch.Tensor], count: int) -> set[Place]:
    """Places (block, index in it) of the largest values; of equal ones the first."""
    worth = {
        (block, *place): float(part[place])
        for block, part in enumerate(values)
        for place in product(*map(range, part.shape))
    }
    return set(sorted(worth, key=lambda place: (-worth[place], place))[:count])


@pytest.mark.parametrize("family", ["vit", "siglip", "avg", "avgmax", *SWINS])
@settings(max_examples=30)
@given(data=st.data())
def test_each_dimension_keeps_exactly_its_rounded_share(family, data):
    spec = spec_of(family)
    budget = data.draw(budgets(spec))
    kept = select(spec, data.draw(scores(spec)), budget).kept()
    for name, total in totals(spec).items():
        assert kept[name] == round(getattr(budget, name) * total)


@pytest.mark.parametrize("family", ["vit", "swin_odd"])
@settings(max_examples=30)
@given(data=st.data())
def test_the_best_are_kept_and_ties_go_to_the_lower_index(family, data):
    spec = spec_of(family)
    values, budget = data.draw(scores(spec)), data.draw(budgets(spec))
    chosen = select(spec, values, budget)
    kept = chosen.kept()
    dims = {
        (block, head, dim)
        for block, heads in enumerate(chosen.heads)
        for head, kept_dims in enumerate(heads)
        for dim in kept_dims
    }
    units = {(block, unit) for block, row in enumerate(chosen.units) for unit in row}
    tokens = {(block, token) for block, row in enumerate(chosen.tokens) for token in row}
    assert dims == best(values.mhsa, kept["mhsa"])
    assert units == best(values.mlp, kept["mlp"])
    if spec.drops_tokens:
        worth = [torch.stack(values.tokens[b:]).amax(dim=0) for b in range(spec.depth)]
        assert tokens == best(worth, kept["tokens"])


@pytest.mark.parametrize("family", ["vit", "siglip"])
@settings(max_examples=30)
@given(data=st.data())
def test_tokens_nest_in_depth(family, data):
    spec = spec_of(family)
    tokens = select(spec, data.draw(scores(spec)), data.draw(budgets(spec))).tokens
    for shallow, deep in pairwise(tokens):
        assert set(deep) <= set(shallow)


@pytest.mark.parametrize("family", ["vit", "siglip", "avg", "swin"])
@settings(max_examples=30)
@given(data=st.data())
def test_a_larger_budget_keeps_all_that_a_smaller_one_keeps(family, data):
    spec = spec_of(family)
    values = data.draw(scores(spec))
    one, two = data.draw(budgets(spec)), data.draw(budgets(spec))
    pairs = [(getattr(one, name), getattr(two, name)) for name in ("tokens", "mhsa", "mlp")]
    small = select(spec, values, Budget(*(min(pair) for pair in pairs)))
    large = select(spec, values, Budget(*(max(pair) for pair in pairs)))
    for block in range(spec.depth):
        assert set(small.tokens[block]) <= set(large.tokens[block])
        assert set(small.units[block]) <= set(large.units[block])
        for few, many in zip(small.heads[block], large.heads[block], strict=True):
            assert set(few) <= set(many)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=3)
@given(data=st.data())
def test_the_whole_budget_keeps_everything(family, data):
    spec = spec_of(family)
    assert select(spec, data.draw(scores(spec)), Budget()).is_dense


@pytest.mark.parametrize("family", POOLS_PATCHES)
@settings(max_examples=10)
@given(data=st.data())
def test_a_model_that_pools_patches_keeps_one_in_each_block(family, data):
    spec = spec_of(family)
    smallest = spec.depth / totals(spec)["tokens"]
    chosen = select(spec, data.draw(scores(spec)), Budget(smallest, 0.5, 0.5))
    assert [len(kept) for kept in chosen.tokens] == [1] * spec.depth


@pytest.mark.parametrize("family", POOLS_PATCHES)
def test_a_budget_without_one_in_each_block_is_refused_and_told_the_smallest(family):
    spec = spec_of(family)
    flat = Scores.fill(spec, torch.ones)
    with pytest.raises(BudgetError, match=r"tokens=0\.1 keeps 2 of 18 .* give at least 0\.1667"):
        select(spec, flat, Budget(0.1, 1, 1))


@pytest.mark.parametrize("family", READS_PREFIX)
@settings(max_examples=5)
@given(data=st.data())
def test_prefix_tokens_are_never_dropped(family, data):
    spec = spec_of(family)
    chosen = select(spec, data.draw(scores(spec)), Budget(0.001, 1, 1))
    prefix = spec.num_prefix_tokens
    assert chosen.kept()["tokens"] == 0
    assert token_index(chosen, 0).tolist() == list(range(prefix))
    assert all(chosen.tokens_in(block) == prefix for block in range(spec.depth))


@pytest.mark.parametrize("dimension", SMALLEST)
def test_the_smallest_budgets_still_select(dimension):
    spec = spec_of("siglip")
    flat = Scores.fill(spec, torch.ones)
    chosen = select(spec, flat, Budget(**{dimension: SMALLEST[dimension]}))
    assert chosen.kept()[dimension] == round(SMALLEST[dimension] * totals(spec)[dimension])


@pytest.mark.parametrize("family", SWINS)
def test_a_model_of_windows_is_not_asked_to_drop_tokens(family):
    spec = spec_of(family)
    with pytest.raises(
        BudgetError, match=r"tokens=0\.7 .* windows need every token; give tokens=1$"
    ):
        select(spec, Scores.fill(spec, torch.ones), Budget(0.7, 1, 1))
