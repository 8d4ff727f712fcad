"""The tables of front_quality.py: means and standard errors over seeds, and the aims."""

from collections.abc import Sequence
from itertools import groupby
from math import isnan

import pandas as pd
from fashion import show
from front_points import Course, compute_to_reach, mean_and_error
from front_runs import DEFAULT, JUDGED
from retrained_arms import GRID
from torch_pruning_arm import DISTILLED, PLAIN

from sweeps.config import SweepConfig
from sweeps.front import covered

PATIENCES = (0, 4, 6, 8)
MIN_GAIN = SweepConfig().min_gain
LEVELS = (0.2, 0.3, 0.45, 0.6, 0.8)


def told(mean: float, error: float) -> str:
    """A mean with its standard error, where that is known."""
    return f"{mean:.2f}" if isnan(error) else f"{mean:.2f} ± {error:.2f}"


def by_arm(courses: Sequence[Course]) -> dict[str, list[Course]]:
    """The seeds of each arm."""
    return {arm: list(of_arm) for arm, of_arm in groupby(courses, key=lambda c: c.arm)}


def hypervolume_table(courses: Sequence[Course], few: int) -> pd.DataFrame:
    """Hypervolume and compute of each arm, after its first networks and after all."""
    rows = []
    for arm, seeds in by_arm(courses).items():
        whole = max(len(seed.points) for seed in seeds)
        for networks in [whole] if arm == JUDGED else dict.fromkeys([few, whole]):
            cut = [seed.first(networks) for seed in seeds]
            volume, error = mean_and_error([seed.hypervolumes()[-1] for seed in cut])
            rows.append(
                {
                    "arm": arm,
                    "networks": networks,
                    "hypervolume, % of the box": told(volume, error),
                    "of that front on test": told(
                        *mean_and_error([seed.test_hypervolume() for seed in cut])
                    ),
                    "compute": mean_and_error([seed.compute(True)[-1] for seed in cut])[0],
                    "without the search": mean_and_error([s.compute(False)[-1] for s in cut])[0],
                }
            )
    return pd.DataFrame(rows)


def final_fronts(courses: Sequence[Course]) -> pd.DataFrame:
    """Test top-1 of each arm's final front at levels of the dense MACs."""
    rows = []
    for arm, seeds in by_arm(courses).items():
        row: dict[str, object] = {"arm": arm, "networks": str(max(len(s.points) for s in seeds))}
        for level in LEVELS:
            mean, error = mean_and_error([seed.test_at(level) for seed in seeds])
            row[f"at {level:.0%}"] = told(mean, error)
        rows.append(row)
    dense = [seeds.dense.test_top1 or 0.0 for seeds in next(iter(by_arm(courses).values()))]
    mean, error = mean_and_error(dense)
    rows.append({"arm": f"dense: {told(mean, error)}"})
    return pd.DataFrame(rows).fillna("")


def show_tables(volumes: pd.DataFrame, fronts: pd.DataFrame) -> None:
    """Print both."""
    show("Hypervolume on val, and compute in 1e9 MACs x images; mean and standard error", volumes)
    show("Test top-1 of the front's best on val, by share of the dense MACs", fronts)


def aims(courses: Sequence[Course], few: int) -> list[str]:
    """Compute at which the default reaches the paper's final hypervolume; Torch-Pruning levels."""
    arms, lines = by_arm(courses), []
    for ours in (DEFAULT, JUDGED):
        if ours in arms and GRID in arms:
            whole = max(len(seed.points) for seed in arms[GRID])
            for networks in dict.fromkeys([few, whole]):
                for counted in (True, False):
                    lines.append(_reached(arms[ours], arms[GRID], networks, counted))
    for other in (PLAIN, DISTILLED):
        if DEFAULT in arms and other in arms:
            lines.append(_levels(arms[DEFAULT], arms[other], other))
    return lines


def early_ends(courses: Sequence[Course]) -> pd.DataFrame:
    """Where `--patience` would have ended the default, whose networks are those until then."""
    rows = []
    for course in by_arm(courses).get(DEFAULT, []):
        for patience in PATIENCES:
            cut = course.first(_ended_after(course, patience))
            rows.append(
                {
                    "seed": course.seed,
                    "patience": str(patience or "none"),
                    "networks": str(len(cut.points)),
                    "hypervolume": cut.hypervolumes()[-1],
                    "on test": cut.test_hypervolume(),
                    "compute": cut.compute(True)[-1],
                    "of all": cut.compute(True)[-1] / course.compute(True)[-1],
                }
            )
    return pd.DataFrame(rows)


def _ended_after(course: Course, patience: int) -> int:
    """Networks until so many in a row have added less than the default's `--min-gain`."""
    found, volumes = list[tuple[float, float]](), list[float]()
    for point in course.points:
        if point.val_top1 is not None:
            found.append((point.val_top1, point.gmacs))
        volumes.append(covered(found, course.chance, course.dense.gmacs))
        if 0 < patience < len(volumes) and volumes[-1] - volumes[-1 - patience] < MIN_GAIN:
            break
    return len(volumes)


def _reached(
    ours: Sequence[Course], theirs: Sequence[Course], networks: int, with_search: bool
) -> str:
    """The share of the paper's compute that the default needs for its hypervolume, by seed."""
    shares = []
    for our, their in zip(ours, theirs, strict=True):
        cut = their.first(networks)
        needed = compute_to_reach(our, cut.hypervolumes()[-1], with_search)
        shares.append(needed / cut.compute(with_search)[-1])
    needs = ", ".join("never" if share == float("inf") else f"{share:.3f}" for share in shares)
    counted = "counted" if with_search else "not counted"
    return (
        f"{networks} networks, search {counted}: {ours[0].arm} reaches the hypervolume of the "
        f"paper's way at this share of its compute, by seed: {needs}"
    )


def _levels(ours: Sequence[Course], theirs: Sequence[Course], name: str) -> str:
    """By how much the default is above another arm at each level."""
    gains = []
    for level in LEVELS:
        pairs = zip(ours, theirs, strict=True)
        mean, error = mean_and_error([a.test_at(level) - b.test_at(level) for a, b in pairs])
        gains.append(f"{level:.0%}: {'+' * (mean >= 0)}{told(mean, error)}")
    return f"the default above {name}, test top-1 at {', '.join(gains)}"
