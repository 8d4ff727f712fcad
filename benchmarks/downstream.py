"""Print the README's table of a finished run's networks on other tasks.

    python run_sweep.py --name three --tasks digits,fashion-mnist,animal-mnist --transfer.seeds 3
    python benchmarks/downstream.py runs/three

Means over the seeds, with the sample standard deviation where there are several.
"""

import argparse
from pathlib import Path

import pandas as pd

from analysis import wording
from analysis.markdown import markdown_table
from analysis.transfer import transfer_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--method", default="finetune")
    arguments = parser.parse_args()
    trials = pd.read_csv(arguments.run / "trials.csv")
    transfer = pd.read_csv(arguments.run / "transfer.csv", dtype={"trial": str})
    chosen = transfer[transfer["method"] == arguments.method]
    print(markdown_table(downstream_table(chosen, trials)))


def downstream_table(transfer: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """One row per network, dearest first; one column per task."""
    data = transfer_data(transfer, trials)
    networks = data.networks
    dense = float(networks.loc[networks["trial"] == "dense", "gmacs"].max())
    rows = []
    for (gmacs, trial), group in networks.groupby(["gmacs", "trial"], sort=True):
        row = {
            "network": "dense" if trial == "dense" else f"trial {trial}",
            "GMACs": wording.number(gmacs),
            "of dense": wording.share(gmacs / dense),
        }
        for one in group.to_dict("records"):
            spread = f" ± {one['spread']:.2f}" if one["seeds"] > 1 else ""
            row[f"{one['task']}, {data.split} %"] = wording.top1(one["top1"]) + spread
        rows.append(row)
    return pd.DataFrame(rows[::-1])


if __name__ == "__main__":
    main()
