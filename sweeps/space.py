"""Where budgets may lie: between the smallest and the dense one, and within the user's limits."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
import torch

from slim import Architecture, Budget, Cost, ModelSpec, count
from slim.ranking import Scores, select
from sweeps.config import SpaceConfig, SweepConfig
from sweeps.errors import InputError

DENSE = Budget(1.0, 1.0, 1.0)
DIMENSIONS = ("tokens", "mhsa", "mlp")
_HALVINGS = 16
_APART = 6  # budgets that cut tokens alone, and as many that cut all else


class BudgetSpace:
    """The budgets of one searched model that a run may judge and train.

    Args:
        config: Its `space` has the smallest budget of each dimension; `max_gmacs`,
            `max_params_m` and `target_gmacs` are the limits.
        spec: The dense model.
        scores: Its ranking, or stand-ins before the search.
    """

    def __init__(self, config: SweepConfig, spec: ModelSpec, scores: Scores) -> None:
        self.spec, self.scores = spec, scores
        self.smallest = smallest_budget(config.space)
        self.uniform = uniform_budgets(config.space)
        self.max_gmacs, self.max_params_m = config.max_gmacs, config.max_params_m
        self.targets = target_gmacs(config)
        self._totals = tuple(Architecture.dense(spec).kept().values())

    def cost(self, budget: Budget) -> Cost:
        """MACs and parameters of a budget's network."""
        return count(select(self.spec, self.scores, budget))

    def identity(self, budget: Budget) -> tuple[int, ...]:
        """Slots kept of each dimension: one ranking gives equal ones the same network."""
        shares = zip(_shares(budget), self._totals, strict=True)
        return tuple(round(share * total) for share, total in shares)

    def fit(self, budget: Budget, number: int = 0) -> Budget:
        """The budget itself if it is within the limits, else the nearest that is.

        It is moved straight towards the smallest budget as far as the limits ask. With target
        costs it is moved, towards the dense budget too, to the target whose turn it is.

        Args:
            budget: Asked.
            number: Of the budget; its turn among the targets.

        Raises:
            InputError: If not even the smallest budget is within the limits.
        """
        target = self.targets[number % len(self.targets)] if self.targets else None
        high = 1.0 if target is not None else 0.0
        if self._within(self._moved(budget, high), target):
            return self._moved(budget, high)
        if not self._within(self.smallest, target):
            raise InputError(self._too_tight(target))
        low = -1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self._within(self._moved(budget, middle), target):
                low = middle
            else:
                high = middle
        return self._moved(budget, low)

    @cached_property
    def first(self) -> list[Budget]:
        """What is judged before a sampler decides: the uniform budgets and the smallest, within
        the limits, and those that cut either tokens alone or all but tokens, each network once."""
        fitted = (self.fit(b, n) for n, b in enumerate([*self.uniform, self.smallest]))
        return self.each_once([*fitted, *self.tokens_alone, *self.all_but_tokens])

    @cached_property
    def tokens_alone(self) -> list[Budget]:
        """Budgets that cut nothing but tokens, evenly apart in ratio: they tell how much of what
        others lose is the tokens'. Those outside the limits of MACs and parameters are left out,
        and with targets all."""
        return self._towards(replace(DENSE, tokens=self.smallest.tokens))

    @cached_property
    def all_but_tokens(self) -> list[Budget]:
        """Budgets that keep all tokens, likewise: training makes most of such networks, and a
        sampler that starts among those with few tokens and wide blocks may never find them."""
        return self._towards(replace(self.smallest, tokens=1.0))

    def _towards(self, end: Budget) -> list[Budget]:
        """Budgets from this one towards the dense one, evenly apart in ratio; none where all
        keep their tokens."""
        if end == DENSE or self.targets or self.smallest.tokens == 1:
            return []
        ways = (np.geomspace(low, 1.0, _APART + 1)[:-1] for low in _shares(end))
        cut = [Budget(*map(float, shares)) for shares in zip(*ways, strict=True)]
        return [one for one in cut if self._within(one, None)]

    def each_once(self, budgets: Iterable[Budget]) -> list[Budget]:
        """Without those that are the same network as one before."""
        unique: dict[tuple[int, ...], Budget] = {}
        for budget in budgets:
            unique.setdefault(self.identity(budget), budget)
        return list(unique.values())

    def check(self) -> None:
        """Refuse limits that no budget, or no target that its cost, can meet.

        Raises:
            InputError: Says which and by how much.
        """
        dense = self.cost(DENSE)
        for target in self.targets:
            if target > dense.macs / 1e9:
                raise InputError(
                    f"--target-gmacs {target:g} is more than the dense model's "
                    f"{dense.macs / 1e9:.4g} GMACs; give a smaller one"
                )
        for number in range(max(1, len(self.targets))):
            self.fit(DENSE, number)

    def _within(self, budget: Budget, target: float | None) -> bool:
        cost = self.cost(budget)
        limits = [limit for limit in (self.max_gmacs, target) if limit is not None]
        if limits and cost.macs / 1e9 > min(limits):
            return False
        return self.max_params_m is None or cost.params / 1e6 <= self.max_params_m

    def _moved(self, budget: Budget, by: float) -> Budget:
        """A budget moved a share (0 to 1) of the way to dense, or (-1 to 0) to the smallest."""
        end = DENSE if by > 0 else self.smallest
        if by in (0, 1, -1):  # exactly, where a sum may round beyond
            return end if by else budget
        shares = [
            start + abs(by) * (stop - start)
            for start, stop in zip(_shares(budget), _shares(end), strict=True)
        ]
        return Budget(*(min(1.0, share) for share in shares))

    def _too_tight(self, target: float | None) -> str:
        cost = self.cost(self.smallest)
        asked = [
            *([f"--target-gmacs {target:g}"] if target is not None else []),
            *([f"--max-gmacs {self.max_gmacs:g}"] if self.max_gmacs is not None else []),
            *([f"--max-params-m {self.max_params_m:g}"] if self.max_params_m is not None else []),
        ]
        return (
            f"{' and '.join(asked)} cannot be met: the smallest budget of the space costs "
            f"{cost.macs / 1e9:.4g} GMACs and {cost.params / 1e6:.4g} M parameters; lower "
            f"{' or '.join(f'--space.{name}_min' for name in self._cut())}"
        )

    def _cut(self) -> list[str]:
        """The dimensions in which budgets differ."""
        return [name for name in DIMENSIONS if getattr(self.smallest, name) < 1]


