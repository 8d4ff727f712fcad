"""How well it can be foretold what training makes of a judged network.

    python benchmarks/regained.py runs/benchmarks/front_quality/run-default-40-?

Goes through the trials of finished runs in their order. Of each whose budget was judged it
foretells top-1 on val after training, and compares that with what training made of it: by nothing
but how it was judged, measured against the dense budget; by the mean gain of the trials before it,
added to how it was judged; by the mean share of their losses that they regained; by the shares of
what was lost with tokens and with the rest (`sweeps/regained.py`). Mean and median of the errors,
in points. Beside them what all trials tell is left: of a tokens' loss of 10 points, of one of 30,
and of the rest. Trials whose budget was not judged are left out.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fashion import console
from machine import machine
from markdown_table import markdown_table

import slim
from slim import Budget
from sweeps.config import SweepConfig
from sweeps.pooled import smoothed
from sweeps.proposals import Observation
from sweeps.regained import Regained
from sweeps.space import DIMENSIONS, BudgetSpace
from sweeps.trials import COMPLETE

WAYS = ("as judged", "mean gain", "one share", "two shares")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders STORAGE/NAME that judged")
    options = parser.parse_args()
    console.print(machine())
    print(markdown_table(pd.DataFrame([outcome(run) for run in options.runs])))


def outcome(run: Path) -> dict[str, object]:
    """What a run's trials regained, and how far each way of foretelling it was off."""
    judged, trials = pd.read_csv(run / "judged.csv"), pd.read_csv(run / "trials.csv")
    shares = judged[list(DIMENSIONS)].to_numpy()
    judged["judged"] = smoothed(shares, judged["val_top1"].to_numpy())
    complete = trials[trials["state"] == COMPLETE]
    both = complete.merge(judged[[*DIMENSIONS, "judged"]], on=list(DIMENSIONS))
    both = both.sort_values("trial")
    dense = both.iloc[0] if len(both) else None
    if dense is None or dense["trial"] != 0 or dense["epochs"]:
        raise SystemExit(f"{run}: trial 0 is not the dense model as it stands, or was not judged")
    checkpoint = slim.MaskCheckpoint.load(run / "search")
    space = BudgetSpace(SweepConfig(), checkpoint.spec, checkpoint.ranking)
    untold = Regained.untold([observed(one) for one in judged.itertuples()], space, dense.val_top1)
    pairs = [(observed(one), float(one.val_top1)) for one in both.iloc[1:].itertuples()]
    errors: dict[str, list[float]] = {way: [] for way in WAYS}
    for number, (untrained, after) in enumerate(pairs):
        told = [(float(one.val_top1 or 0.0), top1) for one, top1 in pairs[:number]]
        before = float(untrained.val_top1 or 0.0)
        gain = float(np.mean([b - a for a, b in told])) if told else 0.0
        shares = [left_of(untold, *pair) for pair in told if untold.dense - pair[0] >= 1]
        left = (0.5 + sum(shares)) / (1 + len(shares))
        foretold = untold.told_by(pairs[:number]).foretold(untrained)
        guesses = (
            dense.val_top1 - (untold.dense - before),
            before + gain,
            dense.val_top1 - left * (untold.dense - before),
            float(foretold.val_top1 or 0.0),
        )
        for name, guess in zip(errors, guesses, strict=True):
            errors[name].append(abs(guess - after))
    little, more, rest = untold.told_by(pairs).left
    way = untold.dense - untold.chance
    row: dict[str, object] = {"run": run.name, "networks": len(pairs)}
    parts = (little + more * 10 / way, little + more * 30 / way, rest)
    row["left"] = ", ".join(f"{part:.2f}" for part in parts)
    for name, missed in errors.items():
        row[name] = f"{np.mean(missed):.2f}, {np.median(missed):.2f}"
    return row


def observed(row: Any) -> Observation:
    """A row of a table with how its network was judged."""
    return Observation(Budget(row.tokens, row.mhsa, row.mlp), float(row.judged), row.gmacs)


def left_of(regained: Regained, before: float, after: float) -> float:
    """The share of its loss that a network was left with, 0 to 1."""
    return min(max((regained.dense_top1 - after) / (regained.dense - before), 0.0), 1.0)


if __name__ == "__main__":
    main()
