"""Rounded widths are multiples, near to what was asked, and picked by the masks."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slim import (
    Architecture,
    Budget,
    MaskCheckpoint,
    ModelSpec,
    Scores,
    SlimError,
    count,
    extract,
    round_widths,
)
from tests.slim.architectures import architectures
from tests.slim.families import FAMILIES, checkpoint, images, masked, spec_of

SPEC = spec_of("vit")  # 3 blocks, 3 heads of 4 dimensions, 12 units
MULTIPLES = st.sampled_from([1, 2, 3, 4, 8])


def flat_scores(spec: ModelSpec = SPEC, value: float = 0.5) -> Scores:
    return Scores.fill(spec, lambda shape: torch.full(shape, value))


def random_scores(seed: int, levels: int, spec: ModelSpec = SPEC) -> Scores:
    """Few levels have many ties."""
    random = torch.Generator().manual_seed(seed)
    return Scores.fill(spec, lambda shape: torch.randint(levels, shape, generator=random) / levels)


SCORES = st.builds(random_scores, st.integers(0, 999), st.sampled_from([1, 2, 5, 1000]))


def with_units(*units: tuple[int, ...]) -> Architecture:
    return replace(Architecture.dense(SPEC), units=units)


def widths(architecture: Architecture) -> tuple[list[int], list[int]]:
    heads = [len(head) for block in architecture.heads for head in block]
    return heads, [len(units) for units in architecture.units]


@settings(max_examples=150)
@given(given=architectures(SPEC), scores=SCORES, head=MULTIPLES, unit=MULTIPLES)
def test_any_architecture_gets_near_multiples_of_the_best(given, scores, head, unit):
    rounded = round_widths(given, scores, head, unit)
    assert rounded.tokens == given.tokens
    parts = zip(widths(given), widths(rounded), (head, unit), (4, 12), strict=True)
    for asked, got, multiple, dense in parts:
        for before, after in zip(asked, got, strict=True):
            assert after % multiple == 0 or after == dense
            assert abs(after - before) < multiple
            assert after == 0 or before > 0
        assert abs(sum(got) - sum(asked)) <= multiple / 2
    for block in range(SPEC.depth):
        pairs = list(
            zip(given.heads[block], rounded.heads[block], scores.mhsa[block], strict=True)
        )
        pairs.append((given.units[block], rounded.units[block], scores.mlp[block]))
        for kept, now, values in pairs:
            assert_best(set(kept), set(now), values.tolist())


def assert_best(kept: set[int], now: set[int], values: list[float]) -> None:
    """What came was the best of the dropped, or what went the worst of the kept."""
    came, went = now - kept, kept - now
    assert not (came and went)
    left = set(range(len(values))) - kept - came
    assert all((-values[a], a) < (-values[b], b) for a in came for b in left)
    assert all((-values[a], a) < (-values[b], b) for a in kept - went for b in went)


@settings(max_examples=50)
@given(given=architectures(SPEC), scores=SCORES, head=MULTIPLES, unit=MULTIPLES)
def test_rounding_twice_is_rounding_once(given, scores, head, unit):
    once = round_widths(given, scores, head, unit)
    assert round_widths(once, scores, head, unit) == once
    assert round_widths(given, scores, head, unit) == once


@given(given=architectures(SPEC), scores=SCORES)
def test_multiples_of_one_change_nothing(given, scores):
    assert round_widths(given, scores, 1, 1) == given


@pytest.mark.parametrize("multiple", [1, 3, 5, 8, 100])
def test_the_dense_model_stays_dense(multiple):
    dense = Architecture.dense(SPEC)
    assert round_widths(dense, flat_scores(), multiple, multiple) == dense


def test_the_blocks_worth_most_go_up():
    given = with_units(tuple(range(6)), tuple(range(6)), tuple(range(6)))
    scores = flat_scores()
    scores.mlp[1].fill_(0.9)
    scores.mlp[2].fill_(0.7)
    rounded = round_widths(given, scores, 1, 4)  # 18 units asked: 4 + 8 + 4 or 4 + 8 + 8
    assert widths(rounded)[1] == [4, 8, 4]
    scores.mlp[0].fill_(0.91)
    assert widths(round_widths(given, scores, 1, 4))[1] == [8, 4, 4]


def test_what_a_step_is_worth_is_what_it_adds():
    """Units that stay in any case do not count."""
    given = with_units(tuple(range(6)), tuple(range(6)), tuple(range(4)))
    scores = flat_scores()
    scores.mlp[0][:4] = 1.0
    scores.mlp[0][4:] = 0.1
    assert widths(round_widths(given, scores, 1, 4))[1] == [4, 8, 4]


def test_it_adds_the_best_dropped_and_drops_the_worst_kept():
    given = with_units((0, 1, 2, 3, 4, 5), (6, 7, 8, 9, 10, 11), (0, 1, 2, 3))
    scores = flat_scores()
    scores.mlp[0].copy_(torch.tensor([9, 1, 9, 2, 9, 9, 5, 7, 5, 5, 8, 5]) / 10)
    scores.mlp[1].copy_(torch.tensor([0, 0, 0, 0, 0, 0, 3, 2, 3, 1, 3, 3]) / 10)
    rounded = round_widths(given, scores, 1, 4)
    assert rounded.units == ((0, 1, 2, 3, 4, 5, 7, 10), (6, 8, 10, 11), (0, 1, 2, 3))


def test_ties_go_to_the_lower_index():
    given = with_units((3, 4), (3, 4), (0, 1, 2, 3))
    rounded = round_widths(given, flat_scores(), 1, 4)
    assert rounded.units == ((0, 1, 3, 4), (), (0, 1, 2, 3))


def test_a_narrow_head_may_go_and_another_grow():
    given = replace(Architecture.dense(SPEC), heads=(((0,), (1, 2), (0, 1, 2)),) * 3)
    scores = flat_scores()
    for block in scores.mhsa:
        block[2] = 0.6
    rounded = round_widths(given, scores, 8, 1)  # dense heads of 4 are narrower than a multiple
    assert widths(rounded)[0] == [4, 0, 4, 0, 0, 4, 0, 0, 4]


@pytest.mark.parametrize("family", FAMILIES)
def test_extraction_of_a_rounded_network_is_exact(family):
    model = masked(family, 5, torch.float64)
    source = MaskCheckpoint.from_model(model)
    asked = source.select(Budget(0.8 if source.spec.drops_tokens else 1, 0.6, 0.55))
    rounded = round_widths(asked, source.masks, 2, 4)
    assert rounded != asked
    vit, hard = extract(source, rounded), model.harden(rounded)
    x = images(source.spec, torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(vit(x), hard(x), rtol=1e-9, atol=1e-9)
    assert sum(p.numel() for p in vit.parameters()) == count(rounded).params


def test_by_default_a_real_model_comes_near_its_cost():
    spec = replace(SPEC, embed_dim=384, num_heads=6, mlp_hidden=1536, depth=12)
    scores = random_scores(3, 1_000_000, spec)
    asked = selected(spec, scores, Budget(1.0, 0.5, 0.6))
    rounded = round_widths(asked, scores)
    heads, units = widths(rounded)
    assert not any(width % 8 for width in heads)
    assert not any(width % 16 for width in units)
    assert abs(sum(heads) - 2304) <= 4
    assert abs(sum(units) - round(0.6 * 12 * 1536)) <= 8
    assert count(rounded).macs == pytest.approx(count(asked).macs, rel=2e-3)


def selected(spec: ModelSpec, scores: Scores, budget: Budget) -> Architecture:
    return MaskCheckpoint(spec, {}, scores).select(budget)


@pytest.mark.parametrize("wrong", [{"head_multiple": 0}, {"unit_multiple": -8}])
def test_multiples_below_one_are_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(SlimError, match=f"{name}={value} is not a number of at least 1"):
        round_widths(Architecture.dense(SPEC), flat_scores(), **wrong)


def test_scores_of_another_model_are_refused():
    wider = flat_scores(replace(SPEC, mlp_hidden=13))
    with pytest.raises(SlimError, match=r"scores of block 0 have shapes .*\(13,\)"):
        round_widths(Architecture.dense(SPEC), wider)


def test_a_checkpoint_has_the_scores_it_takes():
    source = checkpoint("vit")
    rounded = round_widths(source.select(Budget(1.0, 0.5, 0.5)), source.masks, 2, 4)
    assert all(width % 2 == 0 for width in widths(rounded)[0])


def test_scores_of_a_shallower_model_are_refused():
    scores = flat_scores()
    few = Scores(scores.tokens, scores.mhsa, scores.mlp[:-1])
    blocks = SPEC.depth
    match = rf"of {blocks} blocks \(MHSA\) and {blocks - 1} \(MLP\), .* with {blocks}"
    with pytest.raises(SlimError, match=match):
        round_widths(Architecture.dense(SPEC), few)
