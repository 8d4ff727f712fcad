"""What Optuna's samplers propose, as a pure function of what is known and a seed."""

from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from slim import Budget
from sweeps.space import DIMENSIONS

DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)  # val top-1, GMACs
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


def propose(
    known: Sequence[Observation], smallest: Budget, sampler: str, seed: int, count: int = 1
) -> list[Budget]:
    """Ask a sampler for budgets between the smallest and the dense one.

    Args:
        known: What it learns from.
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
    study.add_trials([_trial(observation, space) for observation in known])
    return [Budget(**study.ask(space).params) for _ in range(count)]


def _sampler(name: str, seed: int) -> BaseSampler:
    if name == "random":
        return RandomSampler(seed=seed)
    if name == "gp":
        return GPSampler(seed=seed, n_startup_trials=START)
    return TPESampler(seed=seed, n_startup_trials=START, multivariate=True)


def _trial(known: Observation, space: dict[str, BaseDistribution]) -> FrozenTrial:
    params = {name: getattr(known.budget, name) for name in space}
    if known.val_top1 is None:
        return create_trial(state=TrialState.RUNNING, params=params, distributions=dict(space))
    return create_trial(
        values=[known.val_top1, known.gmacs],
        params=params,
        distributions=dict(space),
        constraints={"measured": known.excess},
    )
