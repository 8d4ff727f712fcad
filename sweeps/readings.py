"""What the trials of a study say, each read once, however often all are looked at."""

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from slim import Budget
from sweeps.proposals import Observation, excess_ms
from sweeps.space import DIMENSIONS, BudgetSpace
from sweeps.trials import COMPLETE, FAILED, PRUNED, TrialRow

STATES = {TrialState.COMPLETE: COMPLETE, TrialState.PRUNED: PRUNED, TrialState.FAIL: FAILED}


class Readings:
    """Trials of one study as budgets, rows and observations.

    An ended trial never changes, nor does the budget of one that was asked: what was read of them
    is kept, by trial number.

    Args:
        space: Says which budgets are the same network.
        max_latency_ms: The limit that a trial's latency is held against.
    """

    def __init__(self, space: BudgetSpace, max_latency_ms: float | None = None) -> None:
        self.space, self.max_latency_ms = space, max_latency_ms
        self._budgets: dict[int, Budget] = {}
        self._identities: dict[int, tuple[int, ...]] = {}
        self._networks: set[tuple[int, ...]] = set()
        self._read = 0
        self._rows: dict[int, TrialRow] = {}
        self._observations: dict[int, Observation] = {}

    def budget(self, trial: FrozenTrial) -> Budget:
        """What was asked."""
        number = trial.number
        if number not in self._budgets:
            self._budgets[number] = Budget(**{n: float(trial.params[n]) for n in DIMENSIONS})
        return self._budgets[number]

    def identity(self, trial: FrozenTrial) -> tuple[int, ...]:
        """The network that the budget is."""
        number = trial.number
        if number not in self._identities:
            self._identities[number] = self.space.identity(self.budget(trial))
        return self._identities[number]

    def networks(self, trials: Sequence[FrozenTrial]) -> set[tuple[int, ...]]:
        """Those of all trials of the study, given by number."""
        for trial in trials[self._read :]:
            if trial.params:
                self._networks.add(self.identity(trial))
        self._read = len(trials)
        return self._networks

    def row(self, trial: FrozenTrial) -> TrialRow:
        """An ended trial's row; test accuracies stand elsewhere."""
        number = trial.number
        if number not in self._rows:
            self._rows[number] = _row(trial, self.budget(trial))
        return self._rows[number]

    def observation(self, trial: FrozenTrial) -> Observation:
        """What an ended trial tells a sampler; of one that is too slow, what it had untrained."""
        number = trial.number
        if number not in self._observations:
            notes = trial.user_attrs
            top1 = notes["untrained_top1"] if self.is_too_slow(trial) else notes["val_top1"]
            excess = excess_ms(notes["latency_ms"], self.max_latency_ms)
            found = Observation(self.budget(trial), top1, notes["gmacs"], excess)
            self._observations[number] = found
        return self._observations[number]

    def is_too_slow(self, trial: FrozenTrial) -> bool:
        """Whether it was ended untrained by the limit of latency."""
        if trial.state != TrialState.PRUNED or trial.user_attrs["epochs"]:
            return False
        return trial.user_attrs.get("untrained_top1") is not None


def _row(trial: FrozenTrial, budget: Budget) -> TrialRow:
    notes = trial.user_attrs
    return TrialRow(
        trial=trial.number,
        state=STATES[trial.state],
        tokens=budget.tokens,
        mhsa=budget.mhsa,
        mlp=budget.mlp,
        gmacs=notes["gmacs"],
        params_m=notes["params_m"],
        val_top1=notes["val_top1"],
        test_top1=None,
        epochs=notes["epochs"],
        seconds=notes["seconds"],
        latency_ms=notes["latency_ms"],
    )
