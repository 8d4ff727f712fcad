"""How well it can be foretold what training makes of a judged network.

    python benchmarks/regained.py runs/benchmarks/front_quality/run-default-40-?

Goes through the trials of finished runs in their order. Of each whose budget was judged it
foretells top-1 on val after training, and compares that with what training made of it: by nothing
but how it was judged, measured against the dense budget; by the mean gain of the trials before it,
added to how it was judged; by the shares of their losses that they regained, one mean share for
all, and a share that is the smaller the more was lost (`sweeps/regained.py`). Mean and median of
the errors, in points. Beside them the shares that all trials tell, of a small loss and of one down
to chance. Trials whose budget was not judged are left out.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from fashion import console
from machine import machine
from markdown_table import markdown_table

import slim
from slim import Budget
from sweeps.pooled import smoothed
from sweeps.proposals import Observation
from sweeps.regained import Regained
from sweeps.space import DIMENSIONS
from sweeps.trials import COMPLETE

WAYS = ("as judged", "mean gain", "one share", "shares")


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
    classes = int(slim.load(run / "dense").num_classes)  # type: ignore[arg-type]
    untold = Regained(dense["judged"], dense["val_top1"], 100 / classes)
    errors: dict[str, list[float]] = {
        "as judged": [],
        "mean gain": [],
        "one share": [],
        "shares": [],
    }
    for number, (before, after) in enumerate(pairs):
        told = pairs[:number]
        lost = dense["judged"] - before
        gain = float(np.mean([b - a for a, b in told])) if told else 0.0
        share = 1 - float(np.mean([left(untold, *pair) for pair in told])) if told else 0.5
        foretold = untold.told_by(told).foretold(Observation(Budget(), before, 0.0))
        guesses = (
            dense["val_top1"] - lost,
            before + gain,
            dense["val_top1"] - (1 - share) * lost,
            float(foretold.val_top1 or 0.0),
        )
        for name, guess in zip(errors, guesses, strict=True):
            errors[name].append(abs(guess - after))
    told_by_all = untold.told_by(pairs)
    row: dict[str, object] = {"run": run.name, "networks": len(pairs)}
    row["regained"] = f"{told_by_all.of_little:.2f} to {told_by_all.of_all:.2f}"
    for name, missed in errors.items():
        row[name] = f"{np.mean(missed):.2f}, {np.median(missed):.2f}"
    return row


def left(regained: Regained, before: float, after: float) -> float:
    """The part of its loss that a network was left with, 0 to 1."""
    return min(max((regained.dense_top1 - after) / max(regained.dense - before, 1.0), 0.0), 1.0)


if __name__ == "__main__":
    main()
