"""Early stopping for a front: at each rung the trials of the best non-dominated rank go on.

MO-ASHA (Schmucker et al., arXiv 2106.12639): asynchronous successive halving in which ranks stand
in for the one metric, and an epsilon-net, the most spread-out first, breaks ties within a rank.
"""

from collections.abc import Mapping
from typing import Any

import moocore
import numpy as np
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from sweeps.study import BudgetStudy, RungOutcome

Outcome = tuple[float, float]  # val top-1, GMACs


class ParetoHalving(FIFOScheduler):
    """Stops a trial that is not among the best `1 / reduction` of those that came to its rung.

    The dense trial, where it is trained, and the cheapest and the dearest of a rung, always go on:
    they are the ends of the front. What trials had at a rung, and what came of it, stands in the
    study, so a resumed sweep goes on from it; what a trial had at a rung that a killed driver or
    worker did not tell of is compared at its next report.

    Args:
        study: Where rungs are written down.
        epochs: After which a trial is complete.
        reduction: One of so many trials goes on; rungs lie at `epochs / reduction`,
            `epochs / reduction ** 2` and so on.
    """

    def __init__(self, study: BudgetStudy, epochs: int, reduction: int) -> None:
        super().__init__()
        self.study, self.epochs, self.reduction = study, epochs, reduction
        self.rungs = rungs(epochs, reduction)
        self.stopped: dict[int, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing travels with Tune's own state: a resumed sweep makes this anew."""
        return {}

    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> str:
        """Decide at a rung whether the trial goes on."""
        number = int(trial.config["number"])
        if int(result["epochs"]) >= self.epochs:  # it is complete, whatever nobody heard of
            return TrialScheduler.CONTINUE
        for rung in self.rungs:
            if not self._goes_on(number, rung, result):
                self.stopped[number] = rung
                return TrialScheduler.STOP
        return TrialScheduler.CONTINUE

    def reason(self, number: int) -> str:
        """Why a trial was stopped; empty if it was not."""
        if number not in self.stopped:
            return ""
        return f"not among the best 1/{self.reduction} after {self.stopped[number]} epochs"

    def _goes_on(self, number: int, rung: int, result: dict[str, Any]) -> bool:
        """Whether a rung lets a trial go on, or it has not come there."""
        reached = self.study.rung(rung)
        if number in reached:
            return reached[number].goes_on
        course = result.get("curve", ())
        if len(course) < rung:
            return True
        outcome = (float(course[rung - 1]), float(result["gmacs"]))
        peers = {n: (one.val_top1, one.gmacs) for n, one in reached.items()} | {number: outcome}
        goes_on = number in promoted(peers, self.reduction)
        self.study.note_rung(number, rung, RungOutcome(*outcome, goes_on))
        return goes_on


def rungs(epochs: int, reduction: int) -> tuple[int, ...]:
    """Epochs after which trials are compared, ascending; all before the last epoch."""
    found: list[int] = []
    while (epochs := epochs // reduction) >= 1:
        found.append(epochs)
    return tuple(reversed(found))


def promoted(peers: Mapping[int, Outcome], reduction: int) -> set[int]:
    """Which trials of a rung go on: the best `1 / reduction`, trial 0 and both ends.

    Args:
        peers: Accuracy (up) and GMACs (down) by trial number.
        reduction: One of so many goes on, rounded up.
    """
    numbers = list(peers)
    points = np.array([peers[number] for number in numbers], dtype=float)
    ranks = moocore.pareto_rank(points, maximise=[True, False])
    best: list[int] = []
    for rank in np.unique(ranks):
        best += _most_spread([n for n, r in zip(numbers, ranks, strict=True) if r == rank], peers)
    ends = {min(numbers, key=lambda n: peers[n][1]), max(numbers, key=lambda n: peers[n][1])}
    return {*best[: -(-len(numbers) // reduction)], *ends, *({0} & set(numbers))}


def _most_spread(numbers: list[int], peers: Mapping[int, Outcome]) -> list[int]:
    """An epsilon-net: the most accurate first, then ever the farthest from all before."""
    points = np.array([peers[number] for number in numbers], dtype=float)
    width = np.ptp(points, axis=0)
    points = (points - points.min(axis=0)) / np.where(width > 0, width, 1.0)
    order = [int(points[:, 0].argmax())]
    while len(order) < len(numbers):
        gaps = np.linalg.norm(points[:, None] - points[order][None], axis=2).min(axis=1)
        gaps[order] = -1.0
        order.append(int(gaps.argmax()))
    return [numbers[index] for index in order]
