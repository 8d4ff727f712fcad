"""How weights are best shared: which budgets a step draws, how many, learning rate and length.

    python benchmarks/sharing.py --seeds 0 1 2

Every arm trains the searched weights of its seed (see small_vit.py) with the largest, the smallest
and random networks in each step, at equal compute: that of `--epochs` of the arm `uniform`, in
MACs x images, a forward pass counted once, a training step three times, and the teacher. Then
twelve fixed budgets are evaluated untrained, on 3,000 images held out. Kept as measured.

- `uniform` draws each dimension's budget uniformly, `MACs` such that the cost is uniform, `small`
  nearer the smallest (squares of uniform draws).
- `between blocks` is `uniform`, with each random network's budget moved between blocks as well
  (see per_block.py, whose `--shared` can then judge on these weights).
- `two networks` draws two random networks a step, and takes fewer steps.
- `lr ...` have another learning rate (else 1e-3); `half`, `double` other compute.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fashion import show
from machine import machine
from per_block import BLOCKS, ranks_of, shifted
from small_vit import (
    SHARE_RECIPE,
    SMALLEST,
    accuracy_on,
    dense_gmacs,
    hypervolume,
    mean_and_error,
    options_of,
    share,
    small_dense,
    small_search,
    small_task,
)
from torch import Tensor, nn

import slim
from slim.distillation import mixed_loss, soft_outputs
from slim.ranking import select
from slim.sharing import SharedModel
from slim.tasks import ArrayTask
from slim.training import Objective

LOWEST = np.array([SMALLEST.tokens, SMALLEST.mhsa, SMALLEST.mlp])
POOL, BINS = 2000, 20  # budgets of known cost, and levels of cost
JUDGED = 12
WEIGHT, TEMPERATURE = 0.9, 2.0
OFFSET = 0.1  # standard deviation of a block's offset, in shares of a dimension's ranks

# Draws a network by numpy's random state, which a training seeds at each step.
Draw = Callable[[], slim.Architecture]


@dataclass(frozen=True)
class Arm:
    """One way to share; `compute` is a multiple of the others'."""

    draw: str = "uniform"
    networks: int = 1
    lr: float = SHARE_RECIPE.lr
    compute: float = 1.0


ARMS = {
    "uniform": Arm(),
    "MACs": Arm("MACs"),
    "small": Arm("small"),
    "between blocks": Arm("between blocks"),
    "two networks": Arm(networks=2),
    "lr 5e-4": Arm(lr=5e-4),
    "lr 2e-3": Arm(lr=2e-3),
    "half": Arm(compute=0.5),
    "double": Arm(compute=2.0),
}


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--epochs", type=int, default=4, help="of `uniform`")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task = small_task(options.data)
    rows = [
        {"arm": arm, "seed": seed, **measured(task, options, seed, arm)}
        for seed in options.seeds
        for arm in options.arms
    ]
    title = f"Untrained top-1 of {JUDGED} budgets, on {machine()}"
    show(title, mean_and_error(pd.DataFrame(rows), "arm"))


