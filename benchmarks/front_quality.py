"""What a sweep's front is worth for the compute it took, part by part and against other ways.

    python benchmarks/front_quality.py                     # three seeds: hours on two cores
    python benchmarks/front_quality.py --images 600 --more 0 --epochs 1 --networks 4 --seeds 0

On a fixed part of Fashion-MNIST, from the same dense ViT of 16 tokens for all arms of a seed,
trained as far as its accuracy rises. Of 10,000 images 7,000 are trained on; more serve val and
test alone, since on 1,500 images of each the arms differ by less than chance:

    default          run_sweep.py as it is, and what it judged before it trained (front_runs.py)
    paper            ViT-Slim's way: one search, a grid of budgets, each retrained alone from
                     masked weights, as long as accuracy rises, at most six
                     times the search (retrained_arms.py)
    random           random budgets in place of the grid
    torch-pruning    isomorphic, Taylor importance, as many epochs as the paper's way, without and
                     with distillation (torch_pruning_arm.py)
    parts            the default with one part switched off, or on where it is off (front_runs.py)

The default and the paper's way train `--networks` networks, the others `--fewer`. All training and
evaluation after the dense model is counted in 1e9 MACs x images (front_points.py). Whatever is
finished is not done again: a killed benchmark goes on where it was, to the step. Needs Debian's
dataset-fashion-mnist and the extra "benchmarks".
"""

import argparse

import front_runs
import pandas as pd
import retrained_arms
import torch
import torch_pruning_arm
from fashion import console, show
from front_curves import draw_courses
from front_points import Course
from front_runs import DEFAULT, PARTS, Run
from front_setting import (
    Setting,
    run_jobs,
    setting_arguments,
    setting_of,
    train_dense_models,
)
from front_tables import aims, early_ends, final_fronts, hypervolume_table, show_tables
from machine import machine
from retrained_arms import GRID, RANDOM
from torch_pruning_arm import DISTILLED, PLAIN

ARMS = ("default", "paper", "random", "torch-pruning", "parts")


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    setting = setting_of(options)
    setting.folder.mkdir(parents=True, exist_ok=True)
    train_dense_models(setting)
    many, few = options.networks, min(options.fewer, options.networks)
    courses: list[Course] = []
    for arm in options.arms:
        courses += finished(setting, arm, many, few)
        report(setting, courses, few)


def arguments() -> argparse.Namespace:
    parser = setting_arguments(__doc__)
    parser.add_argument("--fewer", type=int, default=10, help="networks of the other arms")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    return parser.parse_args()


def finished(setting: Setting, arm: str, many: int, few: int) -> list[Course]:
    """Train what an arm still misses, and what it did in each seed."""
    if arm == "default":
        runs = [Run(DEFAULT, seed, many) for seed in setting.seeds]
        trained = swept(setting, runs)
        run_jobs(setting, front_runs.judged_jobs(setting, runs))
        return [*trained, *(front_runs.judged_course(setting, run) for run in runs)]
    if arm == "parts":
        return swept(setting, [Run(part, seed, few) for part in PARTS for seed in setting.seeds])
    retrained_arms.search_all(setting)
    epochs = retrained_arms.decide_epochs(setting)
    if arm == "torch-pruning":
        names = (PLAIN, DISTILLED)
        run_jobs(setting, torch_pruning_arm.gradient_jobs(setting))
        jobs = [torch_pruning_arm.prune_jobs(setting, name, few, epochs) for name in names]
        run_jobs(setting, [job for of_arm in jobs for job in of_arm])
        return [
            torch_pruning_arm.course(setting, name, seed, few)
            for name in names
            for seed in setting.seeds
        ]
    name, networks = (GRID, many) if arm == "paper" else (RANDOM, few)
    run_jobs(setting, retrained_arms.retrain_jobs(setting, name, networks, epochs))
    return [retrained_arms.course(setting, name, seed, networks) for seed in setting.seeds]


def swept(setting: Setting, runs: list[Run]) -> list[Course]:
    """Runs of run_sweep.py, finished."""
    front_runs.finish_runs(setting, runs)
    return [front_runs.course(setting, run) for run in runs]


def report(setting: Setting, courses: list[Course], few: int) -> None:
    """Write the points and the picture of the arms so far, and print the tables."""
    rows = [row for course in courses for row in course.rows()]
    pd.DataFrame(rows).to_csv(setting.folder / "front_quality.csv", index=False)
    draw_courses(courses).write_html(setting.folder / "front_quality.html")
    console.print(
        f"{setting.data}, seeds {', '.join(map(str, setting.seeds))}; epochs: dense "
        f"{setting.recall('dense_epochs')}, search {setting.epochs}, retraining "
        f"{setting.recall('retrain_epochs')}; on {machine()}"
    )
    show_tables(hypervolume_table(courses, few), final_fronts(courses))
    if not (ends := early_ends(courses)).empty:
        show("The default, had it been run with --patience", ends)
    for line in aims(courses, few):
        console.print(line)


if __name__ == "__main__":
    main()
