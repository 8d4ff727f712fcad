"""What the closed-form repair gives: accuracy before and after, and what was tried and lost.

    python benchmarks/repair.py --seeds 0 1 2

On Fashion-MNIST, from a mask search on the dense model of each seed (see fashion.py). "Gap
closed" is the share of the zero-shot gap to the dense model that repair closes.
"""

import argparse
import time
from typing import Any

import pandas as pd
import torch
from fashion import (
    RECIPE,
    accuracy,
    arguments,
    console,
    dense_model,
    fashion_task,
    preprocessing_of,
    searched_model,
    show,
)

import slim
from slim.tasks import ArrayTask

BUDGETS = ((1, 0.5, 0.5), (0.7, 0.5, 0.5), (0.5, 0.5, 0.5), (0.5, 0.3, 0.3))
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "mean into the bias": {"ridge": 1e9},
    "branch alone": {"memory": 0.0},
    "the stream's whole error": {"memory": 1.0},
    "ridge 0.1": {"ridge": 0.1},
    "ridge 0.001": {"ridge": 1e-3},
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=1024, help="calibration images")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task = fashion_task(options.data)
    frame = pd.DataFrame(row for seed in options.seeds for row in measure(task, options, seed))
    frame.to_csv(options.folder / "repair.csv", index=False)
    means = frame.groupby(["budget", "variant"], sort=False).mean(numeric_only=True)
    show("Repair, mean over seeds", means.drop(columns="seed").reset_index())
    default = frame[frame.variant == "default"]
    worst = (default.repaired - default.zero_shot).min()
    console.print(
        f"default: closes at least {100 * default.gap_closed.min():.0f} % of the gap, changes "
        f"accuracy by at least {worst:+.2f} points, takes at most {default.seconds.max():.1f} s"
    )


def measure(task: ArrayTask, options: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """One row for each budget and variant, from one seed's search."""
    dense = dense_model(task, options.folder, seed)
    checkpoint = searched_model(task, options.folder, seed, "search")
    batches = task.calibration_batches(
        preprocessing_of(task), RECIPE.augmentation, RECIPE.batch_size, options.images
    )
    images = [batch for batch, _ in batches]
    reference = accuracy(dense, task)
    rows = []
    for tokens, mhsa, mlp in BUDGETS:
        architecture = checkpoint.select(slim.Budget(tokens, mhsa, mlp))
        zero_shot = accuracy(slim.extract(checkpoint, architecture), task)
        for variant, choices in VARIANTS.items():
            vit = slim.extract(checkpoint, architecture)
            started = time.perf_counter()
            slim.repair(vit, dense, images, **choices)
            seconds = time.perf_counter() - started
            repaired = accuracy(vit, task)
            rows.append(
                {
                    "seed": seed,
                    "budget": f"{tokens:g}, {mhsa:g}, {mlp:g}",
                    "variant": variant,
                    "dense": reference,
                    "zero_shot": zero_shot,
                    "repaired": repaired,
                    "gap_closed": (repaired - zero_shot) / (reference - zero_shot),
                    "seconds": seconds,
                }
            )
    return rows


if __name__ == "__main__":
    main()
