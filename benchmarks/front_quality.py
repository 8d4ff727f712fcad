"""What a sweep's front is worth for the compute it took, part by part and against other ways.

    python benchmarks/front_quality.py --seeds 0 1 2 --trials 18

Every arm is a real run of run_sweep.py from the same dense weights of its seed: `default`; the
default with one part changed; and the paper's way (`paper`: its token masks, uniform budgets and
then random ones, each trained alone from the masked weights without repair or distillation).
Compute is counted in 1e9 MACs x images of search, sharing, judging and fine-tuning; a forward
pass counts once, a training step three times. The hypervolume of the front on val is the share of
the box between chance at 1.1 times the dense MACs and 100 % at no cost. A finished run is not
repeated, an interrupted one goes on.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from fashion import console, show
from machine import machine

import slim
from analysis.hypervolume import hypervolume_data
from slim.tasks import load_task

ROOT = Path(__file__).parents[1]
ALONE = ("--method", "retrain")
PAPER = (
    *ALONE,
    *("--search.token_mask", "tanh", "--judge.sampler", "random"),
    *("--finetune.repair_images", "0", "--finetune.distillation", "0"),
)
ARMS: dict[str, tuple[str, ...]] = {
    "default": (),
    "retrain": ALONE,
    "paper": PAPER,
    "random budgets": (*PAPER, "--space.uniform", "[]"),
    "no judging": ("--judge.budgets", "0"),
    "repair after sharing": ("--finetune.repair_images", "1024"),
    "no distillation": ("--finetune.distillation", "0", "--share.distillation", "0"),
    "share 4": ("--share.epochs", "4"),
    "fine-tune 4": ("--finetune.epochs", "4"),
    "gp": ("--judge.sampler", "gp"),
    "random judging": ("--judge.sampler", "random"),
}
LEVELS = (0.06, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8)
TRAIN = 3  # a forward pass and twice that backward


def main() -> None:
    options = arguments()
    rows = []
    for seed in options.seeds:
        dense = dense_folder(options, seed)
        for arm in options.arms:
            folder = finished_run(options, f"{slug(arm)}-{seed}", seed, dense, ARMS[arm])
            rows.append({"arm": arm, "seed": seed, **figures(folder, options.data)})
    frame = pd.DataFrame(rows)
    frame.to_csv(options.folder / "front_quality.csv", index=False)
    means = frame.drop(columns="seed").groupby("arm", sort=False)
    title = f"Mean over {len(options.seeds)} seeds, {options.trials} trials, on {machine()}"
    show(title, means.mean().reset_index())
    if len(options.seeds) > 1:
        show("Standard error", means.sem().reset_index())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="mnist", help="a source task of run_sweep.py")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/front_quality"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=18)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    return parser.parse_args()


def slug(arm: str) -> str:
    return arm.replace(" ", "-")


def dense_folder(options: argparse.Namespace, seed: int) -> Path:
    """The dense model of a seed: that of the default arm, which trains it as any run does."""
    return finished_run(options, f"default-{seed}", seed, None, ()) / "dense"


def finished_run(
    options: argparse.Namespace, name: str, seed: int, dense: Path | None, arm: tuple[str, ...]
) -> Path:
    """The folder of a run, which is begun or gone on with if it is not finished."""
    folder = options.folder.resolve() / name
    if (folder / "reports").is_dir():
        return folder
    where = ("--storage", str(folder.parent), "--cluster", "local")
    if (folder / "config.yaml").is_file():
        command = ["--resume", name, *where]
    else:
        database = f"sqlite:///{folder.parent / 'mlflow.db'}"
        command = ["--name", name, *where, "--tracking-uri", database, "--data", options.data]
        command += ["--tasks", "none", "--seed", str(seed), "--trials", str(options.trials), *arm]
        command += [] if dense is None else ["--model", str(dense), "--dense.epochs", "0"]
    console.print(f"{name}: {' '.join(command)}")
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_sweep.py"), *command], stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"{name} ended with code {done.returncode}: {done.stdout[-2000:]}")
    return folder


def figures(folder: Path, data: str) -> dict[str, Any]:
    """Hypervolume, compute, and test accuracy at levels of the dense MACs."""
    trials = pd.read_csv(folder / "trials.csv")
    dense = float(trials.gmacs[0])
    front = pd.read_csv(folder / "front.csv")
    volume = hypervolume_data(trials, load_task(data).num_classes).value[-1]
    judged = folder / "judged.csv"
    row: dict[str, Any] = {"hypervolume": 100 * volume, "compute": compute(folder, data)}
    row["judged front"] = judged_front(judged) if judged.is_file() else 0
    for level in LEVELS:
        fitting = front[front.gmacs <= level * dense]
        best = fitting.sort_values("val_top1").test_top1
        row[f"test at {level:.0%}"] = float(best.iloc[-1]) if len(best) else float("nan")
    return row


def judged_front(path: Path) -> int:
    """How many judged budgets no other one dominates."""
    judged = pd.read_csv(path).sort_values(["gmacs", "val_top1"], ascending=[True, False])
    return int((judged.val_top1 > judged.val_top1.cummax().shift(fill_value=-1)).sum())


def compute(folder: Path, data: str) -> float:
    """1e9 MACs x images of everything after the dense model."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    task, trials = load_task(data), pd.read_csv(folder / "trials.csv")
    train, val = task.size("train"), task.size("val")
    dense = float(trials.gmacs[0])
    search, share, tune = (config[name] for name in ("search", "share", "finetune"))
    spent = search["epochs"] * ((TRAIN + bool(search["distillation"])) * train + val) * dense
    if share["epochs"]:
        budgets = [(1.0, 1.0, 1.0), *mean_budgets(config, share["networks"])]
        checkpoint = slim.MaskCheckpoint.load(folder / "shared")
        macs = sum(slim.count(checkpoint.select(slim.Budget(*b))).macs for b in budgets) / 1e9
        teacher = dense * bool(share["distillation"])
        spent += share["epochs"] * ((TRAIN * macs + teacher) * train + dense * val)
    if (folder / "judged.csv").is_file():
        spent += val * float(pd.read_csv(folder / "judged.csv").gmacs.sum())
    teacher = dense * bool(tune["distillation"])
    each = (TRAIN * trials.gmacs + teacher) * train + trials.gmacs * val
    return spent + float((trials.epochs * each + trials.gmacs * val).sum())


def mean_budgets(config: dict[str, Any], networks: int) -> list[tuple[float, ...]]:
    """The smallest budget, and the middle one in place of each random one."""
    smallest = tuple(config["space"][f"{name}_min"] for name in ("tokens", "mhsa", "mlp"))
    middle = tuple((1 + low) / 2 for low in smallest)
    return [smallest, *[middle] * networks]


if __name__ == "__main__":
    main()
