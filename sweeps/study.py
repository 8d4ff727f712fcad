"""The budget study: Optuna picks budgets; its journal is the one truth on trials."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from slim import Budget, ModelSpec
from sweeps.config import SpaceConfig, SweepConfig
from sweeps.trials import COMPLETE, FAILED, PRUNED, TrialRow

DENSE = Budget(1.0, 1.0, 1.0)
STATES = {TrialState.COMPLETE: COMPLETE, TrialState.PRUNED: PRUNED, TrialState.FAIL: FAILED}


@dataclass(frozen=True)
class Proposal:
    """A budget to try, under its trial number."""

    number: int
    budget: Budget


class BudgetStudy:
    """A study of two objectives, val top-1 (up) and GMACs (down).

    Args:
        journal: The file that every change is written through to.
        config: Its `space` says where to look, its `trials` how many to reach. Its `seed`, with a
            trial's number, seeds that trial's sampler, so that a resumed study asks what an
            uninterrupted one asks.
    """

    def __init__(self, journal: Path, config: SweepConfig) -> None:
        logging.getLogger("optuna").setLevel(logging.WARNING)
        journal.parent.mkdir(parents=True, exist_ok=True)
        self.space, self.seed, self.trials = config.space, config.seed, config.trials
        self.first = first_budgets(config)
        self.study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            study_name="budgets",
            directions=["maximize", "minimize"],
            load_if_exists=True,
        )
        self._interrupted = [t.number for t in self._frozen(TrialState.RUNNING)]

    def remaining(self) -> int:
        """Trials still to run, interrupted ones counted."""
        return self.trials - len(self.rows())

    def ask(self) -> Proposal | None:
        """The next budget: an interrupted trial's first, None when the number is reached."""
        if self._interrupted:
            number = self._interrupted.pop(0)
            return Proposal(number, _budget(self.study.trials[number]))
        number = len(self.study.get_trials(deepcopy=False))
        if number >= self.trials:
            return None
        if number < len(self.first):
            self.study.enqueue_trial(_params(self.first[number]))
        self.study.sampler = optuna.samplers.TPESampler(
            seed=(self.seed * 1_000_003 + number) % 2**32,
            n_startup_trials=len(self.first),
            multivariate=True,
        )
        trial = self.study.ask(self._distributions(number))
        return Proposal(trial.number, _budget(self.study.trials[trial.number]))

    def complete(self, row: TrialRow) -> None:
        """Tell a trial that ran to its end."""
        self._note(row)
        self.study.tell(row.trial, [row.val_top1, row.gmacs])  # type: ignore[list-item]

    def close(self, row: TrialRow, reason: str) -> None:
        """Tell a trial that did not: PRUNED or FAILED; the sampler never sees its accuracy."""
        self._note(row)
        self._trial(row.trial).set_user_attr("reason", reason)
        state = TrialState.PRUNED if row.state == PRUNED else TrialState.FAIL
        self.study.tell(row.trial, state=state)

    def rows(self) -> list[TrialRow]:
        """The finished trials, by number; test accuracies stand elsewhere."""
        return [_row(trial) for trial in self._frozen(*STATES)]

    def _note(self, row: TrialRow) -> None:
        """Keep what Optuna has no field for."""
        trial = self._trial(row.trial)
        for name in ("gmacs", "params_m", "val_top1", "epochs", "seconds"):
            trial.set_user_attr(name, getattr(row, name))

    def _trial(self, number: int) -> optuna.Trial:
        return optuna.Trial(self.study, self.study.trials[number]._trial_id)

    def _frozen(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _distributions(self, number: int) -> dict[str, BaseDistribution]:
        """The space; an enqueued budget may lie outside it."""
        lows = {
            "tokens": self.space.tokens_min,
            "mhsa": self.space.mhsa_min,
            "mlp": self.space.mlp_min,
        }
        if number < len(self.first):
            lows = {
                name: min(low, getattr(self.first[number], name)) for name, low in lows.items()
            }
        return {name: FloatDistribution(float(low), 1.0) for name, low in lows.items()}


def first_budgets(config: SweepConfig) -> list[Budget]:
    """What is tried before the sampler decides: dense, then uniform budgets."""
    space = config.space
    lows = (space.tokens_min, space.mhsa_min, space.mlp_min)
    uniform = [Budget(*(1.0 if low == 1 else share for low in lows)) for share in space.uniform]
    return [DENSE, *uniform][: config.trials]


def space_for(space: SpaceConfig, spec: ModelSpec) -> SpaceConfig:
    """The space of a model: tokens stay whole where none can be dropped."""
    return space if spec.drops_tokens else replace(space, tokens_min=1.0)


def _params(budget: Budget) -> dict[str, float]:
    return {"tokens": budget.tokens, "mhsa": budget.mhsa, "mlp": budget.mlp}


def _budget(trial: FrozenTrial) -> Budget:
    return Budget(**{name: float(trial.params[name]) for name in ("tokens", "mhsa", "mlp")})


def _row(trial: FrozenTrial) -> TrialRow:
    notes = trial.user_attrs
    return TrialRow(
        trial=trial.number,
        state=STATES[trial.state],
        **_params(_budget(trial)),
        gmacs=notes["gmacs"],
        params_m=notes["params_m"],
        val_top1=notes["val_top1"],
        test_top1=None,
        epochs=notes["epochs"],
        seconds=notes["seconds"],
    )
