"""Judged budgets: their accuracy on the broadcast weights, without training of their own."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, create_trial

from slim import Budget
from sweeps.config import SweepConfig
from sweeps.front import non_dominated
from sweeps.journal import open_study, seed_for
from sweeps.pooled import pooled
from sweeps.proposals import Observation, excess_ms, propose
from sweeps.regained import Regained
from sweeps.space import DIMENSIONS, BudgetSpace
from sweeps.trials import TableRow

_TRIES = 20  # rounds without a new network, after which the space counts as exhausted


@dataclass(frozen=True)
class JudgedRow(TableRow):
    """A judged budget; units as in `TrialRow`, `latency_ms` of one image where it is measured.

    `val_top1` is on those images of val that all budgets are judged on.
    """

    number: int
    tokens: float
    mhsa: float
    mlp: float
    gmacs: float
    params_m: float
    val_top1: float
    latency_ms: float | None
    seconds: float

    @property
    def budget(self) -> Budget:
        """What was asked."""
        return Budget(self.tokens, self.mhsa, self.mlp)


class JudgedStudy:
    """The study of judged budgets; each network stands in it once.

    Budgets are proposed in batches, each by a sampler seeded by the number of budgets so far. It
    knows what came of all but the batch before, of which it knows the budgets: so a batch can be
    asked for while the one before is judged, and none depends on the number of workers, nor on
    interruptions between batches. Every second batch is picked by what training is expected to
    make of judged networks: those that it makes most of are not the best untrained.

    Args:
        journal: The file that every batch is written through to.
        config: How many, by which sampler.
        space: Where they lie.
    """

    def __init__(self, journal: Path, config: SweepConfig, space: BudgetSpace) -> None:
        self.space, self.seed, self.options = space, config.seed, config.judge
        self.max_latency_ms = config.max_latency_ms
        self.study = open_study(journal, "judged")

    def rows(self) -> list[JudgedRow]:
        """All judged budgets, by number."""
        return [_row(trial) for trial in self.study.get_trials(deepcopy=False)]

    def front(self) -> list[JudgedRow]:
        """The non-dominated ones within the limits, cheapest first."""
        return non_dominated([row for row in self.rows() if self._excess(row) <= 0])

    def observations(self) -> list[Observation]:
        """What the judged budgets scored, by number."""
        return [
            Observation(row.budget, row.val_top1, row.gmacs, self._excess(row))
            for row in self.rows()
        ]

    def pooled(self) -> list[Observation]:
        """What they are worth by all that was scored, by number."""
        return pooled(self.observations())

    def ask(self) -> list[Budget]:
        """The next batch, each a network not judged before; none when there are enough.

        Of a batch that a kill left half told, what is missing.
        """
        rows = self.rows()
        told = len(rows) % self.options.batch
        if told and len(rows) < int(self.options.budgets or 0):
            begun = self.pick(self._known_of(self.observations()[:-told]))
            if begun[:told] == [row.budget for row in rows[-told:]] and len(begun) > told:
                return begun[told:]
        return self.pick(self.known())

    def known(self, judging: Sequence[Budget] = ()) -> list[Observation]:
        """What the next batch is picked by: of the batch before it the budgets alone.

        Args:
            judging: That batch, if the study has not been told of it yet.
        """
        running = [Observation(budget, None, 0.0) for budget in judging]
        return self._known_of([*self.observations(), *running])

    def _known_of(self, observations: list[Observation]) -> list[Observation]:
        """Observations without the results of the last batch."""
        last = max(0, len(observations) - self.options.batch)
        return observations[:last] + [replace(one, val_top1=None) for one in observations[last:]]

    def pick(self, known: list[Observation]) -> list[Budget]:
        """The batch that `ask` gives where so much is known; the study itself is not read.

        What is known is read together: that takes time, as the sampler does.
        """
        wanted = max(0, min(int(self.options.budgets or 0) - len(known), self.options.batch))
        seen = {self.space.identity(one.budget) for one in known}
        batch = [one for one in self.space.first if self.space.identity(one) not in seen][:wanted]
        seen |= {self.space.identity(budget) for budget in batch}
        asked = enumerate(self._asked(known), len(known) + len(batch))
        while len(batch) < wanted and (proposed := next(asked, None)) is not None:
            turn, budget = proposed  # one that gives nothing new is lost to its target
            budget = self.space.fit(budget, turn)
            identity = self.space.identity(budget)
            if identity not in seen:
                seen.add(identity)
                batch.append(budget)
        return batch

    def tell(self, rows: Sequence[JudgedRow]) -> None:
        """Write a batch down."""
        self.study.add_trials([_trial(row) for row in rows])

    def _asked(self, known: list[Observation]) -> Iterator[Budget]:
        """The sampler's budgets as they come."""
        known = pooled(known)
        if len(known) // self.options.batch % 2:
            known = self._foretold(known)
        for attempt in range(_TRIES):
            seed = seed_for(self.seed, len(known) * _TRIES + attempt)
            yield from propose(
                known, self.space.smallest, self.options.sampler, seed, self.options.batch
            )

    def _foretold(self, known: list[Observation]) -> list[Observation]:
        """What the judged ones are expected to be worth once they are trained."""
        best = max((one.val_top1 for one in known if one.val_top1 is not None), default=100.0)
        regained = Regained.untold(known, self.space, best)
        return [one if one.val_top1 is None else regained.foretold(one) for one in known]

    def _excess(self, row: JudgedRow) -> float:
        return excess_ms(row.latency_ms, self.max_latency_ms)


def _trial(row: JudgedRow) -> FrozenTrial:
    whole = FloatDistribution(0.0, 1.0)
    shares = {name: getattr(row, name) for name in DIMENSIONS}
    notes = {k: v for k, v in asdict(row).items() if k not in (*shares, "number")}
    return create_trial(
        values=[row.val_top1, row.gmacs],
        params=shares,
        distributions=dict.fromkeys(shares, whole),
        user_attrs=notes,
    )


def _row(trial: FrozenTrial) -> JudgedRow:
    return JudgedRow(number=trial.number, **trial.params, **trial.user_attrs)
