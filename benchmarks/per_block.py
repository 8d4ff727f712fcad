"""Whether a study should also move budget between blocks, and which sampler judges best.

    python benchmarks/per_block.py --seeds 0 1 2

On the shared weights of each seed (see small_vit.py) every arm judges as many networks:

- `global`: TPE picks budgets; which parts are kept follows from one ranking over all blocks.
  `gp` and `random` are other samplers of the same.
- `tilt`: TPE also picks, for each dimension, how the ranks of a block are raised with its depth
  (a line and a parabola), so that budget moves between blocks while the total stays.
- `blocks`: TPE also picks an offset of every block and dimension.
- `evolution`: the second half are mutations of the front found by `global` in the first one; a
  mutation moves parts of one dimension from a block to another, or changes the budget a little.
  `evolution of budgets` mutates the budget alone: what evolution gives without the freedom.

Within a block, parts are kept in the order of the ranking in every arm, so networks are nested
block by block. Shown: the hypervolume of the judged front over the number judged; of the same
networks on images that decided nothing; and their accuracy after one distilled epoch at levels
of the dense MACs, each level's network being the best on val that fits. With
`--shared between-blocks-4` all judge on weights that were trained for moved budgets too, by
`sharing.py --arms "between blocks"`, which must have run.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import torch
from fashion import console, preprocessing_of, show
from machine import machine
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import create_trial
from small_vit import (
    SHARE_RECIPE,
    SMALLEST,
    accuracy_on,
    dense_gmacs,
    hypervolume,
    mean_and_error,
    options_of,
    small_dense,
    small_shared,
    small_task,
)
from torch import Tensor

import slim
from slim.distillation import distill_from
from slim.ranking import Scores, select
from slim.tasks import ArrayTask
from slim.training import Training
from sweeps.front import non_dominated
from sweeps.proposals import DIRECTIONS, START
from sweeps.space import DIMENSIONS

UNIFORM = (1.0, 0.75, 0.6, 0.45, 0.3)  # budgets judged first, alike in all dimensions
BATCH, TRIES = 16, 20
REACH = 0.3  # of an offset, in shares of a dimension's ranks
STEP, BUDGET_STEP = 0.15, 0.05  # standard deviations of a mutation
AFTER = (50, 100, 200, 400)
LEVELS = (0.1, 0.2, 0.3, 0.45, 0.6)
TUNE_RECIPE = replace(SHARE_RECIPE, epochs=1, lr=7e-4)

Point = dict[str, float]  # budgets by dimension, and offsets by name; absent ones are 0


@dataclass(frozen=True)
class Judged:
    """A network and what it scored; `kept` has the parts kept in every block and dimension."""

    point: Point
    kept: str
    gmacs: float
    val_top1: float
    ask_seconds: float


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--judged", type=int, default=400, help="networks of each arm")
    parser.add_argument("--shared", default="", help="an arm of sharing.py, with its --epochs")
    parser.add_argument("--no-tuning", action="store_true", help="leave the last table out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    task = small_task(options.data)
    fronts, tuned = [], []
    for seed in options.seeds:
        studies = Studies(task, options, seed)
        for arm in options.arms:
            fronts.append({"arm": arm, "seed": seed, **studies.figures(arm)})
            if not options.no_tuning:
                tuned.append({"arm": arm, "seed": seed, **studies.tuned(arm)})
    title = f"{options.judged} judged networks, on {machine()}"
    show(title, mean_and_error(pd.DataFrame(fronts), "arm"))
    show("Less the first arm, seed by seed", paired(pd.DataFrame(fronts)))
    if tuned:
        show("Held-out top-1 after one epoch", mean_and_error(pd.DataFrame(tuned), "arm"))
        show("Less the first arm, seed by seed", paired(pd.DataFrame(tuned)))


def paired(frame: pd.DataFrame) -> pd.DataFrame:
    """Differences to the first arm within each seed, mean and standard error."""
    figures = [c for c in frame.select_dtypes("number").columns if c != "seed"]
    first = frame[frame.arm == frame.arm.iloc[0]].set_index("seed")[figures]
    differences = frame.copy()
    differences[figures] -= first.loc[frame.seed].to_numpy()
    return mean_and_error(differences, "arm")


class Studies:
    """The arms of one seed; every network is evaluated once, whichever arms ask for it."""

    def __init__(self, task: ArrayTask, options: argparse.Namespace, seed: int) -> None:
        self.task, self.options, self.seed = task, options, seed
        self.suffix = f"-{options.shared}" if options.shared else ""
        self.shared = self._weights()
        self.dense = dense_gmacs(self.shared)
        self.ranks = ranks_of(self.shared.ranking)
        self.scored: dict[tuple[str, str], float] = {}
        self._read_scored()

    def figures(self, arm: str) -> dict[str, float]:
        """Hypervolumes of the judged front and the processor time of asking."""
        rows = self.judged(arm)
        row = {}
        for after in (a for a in AFTER if a <= len(rows)):
            seen = [(one.val_top1, one.gmacs) for one in rows[:after]]
            row[f"val {after}"] = hypervolume(seen, self.dense)
        front = non_dominated(rows)
        held = [(self.score(one.point, "test"), one.gmacs) for one in front]
        row["held out"] = hypervolume(held, self.dense)
        row["front"] = float(len(front))
        row["asking, s"] = sum(one.ask_seconds for one in rows)
        return row

    def judged(self, arm: str) -> list[Judged]:
        """The judged networks of an arm, in their order; written down after each batch."""
        rows = self._read(arm)
        while len(rows) < self.options.judged:
            batch = self._batch(arm, rows)
            if not batch:
                break
            rows += batch
            self._write(arm, rows)
            if not len(rows) % (BATCH * 5):
                console.print(f"seed {self.seed}, {arm}: {len(rows)} judged")
        return rows[: self.options.judged]

    def tuned(self, arm: str) -> dict[str, float]:
        """Held-out top-1 after one epoch of the network that each level of MACs takes."""
        front = non_dominated(self.judged(arm))
        row = {}
        for level in LEVELS:
            fitting = [one for one in front if one.gmacs <= level * self.dense]
            row[f"{level:.0%}"] = self.score(fitting[-1].point, "tuned")
        return row | {"mean": float(np.mean(list(row.values())))}

    def score(self, point: Point, kind: str) -> float:
        """Top-1 on val, on the held-out images (`test`), or on these after one epoch (`tuned`)."""
        architecture = self.architecture(point)
        key = (kept_of(architecture), kind)
        if key not in self.scored:
            vit = slim.extract(self.shared, architecture)
            if kind == "tuned":
                self._tune(vit)
            self.scored[key] = accuracy_on(vit, self.task, "val" if kind == "val" else "test")
            with self._scores().open("a") as file:
                file.write(f"{kind},{key[0]},{self.scored[key]!r}\n")
        return self.scored[key]

    def architecture(self, point: Point) -> slim.Architecture:
        """What a point keeps: `round(budget * total)` of each dimension, wherever it lies."""
        budget = slim.Budget(*(point[name] for name in DIMENSIONS))
        return select(self.shared.spec, shifted(self.ranks, point), budget)

    def _weights(self) -> slim.MaskCheckpoint:
        folder = self.options.folder
        if self.options.shared:
            return slim.MaskCheckpoint.load(folder / f"sharing{self.suffix}-{self.seed}")
        return small_shared(self.task, folder, self.seed)

    def _batch(self, arm: str, rows: list[Judged]) -> list[Judged]:
        """The next networks, each new to the arm; asked for in batches, as the sweep does."""
        wanted = min(BATCH, self.options.judged - len(rows))
        seen = {one.kept for one in rows}
        batch: list[Judged] = []
        for attempt in range(TRIES):
            seed = (self.seed * 1_000_003 + len(rows) * TRIES + attempt) % 2**32
            started = time.process_time()
            points = [] if rows or attempt else first_points()
            points += ARMS[arm](rows, seed, self.options.judged)
            seconds = (time.process_time() - started) / len(points)
            for point in points:
                architecture = self.architecture(point)
                kept = kept_of(architecture)
                if len(batch) == wanted or kept in seen:
                    continue
                seen.add(kept)
                gmacs = slim.count(architecture).macs / 1e9
                batch.append(Judged(point, kept, gmacs, self.score(point, "val"), seconds))
            if len(batch) == wanted:
                break
        return batch

    def _tune(self, vit: torch.nn.Module) -> None:
        objective = distill_from(small_dense(self.task, self.options.folder, self.seed), 0.9, 2.0)
        preprocessing = preprocessing_of(self.task)
        for _ in Training(vit, self.task, preprocessing, TUNE_RECIPE, objective).epochs():
            pass

    def _scores(self) -> Path:
        return Path(self.options.folder / f"scores{self.suffix}-{self.seed}.csv")

    def _read_scored(self) -> None:
        if self._scores().is_file():
            for line in self._scores().read_text().splitlines():
                kind, kept, top1 = line.split(",")
                self.scored[kept, kind] = float(top1)

    def _path(self, arm: str) -> Path:
        """The second half of evolution depends on how many are judged in all."""
        many = f"-{self.options.judged}" if arm.startswith("evolution") else ""
        name = f"judged-{arm.replace(' ', '-')}{many}{self.suffix}-{self.seed}.csv"
        return Path(self.options.folder / name)

    def _read(self, arm: str) -> list[Judged]:
        if not self._path(arm).is_file():
            return []
        rows = []
        for row in pd.read_csv(self._path(arm)).to_dict("records"):
            known = {str(k): row.pop(k) for k in ("kept", "gmacs", "val_top1", "ask_seconds")}
            rows.append(Judged({str(k): v for k, v in row.items() if v == v}, **known))
        return rows

    def _write(self, arm: str, rows: list[Judged]) -> None:
        known = [{k: v for k, v in vars(one).items() if k != "point"} for one in rows]
        table = [one.point | extra for one, extra in zip(rows, known, strict=True)]
        pd.DataFrame(table).to_csv(self._path(arm), index=False)


def first_points() -> list[Point]:
    """What every arm judges first, by the global ranking."""
    smallest = {name: getattr(SMALLEST, name) for name in DIMENSIONS}
    return [*(dict.fromkeys(DIMENSIONS, share) for share in UNIFORM), smallest]


def sampled(
    make: Callable[[int], BaseSampler],
    extra: Sequence[str],
    rows: list[Judged],
    seed: int,
    total: int,
) -> list[Point]:
    """What a sampler of Optuna proposes, asked as `sweeps.proposals` asks it."""
    del total
    space = {name: FloatDistribution(getattr(SMALLEST, name), 1.0) for name in DIMENSIONS}
    space |= {name: FloatDistribution(-REACH, REACH) for name in extra}
    study = optuna.create_study(sampler=make(seed), directions=DIRECTIONS)
    for one in rows:
        point = dict.fromkeys(space, 0.0) | one.point
        values = [one.val_top1, one.gmacs]
        study.add_trial(create_trial(values=values, params=point, distributions=dict(space)))
    return [dict(study.ask(dict(space)).params) for _ in range(BATCH)]


def evolved(moves_blocks: bool, rows: list[Judged], seed: int, total: int) -> list[Point]:
    """The first half as `global`; then mutations of networks of the front."""
    if len(rows) < total // 2:
        return sampled(tpe, (), rows, seed, total)
    random, front = np.random.default_rng(seed), non_dominated(rows)
    points = []
    for _ in range(BATCH):
        child = dict(front[random.integers(len(front))].point)
        if moves_blocks and random.random() < 0.5:
            move_between_blocks(child, random)
        else:
            change_budget(child, random)
        points.append(child)
    return points


def move_between_blocks(child: Point, random: np.random.Generator) -> None:
    """Raise the ranks of one block and lower those of another, in one dimension."""
    dimension = DIMENSIONS[random.integers(len(DIMENSIONS))]
    by = STEP * abs(random.normal())
    for block, sign in zip(random.choice(DEPTH, 2, replace=False), (1, -1), strict=True):
        name = f"{dimension}_{block}"
        child[name] = child.get(name, 0.0) + sign * by


def change_budget(child: Point, random: np.random.Generator) -> None:
    for name in DIMENSIONS:
        share = child[name] + BUDGET_STEP * random.normal()
        child[name] = float(np.clip(share, getattr(SMALLEST, name), 1.0))


def ranks_of(ranking: Scores) -> Scores:
    """Every score replaced by its place in its dimension's global order: 0 worst, 1 best.

    Token scores are made monotone in depth first, as `slim.ranking.select` does.
    """
    tokens = torch.stack(ranking.tokens).double().flip(0).cummax(dim=0).values.flip(0)
    return Scores(*(ranked(part) for part in (tokens.unbind(), ranking.mhsa, ranking.mlp)))


def ranked(scores: Sequence[Tensor]) -> tuple[Tensor, ...]:
    flat = torch.cat([block.flatten() for block in scores]).double()
    order = torch.sort(flat, descending=True, stable=True).indices
    ranks = torch.empty_like(flat)
    ranks[order] = torch.linspace(1, 0, len(flat), dtype=flat.dtype)
    parts = ranks.split([block.numel() for block in scores])
    return tuple(part.view(block.shape) for part, block in zip(parts, scores, strict=True))


def shifted(ranks: Scores, point: Point) -> Scores:
    """Ranks with the offsets of a point added, block by block."""
    return Scores(
        *(
            tuple(
                block + offset
                for block, offset in zip(
                    getattr(ranks, name), offsets_of(point, name).tolist(), strict=True
                )
            )
            for name in DIMENSIONS
        )
    )


def offsets_of(point: Point, dimension: str) -> np.ndarray:
    """(depth,), of mean 0: their own, a line and a parabola over depth."""
    depth = np.linspace(-1, 1, DEPTH)
    own = np.array([point.get(f"{dimension}_{block}", 0.0) for block in range(DEPTH)])
    line = point.get(f"{dimension}_tilt", 0.0) * depth
    offsets = own + line + point.get(f"{dimension}_curve", 0.0) * depth**2
    return np.asarray(offsets - offsets.mean())


def kept_of(architecture: slim.Architecture) -> str:
    """The parts kept in every block and dimension; as blocks are nested, they name the network."""
    blocks = range(architecture.spec.depth)
    counts = [
        [len(kept) for kept in architecture.tokens],
        [architecture.dims_in(block) for block in blocks],
        [len(kept) for kept in architecture.units],
    ]
    return "|".join(" ".join(map(str, dimension)) for dimension in counts)


def tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed, n_startup_trials=START, multivariate=True)


def gp(seed: int) -> BaseSampler:
    return GPSampler(seed=seed, n_startup_trials=START)


def uniformly(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


DEPTH = 6
TILTS = tuple(f"{name}_{form}" for name in DIMENSIONS for form in ("tilt", "curve"))
BLOCKS = tuple(f"{name}_{block}" for name in DIMENSIONS for block in range(DEPTH))
ARMS: dict[str, Callable[[list[Judged], int, int], list[Point]]] = {
    "global": partial(sampled, tpe, ()),
    "tilt": partial(sampled, tpe, TILTS),
    "blocks": partial(sampled, tpe, BLOCKS),
    "evolution": partial(evolved, True),
    "evolution of budgets": partial(evolved, False),
    "gp": partial(sampled, gp, ()),
    "random": partial(sampled, uniformly, ()),
}


if __name__ == "__main__":
    main()
