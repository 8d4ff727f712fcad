"""Budgets lie where the user's limits, in the user's units, let them."""

from dataclasses import replace

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slim import Budget
from slim.spec import read_spec
from sweeps.config import SpaceConfig, SweepConfig
from sweeps.errors import InputError
from sweeps.space import DENSE, DIMENSIONS, space_for, target_gmacs
from tests.sweeps.small_checkpoint import searched_checkpoint, space_of

FREE = space_of(SweepConfig())
DENSE_GMACS = FREE.cost(DENSE).macs / 1e9
DENSE_PARAMS = FREE.cost(DENSE).params / 1e6
shares = st.floats(0, 1)


def budget_at(tokens: float, mhsa: float, mlp: float) -> Budget:
    lows = FREE.smallest
    return Budget(
        lows.tokens + (1 - lows.tokens) * tokens,
        lows.mhsa + (1 - lows.mhsa) * mhsa,
        lows.mlp + (1 - lows.mlp) * mlp,
    )


@settings(max_examples=40)
@given(shares, shares, shares)
def test_a_budget_within_the_limits_stays_and_another_is_cut_to_them(
    tokens: float, mhsa: float, mlp: float
) -> None:
    space = space_of(SweepConfig(max_gmacs=0.4 * DENSE_GMACS, max_params_m=0.6 * DENSE_PARAMS))
    asked = budget_at(tokens, mhsa, mlp)
    fitted = space.fit(asked)
    cost, wanted = space.cost(fitted), space.cost(asked)
    assert cost.macs <= 0.4 * DENSE_GMACS * 1e9
    assert cost.params <= 0.6 * DENSE_PARAMS * 1e6
    if wanted.macs <= 0.4 * DENSE_GMACS * 1e9 and wanted.params <= 0.6 * DENSE_PARAMS * 1e6:
        assert fitted == asked
    else:  # as large as the limits let it
        shares = (cost.macs / 0.4e9 / DENSE_GMACS, cost.params / 0.6e6 / DENSE_PARAMS)
        assert max(shares) > 0.95


@settings(max_examples=30)
@given(shares, shares, shares, st.integers(0, 5))
def test_with_target_costs_every_budget_costs_the_target_whose_turn_it_is(
    tokens: float, mhsa: float, mlp: float, number: int
) -> None:
    targets = [0.3 * DENSE_GMACS, 0.6 * DENSE_GMACS]
    space = space_of(SweepConfig(target_gmacs=",".join(map(str, targets))))
    target = targets[number % 2] * 1e9
    asked = budget_at(tokens, mhsa, mlp)
    fitted = space.fit(asked, number)
    assert space.cost(fitted).macs <= target
    larger = asked if space.cost(asked).macs > target else DENSE
    for share in (0.01 * step for step in range(1, 101)):  # the next network costs too much
        further = between(fitted, larger, share)
        same = space.identity(further) == space.identity(fitted)
        assert same or space.cost(further).macs > target


def between(start: Budget, end: Budget, share: float) -> Budget:
    """A budget a share of the way from one to another."""
    ways = [(getattr(start, name), getattr(end, name)) for name in DIMENSIONS]
    return Budget(*(min(1.0, low + share * (high - low)) for low, high in ways))


def test_uniform_budgets_stay_in_the_space_and_come_once() -> None:
    space = space_of(SweepConfig(space=SpaceConfig(tokens_min=0.5, mhsa_min=0.4, mlp_min=0.05)))
    expected = [(0.75, 0.75, 0.75), (0.6, 0.6, 0.6), (0.5, 0.45, 0.45), (0.5, 0.4, 0.3)]
    assert space.uniform == [DENSE, *(Budget(*shares) for shares in expected)]
    narrow = SpaceConfig(tokens_min=0.7, mhsa_min=0.7, mlp_min=1.0)
    assert space_of(SweepConfig(space=narrow)).uniform == [
        DENSE,
        Budget(0.75, 0.75, 1.0),
        Budget(0.7, 0.7, 1.0),
    ]