def space_for(space: SpaceConfig, spec: ModelSpec) -> SpaceConfig:
    """The space of a model: what is not cut stays whole, as do tokens that cannot be dropped.

    Raises:
        InputError: If a dimension is unknown, or none is left to cut.
    """
    names = [name.strip() for name in space.dimensions.split(",")]
    unknown = sorted(set(names) - set(DIMENSIONS))
    if unknown:
        raise InputError(
            f"--space.dimensions names {unknown[0]!r}, expected some of {', '.join(DIMENSIONS)}"
        )
    cut = [n for n in DIMENSIONS if n in names and (n != "tokens" or spec.drops_tokens)]
    if not cut:
        raise InputError(f"--space {space.dimensions}: this model cannot drop tokens")
    lows = {name: float(getattr(space, f"{name}_min")) for name in DIMENSIONS}
    lows |= {name: 1.0 for name in DIMENSIONS if name not in cut}
    return replace(space, tokens_min=lows["tokens"], mhsa_min=lows["mhsa"], mlp_min=lows["mlp"])


def smallest_budget(space: SpaceConfig) -> Budget:
    """The smallest of each dimension."""
    return Budget(float(space.tokens_min), float(space.mhsa_min), float(space.mlp_min))


def uniform_budgets(space: SpaceConfig) -> list[Budget]:
    """The dense budget, then those alike in every dimension as far as the space lets them."""
    lows = _shares(smallest_budget(space))
    alike = [Budget(*(max(low, float(share)) for low in lows)) for share in space.uniform]
    return list(dict.fromkeys([DENSE, *alike]))


def target_gmacs(config: SweepConfig) -> list[float]:
    """The costs that are asked for.

    Raises:
        InputError: If one is not a positive number, or is there twice.
    """
    targets = []
    for text in [] if config.target_gmacs is None else str(config.target_gmacs).split(","):
        try:
            targets.append(float(text))
        except ValueError:
            targets.append(0.0)
        if not 0 < targets[-1] < float("inf"):
            raise InputError(
                f"--target-gmacs {config.target_gmacs!r}: {text.strip()!r} is not a positive "
                "number; give GMACs, comma-separated"
            )
        if targets[-1] in targets[:-1]:
            raise InputError(
                f"--target-gmacs {config.target_gmacs!r}: {text.strip()!r} is there twice; leave "
                "one out"
            )
    return targets


def stand_in_scores(spec: ModelSpec) -> Scores:
    """Scores before the search: with all tokens kept, the totals do not depend on them."""
    generator = torch.Generator().manual_seed(0)
    scores = Scores.fill(spec, partial(torch.rand, generator=generator))
    if not spec.drops_tokens:
        return scores
    falling = torch.linspace(0, -1, spec.depth).unbind()
    return replace(scores, tokens=tuple(scores.tokens[0] + height for height in falling))


def mean_share(space: BudgetSpace) -> float:
    """Mean MACs of the space's budgets as a share of the dense model's, on a small grid."""
    lows = _shares(space.smallest)
    dense = space.cost(DENSE).macs
    budgets = [
        space.fit(Budget(*(low + (1 - low) * at for low, at in zip(lows, corner, strict=True))))
        for corner in _corners()
    ]
    return sum(space.cost(budget).macs / dense for budget in budgets) / len(budgets)


def _corners() -> Sequence[tuple[float, ...]]:
    return [(t, a, m) for t in (0.25, 0.75) for a in (0.25, 0.75) for m in (0.25, 0.75)]


def _shares(budget: Budget) -> tuple[float, float, float]:
    return budget.tokens, budget.mhsa, budget.mlp