def measured(
    task: ArrayTask, options: argparse.Namespace, seed: int, name: str
) -> dict[str, float]:
    """Mean accuracy, that of the dearer and of the cheaper half, hypervolume, images seen."""
    search = small_search(task, options.folder, seed)
    images = images_of(search, ARMS[name], options.epochs * task.size("train"))
    saved = options.folder / f"sharing-{name.replace(' ', '-')}-{options.epochs}-{seed}"
    if not (saved / "accuracies.csv").is_file():
        shared = trained(task, options, seed, ARMS[name], images, saved)
        evaluated(shared, task).to_csv(saved / "accuracies.csv", index=False)
    frame = pd.read_csv(saved / "accuracies.csv").sort_values("gmacs")
    networks = frame.iloc[:-1]  # the dense one is the dearest
    cheap, dear = networks.top1[: JUDGED // 2], networks.top1[JUDGED // 2 :]
    points = list(zip(frame.top1, frame.gmacs, strict=True))
    return {
        "mean": networks.top1.mean(),
        "cheaper six": cheap.mean(),
        "dearer six": dear.mean(),
        "full size": frame.top1.iloc[-1],
        "hypervolume": hypervolume(points, dense_gmacs(search)),
        "epochs seen": images / task.size("train"),
    }


def trained(
    task: ArrayTask, options: argparse.Namespace, seed: int, arm: Arm, images: int, saved: Path
) -> slim.MaskCheckpoint:
    """One long epoch, in which every training image comes equally often, give or take one."""
    if (saved / "checkpoint.json").is_file():
        return slim.MaskCheckpoint.load(saved)
    search = small_search(task, options.folder, seed)
    teacher = small_dense(task, options.folder, seed)
    objective = drawn_sandwich(teacher, DRAWS[arm.draw](search), arm.networks)
    recipe = replace(
        SHARE_RECIPE,
        epochs=1,
        lr=arm.lr,
        warmup_epochs=SHARE_RECIPE.warmup_epochs * task.size("train") / images,
    )
    share(search, repeated(task, images), objective, recipe, seed, saved)
    return slim.MaskCheckpoint.load(saved)


def drawn_sandwich(teacher: nn.Module, draw: Draw, networks: int) -> Objective:
    """As `slim.sharing.sandwich`, with budgets drawn otherwise."""

    def objective(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        assert isinstance(model, SharedModel)
        ends = [model.select(budget) for budget in (slim.Budget(), SMALLEST)]
        soft = soft_outputs(teacher.eval(), images, TEMPERATURE)
        logits = model(images, [*ends, *(draw() for _ in range(networks))])
        losses = [mixed_loss(each, targets, soft, WEIGHT, TEMPERATURE) for each in logits]
        return torch.stack(losses).mean()

    return objective


def uniform(search: slim.MaskCheckpoint) -> Draw:
    return lambda: search.select(between(np.random.rand(3)))


def small(search: slim.MaskCheckpoint) -> Draw:
    return lambda: search.select(between(np.random.rand(3) ** 2))


def between_blocks(search: slim.MaskCheckpoint) -> Draw:
    """Uniform budgets, with normal offsets of every block's ranks."""
    ranks = ranks_of(search.ranking)

    def draw() -> slim.Architecture:
        budget = between(np.random.rand(3))
        offsets = OFFSET * np.random.randn(len(BLOCKS))
        return select(search.spec, shifted(ranks, dict(zip(BLOCKS, offsets, strict=True))), budget)

    return draw


def uniform_in_macs(search: slim.MaskCheckpoint) -> Draw:
    """A level of cost, then one of the budgets in it."""
    random = np.random.default_rng(0)
    pool = [search.select(between(random.random(3))) for _ in range(POOL)]
    costs = np.array([slim.count(architecture).macs for architecture in pool])
    bins = (BINS * (costs - costs.min()) / (np.ptp(costs) + 1)).astype(int)
    levels = [np.flatnonzero(bins == level) for level in np.unique(bins)]

    def draw() -> slim.Architecture:
        level = levels[np.random.randint(len(levels))]
        return pool[level[np.random.randint(len(level))]]

    return draw


DRAWS = {
    "uniform": uniform,
    "MACs": uniform_in_macs,
    "small": small,
    "between blocks": between_blocks,
}


def between(shares: np.ndarray) -> slim.Budget:
    """A budget by its shares (3,) of the way from the smallest to the dense one."""
    return slim.Budget(*(LOWEST + (1 - LOWEST) * shares).tolist())


def images_of(search: slim.MaskCheckpoint, arm: Arm, images: int) -> int:
    """How many images an arm sees for the compute of so many of the arm `uniform`."""
    share_of = arm.compute * step_macs(search, Arm()) / step_macs(search, arm)
    return round(images * share_of)


def step_macs(search: slim.MaskCheckpoint, arm: Arm) -> float:
    """Mean MACs of a step's image: three passes through each network, one of the teacher."""
    np.random.seed(0)
    draw = DRAWS[arm.draw](search)
    drawn = np.mean([slim.count(draw()).macs for _ in range(500)])
    dense, smallest = (slim.count(search.select(b)).macs for b in (slim.Budget(), SMALLEST))
    return float(3 * (dense + smallest + arm.networks * drawn) + dense)


def repeated(task: ArrayTask, images: int) -> ArrayTask:
    """The task with so many images in its train split, each equally often, give or take one."""
    split = np.random.default_rng(0).permutation(task.splits["train"])
    splits = task.splits | {"train": np.resize(split, images)}
    return ArrayTask(task.name, task.images, task.labels, task.classes, splits)


def evaluated(shared: slim.MaskCheckpoint, task: ArrayTask) -> pd.DataFrame:
    """Cost and top-1 of the fixed budgets' networks and of the full-size one."""
    random = np.random.default_rng(12)
    budgets = [*(between(random.random(3)) for _ in range(JUDGED - 1)), SMALLEST, slim.Budget()]
    rows = []
    for budget in budgets:
        architecture = shared.select(budget)
        top1 = accuracy_on(slim.extract(shared, architecture), task, "test")
        rows.append({"gmacs": slim.count(architecture).macs / 1e9, "top1": top1})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
