"""How well it can be foretold what training makes of a judged network.

    python benchmarks/regained.py runs/benchmarks/front_quality/run-default-40-?

Goes through the trials of finished runs in their order. Of each whose budget was judged it
foretells top-1 on val after training, and compares that with what training made of it: by nothing
but how it was judged, measured against the dense budget; by the mean gain of the trials before it,
added to how it was judged; by the share of the loss that they regained (`sweeps/regained.py`).
Mean and median of the errors, in points. Beside them the mean share, and of the network that lost
most how much that was and what share of it was regained. Trials whose budget was not judged are
left out.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from fashion import console
from machine import machine
from markdown_table import markdown_table

from slim import Budget
from sweeps.pooled import smoothed
from sweeps.proposals import Observation
from sweeps.regained import Regained
from sweeps.space import DIMENSIONS
from sweeps.trials import COMPLETE


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
    pairs = list(both.iloc[1:][["judged", "val_top1"]].itertuples(index=False, name=None))
    untold = Regained(dense["judged"], dense["val_top1"])
    offset = dense["val_top1"] - dense["judged"]
    errors: dict[str, list[float]] = {"nothing": [], "the mean gain": [], "the share": []}
    for number, (before, after) in enumerate(pairs):
        told = pairs[:number]
        gain = float(np.mean([b - a for a, b in told])) if told else 0.0
        foretold = untold.told_by(told).foretold(Observation(Budget(), before, 0.0))
        guesses = (before + offset, before + gain, float(foretold.val_top1 or 0.0))
        for name, guess in zip(errors, guesses, strict=True):
            errors[name].append(abs(guess - after))
    row: dict[str, object] = {"run": run.name, "networks": len(pairs)}
    row["share regained"] = f"{untold.told_by(pairs).share:.2f}"
    before, after = min(pairs)  # of the network that lost most
    lost = dense["judged"] - before
    row["most lost"] = f"{lost:.0f}: {1 - (dense['val_top1'] - after) / lost:.2f}"
    for name, missed in errors.items():
        row[name] = f"{np.mean(missed):.2f}, {np.median(missed):.2f}"
    return row


if __name__ == "__main__":
    main()
