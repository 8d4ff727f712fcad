"""The paper's way in front_quality.py: one search, then every budget retrained alone.

The search is ViT-Slim's (arXiv 2201.00814): tanh token masks, its penalties and no distillation;
its masks learn at 20 times the weights' rate, without which they do not rank in a short search.
Networks start from the masked weights as in the paper's code: what is kept has its mask set to 1
instead of folded in. The retraining has the paper's cosine schedule and weight decay, but the
optimizer and learning rate of the default, so that what they gain is not counted for the default;
its length is fixed beforehand on one budget.
"""

from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from front_points import Course
from front_setting import (
    RETRAIN_LENGTHS,
    TRAIN,
    Setting,
    longest_that_pays,
    read_points,
    run_jobs,
    train_point,
)

import slim
from slim.recipe import Recipe
from slim.search import Penalty, search_training
from slim.sharing import random_budgets
from slim.tasks import Augmentation
from sweeps.config import SpaceConfig
from sweeps.space import smallest_budget
from sweeps.stage_config import FinetuneConfig

GRID, RANDOM = "paper's way", "random budgets"
SEARCH = Recipe(
    lr=5e-4,
    weight_decay=1e-3,
    sched="constant",
    label_smoothing=0.1,
    clip_grad=0.0,
    augmentation=Augmentation(affine=True),
)
FINETUNING = FinetuneConfig()
RETRAINING = replace(
    SEARCH, opt=FINETUNING.opt, lr=FINETUNING.lr, weight_decay=0.05, sched="cosine"
)
WARMUP = 5 / 300  # share of the retraining, as in DeiT's recipe
PENALTY, MASK_LR = Penalty(tokens=0.2352, mhsa=0.9216, mlp=0.9216), 20 * SEARCH.lr
PROBED = slim.Budget(0.5, 0.5, 0.5)
COARSE = ((0.9, 0.7, 0.5, 0.3, 0.2), (1.0, 0.7))  # MHSA = MLP, tokens: the first ten
FINE = ((0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2), (1.0, 0.85, 0.7, 0.55, 0.4))


def grid_budgets() -> list[slim.Budget]:
    """The grid of 40, as the paper's tables have it; its coarse part of ten comes first."""
    pairs = dict.fromkeys([*product(*COARSE), *product(*FINE)])
    return [slim.Budget(tokens, width, width) for width, tokens in pairs]


def budgets_of(arm: str, seed: int, networks: int) -> list[slim.Budget]:
    """What an arm retrains."""
    if arm == GRID:
        return grid_budgets()[:networks]
    np.random.seed(seed)
    return random_budgets(smallest_budget(SpaceConfig()), networks)


def retraining(epochs: int) -> Recipe:
    """The recipe of a retraining of so many epochs."""
    return replace(RETRAINING, epochs=epochs, warmup_epochs=WARMUP * epochs)


def search_all(setting: Setting) -> None:
    """The paper's search on the dense model of every seed."""
    recipes = {"search": asdict(SEARCH), "retraining": asdict(RETRAINING)}
    setting.hold("retrain", recipes | {"penalty": asdict(PENALTY), "mask_lr": MASK_LR})
    run_jobs(setting, [(search, setting, seed) for seed in setting.seeds])


def decide_epochs(setting: Setting) -> int:
    """For how many epochs retraining pays, on one budget; at most six times the search's."""
    known = setting.recall("retrain_epochs")
    if known:
        return int(known)
    accuracies: dict[int, list[float]] = {}
    for epochs in (times * setting.epochs for times in RETRAIN_LENGTHS):
        folder = setting.folder / "retrain-lengths" / str(epochs)
        jobs = [
            (retrain, setting, seed, PROBED, folder / f"{seed}.json", epochs)
            for seed in setting.seeds
        ]
        run_jobs(setting, jobs)
        accuracies[epochs] = [float(p.val_top1 or 0.0) for p in read_points(folder)]
        if longest_that_pays(accuracies) != epochs:
            break
    return setting.decide("retrain_epochs", accuracies)


def retrain_jobs(setting: Setting, arm: str, networks: int, epochs: int) -> list[tuple]:
    """The networks of an arm that are not trained yet."""
    jobs = [
        (retrain, setting, seed, budget, _folder(setting, arm, seed) / f"{number}.json", epochs)
        for seed in setting.seeds
        for number, budget in enumerate(budgets_of(arm, seed, networks))
    ]
    return [job for job in jobs if not job[4].is_file()]


def course(setting: Setting, arm: str, seed: int, networks: int) -> Course:
    """What an arm did from the dense weights of a seed."""
    task, dense = setting.task(), setting.dense_point(seed)
    seen = task.steps_per_epoch(SEARCH.batch_size) * SEARCH.batch_size
    each = (TRAIN * seen + task.size("val")) * dense.gmacs
    points = read_points(_folder(setting, arm, seed))[:networks]
    chance = 100 / task.num_classes
    return Course(arm, seed, setting.epochs * each, 0.0, dense, chance, points)


def search(setting: Setting, seed: int) -> None:
    """The paper's search, kept as a mask checkpoint."""
    folder = _searched(setting, seed)
    if folder.is_dir():
        return
    torch.manual_seed(seed)
    masked = slim.attach_masks(setting.dense(seed), "tanh")
    recipe = replace(SEARCH, epochs=setting.epochs)
    task, preprocessing = setting.task(), setting.preprocessing(seed)
    training = search_training(masked, task, preprocessing, recipe, PENALTY, MASK_LR, seed=seed)
    for _ in training.resumable_epochs(folder.with_suffix(".pt")):
        pass
    slim.MaskCheckpoint.from_model(masked).save(folder)


def retrain(setting: Setting, seed: int, budget: slim.Budget, path: Path, epochs: int) -> None:
    """Retrain one budget from the searched weights, and write its point."""
    if path.is_file():
        return
    searched = slim.MaskCheckpoint.load(_searched(setting, seed))
    ones = searched.masks.map(torch.ones_like)
    unfolded = replace(searched, masks=ones, scores=searched.ranking)
    architecture = unfolded.select(budget)
    gmacs = slim.count(architecture).macs / 1e9
    torch.manual_seed(seed)
    vit = slim.extract(unfolded, architecture)
    train_point(setting, seed, vit, path, gmacs, retraining(epochs))


def _searched(setting: Setting, seed: int) -> Path:
    return setting.folder / f"paper-search-{seed}"


def _folder(setting: Setting, arm: str, seed: int) -> Path:
    name = {GRID: "paper", RANDOM: "random"}[arm]
    return setting.folder / f"{name}-{seed}"
