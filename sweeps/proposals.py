"""What Optuna's samplers propose, as a pure function of what is known and a seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import moocore
import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from slim import Budget
from sweeps.space import DIMENSIONS

DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)  # val top-1, GMACs
MOST_KNOWN = {"tpe": 512, "gp": 128, "random": 0}  # that a sampler learns from
START = 16  # random budgets before a model of what is known is trusted


@dataclass(frozen=True)
class Observation:
    """A budget and what is known of it.

    Args:
        budget: Asked.
        val_top1: Percent; None while it runs.
        gmacs: 1e9 MACs.
        excess: By how much it breaks a limit that only measuring tells; at most 0 if it does not.
    """

    budget: Budget
    val_top1: float | None
    gmacs: float
    excess: float = 0.0


def excess_ms(latency_ms: float | None, max_latency_ms: float | None) -> float:
    """By how much a network breaks the limit; 0 where there is none, or nothing was measured."""
    if max_latency_ms is None or latency_ms is None:
        return 0.0
    return latency_ms - max_latency_ms


def propose(
    known: Sequence[Observation], smallest: Budget, sampler: str, seed: int, count: int = 1
) -> list[Budget]:
    """Ask a sampler for budgets between the smallest and the dense one.

    Args:
        known: What it learns from; TPE from 512 at most, GP (whose time grows with the square of
            their number and more) from 128, see `learned_from`.
        smallest: Smallest budget of each dimension.
        sampler: `tpe`, `gp` or `random`.
        seed: Of the sampler; the same seed and knowledge give the same budgets.
        count: How many; they know of each other as of running trials.
    """
    space: dict[str, BaseDistribution] = {
        name: FloatDistribution(float(getattr(smallest, name)), 1.0)
        for name in DIMENSIONS
        if getattr(smallest, name) < 1
    }
    study = optuna.create_study(sampler=_sampler(sampler, seed), directions=DIRECTIONS)
    lows = tuple((name, float(getattr(smallest, name))) for name in space)
    for observation in learned_from(known, MOST_KNOWN[sampler]):
        study._storage.create_new_trial(study._study_id, _trial(observation, lows))
    return [Budget(**study.ask(space).params) for _ in range(count)]


def learned_from(known: Sequence[Observation], most: int) -> list[Observation]:
    """At most so many observations, in their order: what a sampler is told, and what it costs.

    Those that run are all kept: they keep others away. Of the rest one half are the best by Pareto
    rank, feasible ones first, and the other half are spread evenly over what is left, so that the
    sampler goes on knowing what is bad.
    """
    ended = [index for index, one in enumerate(known) if one.val_top1 is not None]
    if len(ended) <= most:
        return list(known)
    points = np.array([[known[index].val_top1, known[index].gmacs] for index in ended])
    ranks = moocore.pareto_rank(points, maximise=[True, False])
    broken = [max(0.0, known[index].excess) for index in ended]
    order = np.lexsort((ranks, broken))
    best, left = order[: -(-most // 2)], np.sort(order[-(-most // 2) :])
    spread = left[np.linspace(0, len(left) - 1, most // 2).round().astype(int)]
    kept = {ended[index] for index in [*best, *spread]}
    return [one for index, one in enumerate(known) if one.val_top1 is None or index in kept]


def _sampler(name: str, seed: int) -> BaseSampler:
    if name == "random":
        return RandomSampler(seed=seed)
    if name == "gp":
        return GPSampler(seed=seed, n_startup_trials=START)
    return TPESampler(seed=seed, n_startup_trials=START, multivariate=True)


class _SharedTrial(FrozenTrial):
    """A trial that a study is told of and does not change: it shares all but its number."""

    @classmethod
    def of(cls, trial: FrozenTrial) -> "_SharedTrial":
        shared = cls.__new__(cls)
        shared.__dict__.update(trial.__dict__)
        return shared

    def __deepcopy__(self, memo: dict[int, Any]) -> "_SharedTrial":
        """Optuna's storage copies each trial it is given; copying a thousand takes 0.1 s."""
        return self.of(self)


@lru_cache(maxsize=4096)
def _trial(known: Observation, lows: tuple[tuple[str, float], ...]) -> FrozenTrial:
    """An observation as Optuna's trial, in a space from these lows up to 1."""
    space: dict[str, BaseDistribution] = {n: FloatDistribution(low, 1.0) for n, low in lows}
    params = {name: getattr(known.budget, name) for name in space}
    if known.val_top1 is None:
        trial = create_trial(state=TrialState.RUNNING, params=params, distributions=space)
    else:
        trial = create_trial(
            values=[known.val_top1, known.gmacs],
            params=params,
            distributions=space,
            constraints={"measured": known.excess},
        )
    return _SharedTrial.of(trial)