def test_budgets_that_cut_nothing_but_tokens_are_judged_first_within_the_limits() -> None:
    low = FREE.smallest.tokens
    alone = FREE.tokens_alone
    assert [(one.mhsa, one.mlp) for one in alone] == [(1, 1)] * 6
    tokens = [one.tokens for one in alone]
    assert tokens == pytest.approx([low ** (1 - n / 6) for n in range(6)])
    assert FREE.first[-12:-6] == alone
    some = space_of(SweepConfig(max_gmacs=FREE.cost(alone[2]).macs / 1e9))
    assert some.tokens_alone == alone[:3]
    assert set(alone) & set(some.first) == set(alone[:3])
    assert space_of(SweepConfig(target_gmacs=str(DENSE_GMACS / 2))).tokens_alone == []
    whole = space_of(SweepConfig(space=SpaceConfig(tokens_min=1.0)))
    assert whole.tokens_alone == []


def test_so_are_budgets_that_cut_all_but_tokens() -> None:
    smallest, others = FREE.smallest, FREE.all_but_tokens
    assert FREE.first[-6:] == others
    assert [one.tokens for one in others] == [1] * 6
    for name in ("mhsa", "mlp"):
        shares = [getattr(one, name) for one in others]
        assert shares == pytest.approx([getattr(smallest, name) ** (1 - n / 6) for n in range(6)])
    some = space_of(SweepConfig(max_gmacs=FREE.cost(others[2]).macs / 1e9))
    assert some.all_but_tokens == others[:3] == some.first[-3:]
    assert space_of(SweepConfig(target_gmacs=str(DENSE_GMACS / 2))).all_but_tokens == []
    whole = space_of(SweepConfig(space=SpaceConfig(mhsa_min=1.0, mlp_min=1.0)))
    assert whole.all_but_tokens == []
    assert whole.first[-6:] == FREE.tokens_alone
    narrow = space_of(SweepConfig(space=SpaceConfig(tokens_min=1.0)))
    assert narrow.all_but_tokens == []


def test_budgets_of_one_identity_are_one_network() -> None:
    checkpoint = searched_checkpoint()
    near, far = Budget(0.5, 0.5, 0.5001), Budget(0.5, 0.5, 0.55)
    assert FREE.identity(near) == FREE.identity(Budget(0.5, 0.5, 0.5))
    assert checkpoint.select(near) == checkpoint.select(Budget(0.5, 0.5, 0.5))
    assert FREE.identity(far) != FREE.identity(near)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_gmacs": 1e-6}, "--max-gmacs 1e-06 cannot be met: the smallest budget"),
        ({"max_params_m": 1e-6}, "--max-params-m 1e-06 cannot be met"),
        ({"target_gmacs": "1e-6"}, "--target-gmacs 1e-06 cannot be met"),
        ({"target_gmacs": "5"}, "--target-gmacs 5 is more than the dense model's"),
    ],
)
def test_limits_that_nothing_meets_are_refused(limits: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        space_of(replace(SweepConfig(), **limits)).check()  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["1.3,", "", "a", "-1", "nan", "inf", "0"])
def test_a_target_that_is_no_cost_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a positive number"):
        target_gmacs(SweepConfig(target_gmacs=text))


def test_a_target_that_is_there_twice_is_refused() -> None:
    with pytest.raises(InputError, match=r"'0\.10' is there twice; leave one out"):
        target_gmacs(SweepConfig(target_gmacs="0.1,0.2,0.10"))


def test_what_is_lowered_to_meet_a_limit_is_what_may_be_cut() -> None:
    space = SpaceConfig(tokens_min=1.0, mlp_min=1.0)
    with pytest.raises(InputError, match=r"; lower --space\.mhsa_min$"):
        space_of(SweepConfig(max_gmacs=1e-6, space=space)).check()


def test_the_space_of_a_swin_keeps_every_token_and_that_of_a_vit_is_as_configured() -> None:
    space = SpaceConfig(tokens_min=0.4)
    with torch.device("meta"):
        swin = read_spec(timm.create_model("swin_tiny_patch4_window7_224"))
        vit = read_spec(timm.create_model("deit_tiny_patch16_224"))
    assert space_for(space, swin) == replace(space, tokens_min=1.0)
    assert space_for(space, vit) == space
    mhsa = space_for(replace(space, dimensions="mhsa"), vit)
    assert (mhsa.tokens_min, mhsa.mhsa_min, mhsa.mlp_min) == (1, space.mhsa_min, 1)
    with pytest.raises(InputError, match="'heads', expected some of tokens, mhsa, mlp"):
        space_for(replace(space, dimensions="mhsa,heads"), vit)
    with pytest.raises(InputError, match="cannot drop tokens"):
        space_for(replace(space, dimensions="tokens"), swin)
