"""What the arms of front_quality.py are compared by: networks as points, and their compute.

Compute is counted in 1e9 MACs x images: a forward pass counts once, a training step three times,
of the network that was really trained or evaluated. The dense model as it stands is a member of
every front: everybody has it, at no compute.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from sweeps.front import covered, non_dominated


@dataclass(frozen=True)
class Point:
    """One network of an arm.

    Args:
        network: Its number, in the order in which the arm takes them.
        gmacs: 1e9 MACs of one image.
        val_top1: Percent; None for one that was stopped early or failed.
        test_top1: Percent, looked at once, at the end; None where `val_top1` is.
        epochs: Trained.
        compute: That it took alone.
    """

    network: int
    gmacs: float
    val_top1: float | None
    test_top1: float | None
    epochs: int
    compute: float


@dataclass(frozen=True)
class Course:
    """What one arm did from the dense weights of one seed.

    Args:
        arm: Its name.
        seed: Of everything random.
        search: Compute of the mask search, or of what stands in its place.
        shared: Compute of what serves all networks beside it: weight sharing and judging.
        dense: The dense model as it stands.
        chance: Top-1 of guessing, in percent.
        points: The networks, by number.
    """

    arm: str
    seed: int
    search: float
    shared: float
    dense: Point
    chance: float
    points: tuple[Point, ...]

    def first(self, networks: int) -> "Course":
        """The same with no more than so many networks."""
        kept = self.points[:networks]
        return Course(self.arm, self.seed, self.search, self.shared, self.dense, self.chance, kept)

    def compute(self, with_search: bool) -> list[float]:
        """Compute spent when each network is there."""
        before = self.shared + self.search * with_search
        return [before + spent for spent in accumulate(point.compute for point in self.points)]

    def hypervolumes(self) -> list[float]:
        """Percent of the box from chance at 1.1 times the dense MACs to 100 % at no cost.

        After each network, of the front found so far.
        """
        found, volumes = [_outcome(self.dense)], []
        for point in self.points:
            if point.val_top1 is not None:
                found.append(_outcome(point))
            volumes.append(covered(found, self.chance, self.dense.gmacs))
        return volumes

    def test_hypervolume(self) -> float:
        """The same on test of the final front, which val decided."""
        points = [(float(p.test_top1 or 0.0), p.gmacs) for p in self.front()]
        return covered(points, self.chance, self.dense.gmacs)

    def front(self) -> list[Point]:
        """The networks, with the dense model, that no other one dominates on val."""
        return non_dominated([p for p in (self.dense, *self.points) if p.val_top1 is not None])

    def test_at(self, level: float) -> float:
        """Test top-1 of the front's best on val among those of at most this cost.

        Args:
            level: Share of the dense MACs.

        Returns:
            Chance where there is no such network.
        """
        fitting = [p for p in self.front() if p.gmacs <= level * self.dense.gmacs]
        return float(fitting[-1].test_top1 or 0.0) if fitting else self.chance

    def rows(self) -> list[dict[str, Any]]:
        """The points with what they are compared by, for a table."""
        columns = zip(
            self.points,
            self.hypervolumes(),
            self.compute(True),
            self.compute(False),
            strict=True,
        )
        return [
            {
                "arm": self.arm,
                "seed": self.seed,
                "network": point.network,
                "gmacs": point.gmacs,
                "of_dense": point.gmacs / self.dense.gmacs,
                "val_top1": point.val_top1,
                "test_top1": point.test_top1,
                "epochs": point.epochs,
                "compute": point.compute,
                "spent": spent,
                "spent_without_search": without,
                "hypervolume": volume,
            }
            for point, volume, spent, without in columns
        ]


def compute_to_reach(course: Course, volume: float, with_search: bool) -> float:
    """Compute after which an arm's hypervolume is at least this; infinite if it never is."""
    reached = zip(course.hypervolumes(), course.compute(with_search), strict=True)
    return next((spent for found, spent in reached if found >= volume), float("inf"))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error; the error of a single value is unknown."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return float(np.mean(values)), spread / len(values) ** 0.5


def _outcome(point: Point) -> tuple[float, float]:
    return float(point.val_top1 or 0.0), point.gmacs
