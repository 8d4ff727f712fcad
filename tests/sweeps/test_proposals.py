"""Samplers are told of no more than they can use, and of the same things they propose the same."""

import moocore
import numpy as np
import pytest

from slim import Budget
from sweeps.proposals import MOST_KNOWN, Observation, learned_from, propose

SMALLEST = Budget(0.1, 0.1, 0.1)


def observations(count: int, seed: int = 0) -> list[Observation]:
    """Made-up outcomes: accuracy grows with cost, with noise."""
    random = np.random.default_rng(seed)
    budgets = [Budget(*random.uniform(0.1, 1, 3).tolist()) for _ in range(count)]
    noise = random.normal(0, 3, count).tolist()
    costs = [budget.tokens * (budget.mhsa + 2 * budget.mlp) for budget in budgets]
    return [
        Observation(budget, 90 * cost / (cost + 0.1) + more, cost)
        for budget, cost, more in zip(budgets, costs, noise, strict=True)
    ]


def test_few_observations_are_all_learned_from() -> None:
    known = observations(50)
    assert learned_from(known, 50) == known


def test_of_many_the_front_and_all_that_run_are_kept_in_their_order() -> None:
    known = observations(300)
    running = [Observation(one.budget, None, 0.0) for one in observations(5, seed=1)]
    told = learned_from([*known, *running], 60)
    assert len(told) == 65
    assert told[60:] == running
    assert [one for one in known if one in told] == told[:60]
    front = [
        one
        for one in known
        if not any(other.val_top1 > one.val_top1 and other.gmacs < one.gmacs for other in known)
    ]
    assert len(front) <= 30
    assert set(front) <= set(told)


def test_what_is_bad_is_still_known_of() -> None:
    known = observations(300)
    told = learned_from(known, 40)
    ranks = moocore.pareto_rank(
        np.array([[one.val_top1, one.gmacs] for one in known]), maximise=[True, False]
    )
    rank = dict(zip(known, ranks.tolist(), strict=True))
    worst = max(sorted(rank[one] for one in told)[:20])
    assert sum(rank[one] > worst for one in told) >= 15


def test_those_that_break_a_limit_come_after_those_that_do_not() -> None:
    good, bad = observations(20), observations(20, seed=1)
    broken = [Observation(o.budget, 100.0, o.gmacs / 10, excess=1.0) for o in bad]
    half = learned_from([*broken, *good], 20)
    assert sum(one.excess == 0 for one in half) >= 10


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_knowledge_and_seed_propose_the_same(sampler: str) -> None:
    known = observations(60)
    first = propose(known, SMALLEST, sampler, seed=3, count=4)
    assert propose(known, SMALLEST, sampler, seed=3, count=4) == first
    assert propose(known, SMALLEST, sampler, seed=4, count=4) != first


def test_gp_is_told_of_as_many_as_it_can_bear() -> None:
    known = observations(MOST_KNOWN["gp"] + 100)
    told = learned_from(known, MOST_KNOWN["gp"])
    whole = propose(known, SMALLEST, "gp", seed=0)
    assert propose(told, SMALLEST, "gp", seed=0) == whole
