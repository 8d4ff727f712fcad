"""How many images of val judging needs, and what reading its accuracies together is worth.

    python benchmarks/judged_images.py runs/benchmarks/front_quality/run-default-40-1

Cuts the networks that a finished run judged again, and evaluates each on all images of val and of
test. Then it judges them on fewer images, drawn by chance many times, and takes what each scored,
or what all scores together tell of each (`sweeps/pooled.py`): Kendall's tau with accuracy on test,
the hypervolume on test of the front that this tells (in percent of the box from chance at 1.1
times the dense MACs to 100 % at no cost), and top-1 on test of that front's most accurate network
within a share of the dense MACs. Means over the draws. What a study would have asked for otherwise
is not in it: the networks are those of the run.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fashion import console
from front_tables import LEVELS
from machine import machine
from markdown_table import markdown_table
from scipy.stats import kendalltau
from torch import nn

import slim
from sweeps.front import covered
from sweeps.judged_networks import JudgedNetworks
from sweeps.pooled import smoothed
from sweeps.space import DIMENSIONS

DRAWS = 40


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders STORAGE/NAME")
    sizes = [750, 1000, 1500, 2000, 4000]
    parser.add_argument("--images", type=int, nargs="+", default=sizes, help="of val; all joins")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console.print(machine())
    for run in options.runs:
        console.print(f"{run.name}:")
        print(markdown_table(table(run, options.images)), flush=True)


def table(run: Path, sizes: list[int]) -> pd.DataFrame:
    """A row for each number of images."""
    networks = JudgedNetworks(str(run))
    judged = pd.read_csv(run / "judged.csv")
    budgets = [slim.Budget(row.tokens, row.mhsa, row.mlp) for row in judged.itertuples()]
    right, test = [], []
    for budget in budgets:
        vit = networks.cut(budget)
        right.append(answers(vit, networks, "val"))
        test.append(100 * answers(vit, networks, "test").mean())
    known, gmacs = np.stack(right), judged["gmacs"].to_numpy()
    shares = judged[list(DIMENSIONS)].to_numpy()
    dense = slim.count(slim.load(run / "dense").architecture).macs / 1e9
    chance = 100 / networks.task.num_classes
    every = known.shape[1]
    rows = []
    for images in [*(size for size in sizes if size < every), every]:
        alone = [outcome(known, images, draw) for draw in range(DRAWS if images < every else 1)]
        for read, draws in (
            ("alone", alone),
            ("together", [smoothed(shares, one) for one in alone]),
        ):
            fronts = [front(one, gmacs) for one in draws]
            points = [[(test[i], gmacs[i]) for i in kept] for kept in fronts]
            volumes = [covered(kept, chance, dense) for kept in points]
            tau = np.mean([kendalltau(one, test).statistic for one in draws])
            row = {
                "images": images,
                "read": read,
                "Kendall's tau": f"{tau:.3f}",
                "hypervolume on test": f"{np.mean(volumes):.2f} ± {np.std(volumes):.2f}",
            }
            for level in LEVELS:
                best = [[p for p in kept if p[1] <= level * dense][-1][0] for kept in points]
                row[f"{level:.0%}"] = f"{np.mean(best):.2f}"
            rows.append(row)
    return pd.DataFrame(rows)


@torch.no_grad()
def answers(vit: nn.Module, networks: JudgedNetworks, split: str) -> np.ndarray:
    """Whether a network is right on each image of a split."""
    vit.eval()
    batches = networks.task.eval_batches(split, networks.preprocessing, 256)
    return torch.cat([vit(images).argmax(-1) == labels for images, labels in batches]).numpy()


def outcome(right: np.ndarray, images: int, seed: int) -> np.ndarray:
    """Percent that each network has right of so many images, drawn by chance: (networks,)."""
    drawn = np.random.default_rng(seed).permutation(right.shape[1])[:images]
    accuracy: np.ndarray = 100 * right[:, drawn].mean(axis=1)
    return accuracy


def front(accuracy: np.ndarray, gmacs: np.ndarray) -> list[int]:
    """The networks that are more accurate than all cheaper ones, cheapest first."""
    kept: list[int] = []
    for index in np.argsort(gmacs, kind="stable"):
        if not kept or accuracy[index] > accuracy[kept[-1]]:
            kept.append(int(index))
    return kept


if __name__ == "__main__":
    main()
