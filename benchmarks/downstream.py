"""Print the README's table of a finished run's networks on other tasks, as Markdown.

    python run_sweep.py --name three --tasks digits,fashion-mnist,animal-mnist --transfer.seeds 3
    python benchmarks/downstream.py runs/three

Means over the seeds, with the sample standard deviation where there are several; below, whether
the order of the networks on the source task's val, on a front that of their MACs, holds on each of
the others (Kendall's tau).
"""

import argparse
import math
from pathlib import Path

import pandas as pd

from analysis import wording
from analysis.transfer import DENSE, TransferData, transfer_data
from benchmarks.markdown_table import markdown_table
from slim.serving import load_about

DENSE_TRIAL = "0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--method", default="finetune")
    arguments = parser.parse_args()
    trials = pd.read_csv(arguments.run / "trials.csv", dtype={"trial": str})
    transfer = pd.read_csv(arguments.run / "transfer.csv", dtype={"trial": str})
    chosen = transfer[transfer["method"] == arguments.method]
    if chosen.empty:
        parser.error(f"{arguments.run} has no transfers by {arguments.method}")
    data, dense = transfer_data(chosen, trials), load_about(arguments.run / "dense")
    print(markdown_table(downstream_table(data, trials, dense[f"{data.split}_top1"])))


def downstream_table(data: TransferData, trials: pd.DataFrame, dense_top1: float) -> pd.DataFrame:
    """One row per network, dearest first, and one of rank correlations; one column per task.

    Costs are those on the source task: a head for another number of classes costs a little
    more or less.

    Args:
        data: Transfers by one method.
        trials: The columns of `trials.csv`, with `trial` as text.
        dense_top1: Of the dense model on the source task, in percent.
    """
    costs = trials.set_index("trial")["gmacs"].to_dict()
    source = trials.set_index("trial")[f"{data.split}_top1"].to_dict() | {DENSE: dense_top1}
    tasks = sorted(data.networks["task"].unique())
    rows = []
    for trial, group in data.networks.groupby("trial"):
        number = DENSE_TRIAL if trial == DENSE else str(trial)
        row = {
            "network": DENSE if trial == DENSE else f"trial {trial}",
            "gmacs": costs[number],
            "source": wording.top1(source[str(trial)]),
        }
        told = {str(one["task"]): _accuracy(one) for one in group.to_dict("records")}
        rows.append(row | {task: told.get(task, wording.MISSING) for task in tasks})
    table = pd.DataFrame(rows).sort_values(["gmacs", "network"], ascending=[False, True])
    shares = table["gmacs"] / costs[DENSE_TRIAL]
    table.insert(2, "of dense", [wording.share(share) for share in shares])
    table["gmacs"] = [wording.number(cost) for cost in table["gmacs"]]
    table.loc[len(table)] = _correlations(data, list(table.columns))
    names = {task: f"{task}, {data.split} %" for task in tasks}
    return table.rename(columns={"gmacs": "GMACs", "source": f"source, {data.split} %"} | names)


def _accuracy(one: dict[str, object]) -> str:
    spread = float(str(one["spread"]))
    told = wording.top1(float(str(one["top1"])))
    return f"{told} ± {spread:.2f}" if math.isfinite(spread) else told


def _correlations(data: TransferData, columns: list[str]) -> list[str]:
    """The last row: tau under each task, over the slimmed networks."""
    taus = dict(zip(data.correlation["task"], data.correlation["tau"], strict=True))
    told = {task: f"{tau:+.2f}" for task, tau in taus.items() if math.isfinite(tau)}
    return ["Kendall's τ" if c == "network" else told.get(c, wording.MISSING) for c in columns]


if __name__ == "__main__":
    main()
