"""Which optimizer trains best: the dense model, and subnetworks after their repair.

    python benchmarks/front_quality.py --epochs 2 --arms default
    python benchmarks/optimizers.py --epochs 2

On the data, dense models and searches of front_quality.py, in whose folder it goes on. Fresh dense
models are trained for `--dense-epochs`; networks of three budgets are extracted from the default's
search, repaired and fine-tuned as the default does, with another optimizer or learning rate alone.
Val decides, so its top-1 is told. `--epochs` and `--networks` are those of that run. Whatever is
finished is not done again.
"""

from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import torch
from fashion import console, show
from front_points import Point
from front_runs import DEFAULT, Run
from front_setting import (
    Setting,
    read_points,
    run_jobs,
    setting_arguments,
    setting_of,
    train_point,
)
from machine import machine
from small_vit import mean_and_error

import slim
from slim.distillation import distill_from
from slim.repair import repair_towards
from sweeps.config import SweepConfig
from sweeps.dense import make_dense
from sweeps.stage_config import DenseConfig, FinetuneConfig
from sweeps.untrained import calibration_for

RATES = {"muon": (2e-2, 1e-2, 5e-3, 2e-3), "adamw": (5e-3, 2e-3, 1e-3)}
ARMS = tuple((opt, lr) for opt, rates in RATES.items() for lr in rates)
BUDGETS = ((0.5, 0.15, 0.1), (0.75, 0.4, 0.35), (1.0, 0.8, 0.8))


def main() -> None:
    parser = setting_arguments(__doc__)
    parser.add_argument("--dense-epochs", type=int, default=24)
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = setting_of(options)
    if setting.recall("dense_epochs") is None:
        raise SystemExit(f"{setting.folder} has no dense models; run front_quality.py in it first")
    recipes = {"dense": asdict(DenseConfig()), "finetune": asdict(FinetuneConfig())}
    setting.hold("optimizers", {"data": setting.data, "budgets": BUDGETS} | recipes)
    each = [(setting, *arm, seed) for arm in ARMS for seed in setting.seeds]
    fresh = [(train_fresh, *arm, options.dense_epochs) for arm in each]
    tuned = [(fine_tune, *arm, options.networks) for arm in each]
    run_jobs(setting, [job for job in fresh if not _fresh_point(*job[1:]).is_file()])
    run_jobs(setting, [job for job in tuned if len(_tuned_points(*job[1:-1])) < len(BUDGETS)])
    frame = pd.DataFrame(_row(*arm) for arm in each)
    means = mean_and_error(frame, "optimizer")
    console.print(f"{setting.data}, dense for {options.dense_epochs} epochs; on {machine()}")
    show("Top-1 on val by (tokens, MHSA, MLP); mean and standard error over seeds", means)


def train_fresh(setting: Setting, opt: str, lr: float, seed: int, epochs: int) -> None:
    """Train a dense model of a seed from fresh weights."""
    torch.manual_seed(seed)
    vit = make_dense(SweepConfig(data=setting.data), setting.task())
    recipe = replace(DenseConfig(), epochs=epochs, opt=opt, lr=lr).recipe()
    path = _fresh_point(setting, opt, lr, seed, epochs)
    train_point(setting, seed, vit, path, setting.dense_point(seed).gmacs, recipe)


def fine_tune(setting: Setting, opt: str, lr: float, seed: int, networks: int) -> None:
    """Fine-tune the networks of all budgets, cut from the search of the default's run."""
    run = setting.folder / Run(DEFAULT, seed, networks).name
    checkpoint, dense = slim.MaskCheckpoint.load(run / "search"), setting.dense(seed)
    options = replace(FinetuneConfig(), opt=opt, lr=lr)
    config = SweepConfig(data=setting.data, seed=seed, finetune=options)
    objective = distill_from(dense, options.distillation, options.temperature)
    teacher = setting.dense_point(seed).gmacs
    seen = setting.task(), setting.preprocessing(seed)
    for number, budget in enumerate(BUDGETS):
        path = _folder(setting, "tuned", opt, lr, seed) / f"{number}.json"
        if path.is_file():
            continue
        vit = slim.extract(checkpoint, checkpoint.select(slim.Budget(*budget)))
        repair_towards(vit, calibration_for(config, dense, *seen))
        gmacs = slim.count(vit.architecture).macs / 1e9
        train_point(setting, seed, vit, path, gmacs, options.recipe(), teacher, objective)


def _row(setting: Setting, opt: str, lr: float, seed: int) -> dict[str, object]:
    """What a seed gave with one optimizer."""
    row: dict[str, object] = {"optimizer": f"{opt} {lr:g}", "seed": seed}
    for point in read_points(_folder(setting, "dense", opt, lr, seed)):
        row[f"dense, {point.epochs} epochs"] = point.val_top1
    for point in _tuned_points(setting, opt, lr, seed):
        row[str(BUDGETS[point.network])] = point.val_top1
    return row


def _fresh_point(setting: Setting, opt: str, lr: float, seed: int, epochs: int) -> Path:
    return _folder(setting, "dense", opt, lr, seed) / f"{epochs}.json"


def _tuned_points(setting: Setting, opt: str, lr: float, seed: int) -> tuple[Point, ...]:
    return read_points(_folder(setting, "tuned", opt, lr, seed))


def _folder(setting: Setting, stage: str, opt: str, lr: float, seed: int) -> Path:
    return setting.folder / "optimizers" / f"{stage}-{opt}-{lr:g}-{seed}"


if __name__ == "__main__":
    main()
