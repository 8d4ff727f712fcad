"""The study of trained budgets: Optuna picks them; its journal is the one truth on trials."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import kendalltau

from slim import Budget
from sweeps.config import SweepConfig
from sweeps.front import covered, most_gain_first, non_dominated
from sweeps.journal import finish_asking, open_study, seed_for
from sweeps.judged import JudgedStudy
from sweeps.proposals import Observation, propose
from sweeps.readings import STATES, Readings
from sweeps.regained import Regained
from sweeps.space import DENSE, DIMENSIONS, BudgetSpace
from sweeps.trials import PRUNED, TrialRow

FEWEST_PAIRS = 5  # fewer trained budgets say nothing of a rank correlation
_TRIES = 20  # of the sampler to find a network that was not tried
_LAST_TRIES = 256  # by chance, before the space counts as exhausted
_EXHAUSTED = "exhausted"  # the number of trials that was asked for when it was


@dataclass(frozen=True)
class Proposal:
    """A budget to try, under its trial number."""

    number: int
    budget: Budget


class RungOutcome(NamedTuple):
    """What a trial had at a rung of early stopping, and whether it went on."""

    val_top1: float
    gmacs: float
    goes_on: bool = True


class BudgetStudy:
    """A study of two objectives, val top-1 (up) and GMACs (down).

    Args:
        journal: The file that every change is written through to.
        config: Its `trials` says how many to reach, its `patience` when fewer do. Its `seed`, with
            a trial's number, seeds that trial's sampler, so that a resumed study asks what an
            uninterrupted one asks.
        space: Where budgets lie.
        judged: Budgets that were judged; with none the sampler has the trials alone.
        dense_top1: Top-1 of the dense model on val, in percent.
    """

    def __init__(
        self,
        journal: Path,
        config: SweepConfig,
        space: BudgetSpace,
        judged: JudgedStudy,
        dense_top1: float,
    ) -> None:
        self.space, self.seed, self.trials = space, config.seed, config.trials
        self.patience, self.min_gain = config.patience, config.min_gain
        self.options, self.judged = config.judge, judged
        known = judged.pooled()
        self._chance = 100 / space.spec.num_classes
        self._regained = Regained.untold(known, space, dense_top1)
        self.first = first_budgets(config, space, [self._regained.foretold(one) for one in known])
        self._judged = {space.identity(one.budget): one for one in known}
        self.study = open_study(journal, "budgets")
        self.readings = Readings(space, config.max_latency_ms)
        for trial in self._frozen(TrialState.RUNNING, TrialState.WAITING):
            finish_asking(self.study, trial)
        self._interrupted = self.running()
        self._exhausted = self.study.user_attrs.get(_EXHAUSTED, 0) >= self.trials

    def remaining(self) -> int:
        """Trials still to run, interrupted ones counted."""
        return self.planned() - len(self.rows())

    def planned(self) -> int:
        """Trials of the run: more than asked once these show that judging misled; fewer where the
        space has no other networks, or more would not pay."""
        if self._exhausted or (self.settled() and not self.running()):
            return len(self._frozen())
        if self._ended() < self.trials or not self._misled():
            return self.trials
        return self.trials + int(self.options.extra_trials or 0)

    def may_grow(self) -> bool:
        """Whether trials may still be added when those that run have ended."""
        if self._exhausted:
            return False
        if self.settled():
            return bool(self.running())
        return bool(self.options.extra_trials) and self._ended() < self.trials

    def settled(self) -> bool:
        """Whether the last trials, as many as `patience`, together added less than `min_gain`.

        Not where judging misled: what was trained until then is too little, not too much. Trials
        that failed, or were too slow to be trained, say nothing of it, and those that still run
        may enlarge the front again.
        """
        if not self.patience:
            return False
        ended = self._frozen(TrialState.COMPLETE, TrialState.PRUNED)
        trials = [trial for trial in ended if not self.readings.is_too_slow(trial)]
        if len(trials) <= self.patience or self._misled():
            return False
        return self._covered(trials) - self._covered(trials[: -self.patience]) < self.min_gain

    def _covered(self, trials: list[FrozenTrial]) -> float:
        """Hypervolume of the COMPLETE ones, in percent of the box."""
        found = [(t.values[0], t.values[1]) for t in trials if t.state == TrialState.COMPLETE]
        return covered(found, self._chance, self.space.cost(DENSE).macs / 1e9)

    def rank_correlation(self) -> float | None:
        """Kendall's tau between judged and trained accuracy of the COMPLETE trials asked for.

        The dense model as it stands is none of them. None while there are too few of them, where
        all are alike, or where nothing is judged.
        """
        if not self.options.budgets:
            return None
        complete = [t for t in self._frozen(TrialState.COMPLETE) if t.number < self.trials]
        pairs = [(before.val_top1, after) for before, after in self._before_and_after(complete)]
        if len(pairs) < FEWEST_PAIRS:
            return None
        tau = float(kendalltau(*zip(*pairs, strict=True)).statistic)
        return None if math.isnan(tau) else tau

    def ask(self) -> Proposal | None:
        """The next budget: an interrupted trial's first, None when the number is reached, more
        would not pay, or no network is left that was not tried."""
        if self._interrupted:
            number = self._interrupted.pop(0)
            return Proposal(number, self.readings.budget(self._one(number)))
        trials = self._frozen()
        number = len(trials)
        if number >= self.planned() or self.settled():
            return None
        budget = self._first_untried(trials) or self._sampled(trials)
        if budget is None:
            self.study.set_user_attr(_EXHAUSTED, self.trials)
            self._exhausted = True
            return None
        self.study.enqueue_trial(_params(budget))
        whole: dict[str, BaseDistribution] = dict.fromkeys(DIMENSIONS, FloatDistribution(0.0, 1.0))
        trial = self.study.ask(whole)
        return Proposal(trial.number, self.readings.budget(self._one(trial.number)))

    def complete(self, row: TrialRow, untrained_top1: float | None = None) -> None:
        """Tell a trial that ran to its end, and what it scored before it was trained."""
        self._note(row, untrained_top1=untrained_top1)
        self.study.tell(row.trial, [row.val_top1, row.gmacs])  # type: ignore[list-item]

    def close(self, row: TrialRow, reason: str, untrained_top1: float | None = None) -> None:
        """Tell a trial that did not: PRUNED or FAILED.

        Of one that was too slow to be trained the sampler learns what it was untrained, as of a
        judged budget; of any other nothing.
        """
        self._note(row, reason=reason, untrained_top1=untrained_top1)
        state = TrialState.PRUNED if row.state == PRUNED else TrialState.FAIL
        self.study.tell(row.trial, state=state)

    def note_rung(self, number: int, rung: int, outcome: RungOutcome) -> None:
        """Write down what a trial had at a rung of early stopping, and what came of it."""
        self._write(number, {f"rung {rung}": list(outcome)})

    def rung(self, rung: int) -> dict[int, RungOutcome]:
        """By number, of the trials that came to a rung; failed ones left out."""
        kept = self._frozen(TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
        key = f"rung {rung}"
        return {t.number: RungOutcome(*t.user_attrs[key]) for t in kept if key in t.user_attrs}

    def rows(self) -> list[TrialRow]:
        """The finished trials, by number; test accuracies stand elsewhere."""
        return [self.readings.row(trial) for trial in self._frozen(*STATES)]

    def reason(self, number: int) -> str:
        """Why a trial did not complete; empty if it did."""
        return str(self._one(number).user_attrs.get("reason", ""))

    def running(self) -> list[int]:
        """Trials that were asked and have not ended."""
        return [trial.number for trial in self._frozen(TrialState.RUNNING)]

    def _misled(self) -> bool:
        """Whether training ranked networks otherwise than judging did."""
        tau = self.rank_correlation()
        return tau is not None and tau < self.options.trust

    def _ended(self) -> int:
        return len(self._frozen(*STATES))

    def _first_untried(self, trials: list[FrozenTrial]) -> Budget | None:
        """Of what is trained before the sampler decides, the next; None when all are tried."""
        tried = self.readings.networks(trials)
        left = (budget for budget in self.first if self.space.identity(budget) not in tried)
        return next(left, None)

    def _sampled(self, trials: list[FrozenTrial]) -> Budget | None:
        """The sampler's budget, a network not tried before; None if there seems to be none.

        It knows the judged budgets as the trials foretell what training would make of them; where
        they turned out to mislead it knows the trained ones alone. A target cost for which it
        finds nothing new loses its turn.
        """
        tried = self.readings.networks(trials)
        for turn, asked in enumerate(self._asked(len(trials)), len(trials)):
            budget = self.space.fit(asked, turn)
            if self.space.identity(budget) not in tried:
                return budget
        return None

    def _asked(self, number: int) -> Iterator[Budget]:
        """Budgets as they come: one after the other from the sampler, then by chance."""
        known, first = self.known(), number * _TRIES
        for attempt in range(_TRIES):
            seed = seed_for(self.seed, first + attempt)
            yield from propose(known, self.space.smallest, self.options.sampler, seed)
        seed = seed_for(self.seed, first)
        yield from propose([], self.space.smallest, "random", seed, _LAST_TRIES)

    def known(self) -> list[Observation]:
        """What the sampler's next budget is picked by."""
        trials = self._frozen()
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        asked = [trial for trial in trials if trial.state == TrialState.RUNNING]
        slow = [trial for trial in trials if self.readings.is_too_slow(trial)]
        tried = {self.readings.identity(trial) for trial in [*complete, *slow, *asked]}
        misled = len(trials) >= self.trials
        untrained = [one for key, one in self._judged.items() if not misled and key not in tried]
        untrained += [before for trial in slow if (before := self._before(trial))]
        return [
            *map(self._regained.told_by(self._before_and_after(complete)).foretold, untrained),
            *map(self.readings.observation, complete),
            *(Observation(self.readings.budget(trial), None, 0.0) for trial in asked),
        ]

    def _before_and_after(self, complete: list[FrozenTrial]) -> list[tuple[Observation, float]]:
        """The trained ones untrained, as of `_before`, and their top-1 on all of val."""
        told = [(self._before(trial), float(trial.values[0])) for trial in complete]
        return [(before, after) for before, after in told if before is not None]

    def _before(self, trial: FrozenTrial) -> Observation | None:
        """A trial's network before its training: as it was judged, or else on all of val.

        None of the dense model as it stands.
        """
        top1 = trial.user_attrs.get("untrained_top1")
        if top1 is None:
            return None
        judged = self._judged.get(self.readings.identity(trial))
        known = self.readings.observation(trial)
        return replace(known, val_top1=top1 if judged is None else judged.val_top1)

    def _note(self, row: TrialRow, **more: Any) -> None:
        """Keep what Optuna has no field for."""
        names = ("gmacs", "params_m", "val_top1", "epochs", "seconds", "latency_ms")
        self._write(row.trial, {name: getattr(row, name) for name in names} | more)

    def _write(self, number: int, notes: dict[str, Any]) -> None:
        trial_id = self._one(number)._trial_id
        for name, value in notes.items():
            self.study._storage.set_trial_user_attr(trial_id, name, value)

    def _one(self, number: int) -> FrozenTrial:
        """A trial as it is in memory, without a look at the others."""
        storage, study_id = self.study._storage, self.study._study_id
        return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study_id, number))

    def _frozen(self, *states: TrialState) -> list[FrozenTrial]:
        """Trials of these states, or all; as they are in memory, as `study.trials` copies each."""
        return self.study.get_trials(deepcopy=False, states=states or None)


def first_budgets(
    config: SweepConfig, space: BudgetSpace, foretold: Sequence[Observation]
) -> list[Budget]:
    """What is trained before the sampler decides.

    That is the dense model, then a part of the front of judged networks as training is expected to
    leave them, first what adds most to the hypervolume; where nothing is judged, the uniform
    budgets, or one of them for each target cost.

    Args:
        config: How many, and which part.
        space: Where they lie.
        foretold: What the judged budgets are expected to be worth once they are trained.
    """
    front = non_dominated([one for one in foretold if one.excess <= 0])
    if not front:
        uniform = space.uniform[1 : 1 + (len(space.targets) or len(space.uniform))]
        fitted = [space.fit(budget, n) for n, budget in enumerate(uniform, 1)]
        return space.each_once([DENSE, *fitted])[: config.trials]
    start = 1 + math.ceil(config.judge.start * (config.trials - 1))
    chance, most = 100 / space.spec.num_classes, space.cost(DENSE).macs / 1e9
    picked = [one.budget for one in most_gain_first(front, chance, most, start)]
    return space.each_once([DENSE, *picked])[:start]


def _params(budget: Budget) -> dict[str, float]:
    return {name: getattr(budget, name) for name in DIMENSIONS}
