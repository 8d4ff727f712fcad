"""Arms of front_quality.py that are runs of run_sweep.py: the default, and it with a part changed.

Each run has one core and a Ray node of its own, so that as many run side by side as there are
cores. Compute is that of what a run did: epochs of each trial, budgets that were judged, and in
weight sharing the budgets that its steps drew, which are drawn again here from the same seeds.
"""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from begun_runs import is_begun
from fashion import console
from front_points import Course, Point
from front_setting import TRAIN, Setting

import slim
from slim.evaluation import top1
from slim.files import write_text_atomic
from slim.seeds import seed_alike
from slim.sharing import random_budgets
from sweeps.cli import read_values
from sweeps.config import SweepConfig, resolved
from sweeps.judged_networks import JudgedNetworks
from sweeps.space import DENSE, smallest_budget
from sweeps.trial import keeps_outputs
from sweeps.trials import COMPLETE
from sweeps.untrained import calibration_images, judged_images

ROOT = Path(__file__).parents[1]
DEFAULT = "default"
JUDGED = "judged networks of the default, untrained"
PARTS: dict[str, tuple[str, ...]] = {
    "default, 10 trials": (),
    "weight sharing (1)": ("--method", "share"),
    "no judging (2)": ("--judge.budgets", "0"),
    "60 judged": ("--judge.budgets", "60"),
    "judged on all of val": ("--judge.images", "0"),
    "judged by GP": ("--judge.sampler", "gp"),
    "judged by chance": ("--judge.sampler", "random"),
    "the dense budget trained": ("--finetune.dense", "true"),
    "no judged start (3)": ("--judge.start", "0"),
    "not repaired": ("--finetune.repair_images", "0"),
    "ranked by Taylor": ("--search.score", "taylor"),
    "no distillation": ("--search.distillation", "0", "--finetune.distillation", "0"),
    "two epochs": ("--finetune.epochs", "2"),
    "twelve epochs": ("--finetune.epochs", "12"),
    "early stopping (5)": ("--finetune.reduction", "2"),
    "narrower space": (
        *("--space.tokens_min", "0.3", "--space.mhsa_min", "0.15", "--space.mlp_min", "0.1"),
    ),
}


@dataclass(frozen=True)
class Run:
    """A run of run_sweep.py: an arm, a seed, and how many networks are trained."""

    arm: str
    seed: int
    trials: int

    @property
    def name(self) -> str:
        """Of its folder."""
        words = "".join(c if c.isalnum() else " " for c in self.arm).split()
        return "-".join(["run", *words, str(self.trials), str(self.seed)])


def finish_runs(setting: Setting, runs: list[Run]) -> None:
    """Begin the runs or go on with them, side by side, and wait for all."""
    with ThreadPoolExecutor(setting.jobs) as pool:
        waiting = [pool.submit(finish, setting, run) for run in runs]
        try:
            for run in waiting:
                run.result()
        finally:
            pool.shutdown(cancel_futures=True)


def finish(setting: Setting, run: Run) -> None:
    """Begin one run, or go on with it, unless it is finished."""
    folder = setting.folder / run.name
    wait_until_alone(folder)
    where = ["--storage", str(setting.folder), "--cluster", "local"]
    command = first_command(setting, run)
    if is_begun(folder, [*command, *where]):
        command = ["--resume", run.name]
    if is_finished(folder):
        return
    one_core = {"RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": 1}), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_sweep.py"), *command, *where],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | one_core,
    )
    if done.returncode:
        raise SystemExit(f"{run.name} ended with code {done.returncode}: {done.stdout[-2000:]}")
    console.print(f"{run.name} is finished")


def wait_until_alone(folder: Path) -> None:
    """Wait for a run that a killed benchmark left running: it comes to its end by itself."""
    lock = folder / "state" / "lock"
    if lock.is_file():
        with lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)


def first_command(setting: Setting, run: Run) -> list[str]:
    """What begins a run; only what differs from the defaults is given."""
    database = f"sqlite:///{setting.folder.resolve() / run.name}.db"
    command = ["--name", run.name, "--tracking-uri", database, "--data", setting.data]
    command += ["--tasks", "none", "--seed", str(run.seed), "--trials", str(run.trials)]
    command += ["--model", str(setting.dense_folder(run.seed)), "--judge.extra_trials", "0"]
    defaults, part = resolved(SweepConfig(method="share")), PARTS.get(run.arm, ())
    usual = defaults.search.epochs
    if setting.epochs != usual:
        command += ["--search.epochs", str(setting.epochs)]
    if setting.epochs != usual and "share" in part:  # then sharing is as much shorter or longer
        shared = round(int(defaults.share.epochs or 0) * setting.epochs / usual)
        command += ["--share.epochs", str(shared)]
    return [*command, *part]


def is_finished(folder: Path) -> bool:
    """Whether a run came to its end."""
    progress = folder / "state" / "progress.json"
    known = json.loads(progress.read_text()) if progress.is_file() else {}
    return known.get("finished_trials") is not None


def course(setting: Setting, run: Run) -> Course:
    """What a finished run did from the dense weights of its seed."""
    work = Work(setting, setting.folder / run.name)
    rows = pd.read_csv(work.folder / "trials.csv").to_dict("records")
    judged = work.judged()
    shared = work.sharing() + sum(work.judging(budget) for budget in judged)
    shared += work.reference() * bool(judged)
    return work.course(run.arm, shared, work.points(rows))


def judged_jobs(setting: Setting, runs: list[Run]) -> list[tuple]:
    """The evaluations on test of what finished runs judged that were not made yet."""
    return [(evaluate_judged, setting, run) for run in runs if not _tested(setting, run).is_file()]


def evaluate_judged(setting: Setting, run: Run) -> None:
    """Write the top-1 on test of all networks that a run judged, in their order."""
    work = Work(setting, setting.folder / run.name)
    networks, preprocessing = JudgedNetworks(work.folder), setting.preprocessing(run.seed)
    found = [top1(networks.cut(b), work.task, "test", preprocessing) for b in work.judged()]
    write_text_atomic(_tested(setting, run), json.dumps(found) + "\n")


def judged_course(setting: Setting, run: Run) -> Course:
    """What a finished run had before its first trial: the judged networks."""
    work = Work(setting, setting.folder / run.name)
    tests, points = json.loads(_tested(setting, run).read_text()), []
    judged = zip(work.judged().items(), tests, strict=True)
    for number, ((budget, accuracy), test) in enumerate(judged):
        spent = work.judging(budget)
        points.append(Point(number, work.gmacs(budget), accuracy, test, 0, spent))
    return work.course(JUDGED, work.sharing() + work.reference(), tuple(points))


def _tested(setting: Setting, run: Run) -> Path:
    return setting.folder / run.name / "judged-test.json"


class Work:
    """The compute of a finished run, in 1e9 MACs x images.

    Args:
        setting: The benchmark's.
        folder: The run's.
    """

    def __init__(self, setting: Setting, folder: Path) -> None:
        self.config = read_values(folder / "config.yaml")
        self.folder, self.task = folder, setting.task()
        self.dense_point = setting.dense_point(self.config.seed)
        self.dense = self.dense_point.gmacs
        self.val = self.task.size("val")
        searched = folder / ("shared" if self.config.share.epochs else "search")
        self.checkpoint = slim.MaskCheckpoint.load(searched)

    def course(self, arm: str, shared: float, points: tuple[Point, ...]) -> Course:
        """What came of the run, as an arm."""
        chance = 100 / self.task.num_classes
        return Course(
            arm, self.config.seed, self.search(), shared, self.dense_point, chance, points
        )

    def seen(self, batch_size: int) -> int:
        """Training images that an epoch shows."""
        return self.task.steps_per_epoch(batch_size) * batch_size

    def search(self) -> float:
        """Of the mask search."""
        options = self.config.search
        trained = (TRAIN + bool(options.distillation)) * self.seen(options.batch_size)
        return options.epochs * (trained + self.val) * self.dense

    def sharing(self) -> float:
        """Of weight sharing: of each step its own networks, and the teacher."""
        options = self.config.share
        if options.mixup or options.cutmix:
            raise SystemExit("mixing draws from the generator that weight sharing draws from")
        epochs, smallest = int(options.epochs or 0), smallest_budget(self.config.space)
        always = self.gmacs(DENSE) + self.gmacs(smallest) if epochs else 0.0
        teacher = self.dense * bool(options.distillation)
        steps = epochs * self.task.steps_per_epoch(options.batch_size)
        macs = 0.0
        for update in range(1, steps + 1):
            seed_alike(self.config.seed, update)
            drawn = random_budgets(smallest, options.networks)
            macs += TRAIN * (always + sum(map(self.gmacs, drawn))) + teacher
        return macs * options.batch_size + epochs * self.val * self.dense

    def judged(self) -> dict[slim.Budget, float]:
        """Top-1 on val of the budgets that were judged, in their order."""
        path = self.folder / "judged.csv"
        if not path.is_file():
            return {}
        rows = pd.read_csv(path).to_dict("records")
        return {_budget(row): float(row["val_top1"]) for row in rows}

    def points(self, rows: Sequence[dict[str, Any]]) -> tuple[Point, ...]:
        """The trials, from their rows in trials.csv, by number.

        The dense model as it stands is evaluated on val. Where its outputs are kept, a trial runs
        it for the epochs that none had before; else for all its own. The first that is trained has
        the dense model's streams computed.
        """
        kept, known, points = keeps_outputs(self.config, self.task), 0, list[Point]()
        for row in rows:
            epochs = int(row["epochs"])
            point = self.point(row, max(0, epochs - known) if kept else epochs)
            spent = point.compute + (0.0 if known else self.reference())
            if not epochs and _budget(row) == DENSE:
                spent = point.gmacs * self.val
            points.append(replace(point, compute=spent))
            known = max(known, epochs)
        return tuple(points)

    def point(self, row: dict[str, Any], followed: int) -> Point:
        """A trial in whose training the dense model ran for so many epochs."""
        options, gmacs, epochs = self.config.finetune, float(row["gmacs"]), int(row["epochs"])
        teacher = followed * self.dense * bool(options.distillation)
        trained = (epochs * TRAIN * gmacs + teacher) * self.seen(options.batch_size)
        complete = row["state"] == COMPLETE
        return Point(
            network=int(row["trial"]),
            gmacs=gmacs,
            val_top1=float(row["val_top1"]) if complete else None,
            test_top1=float(row["test_top1"]) if complete else None,
            epochs=epochs,
            compute=self.untrained(_budget(row), self.val) + trained + epochs * gmacs * self.val,
        )

    def reference(self) -> float:
        """Of the dense model's streams, which a process that repairs computes once."""
        return self.dense * calibration_images(self.config, self.task)

    def judging(self, budget: slim.Budget) -> float:
        """Of a judged network."""
        return self.untrained(budget, judged_images(self.config, self.task))

    def untrained(self, budget: slim.Budget, val: int) -> float:
        """Of repairing a fresh network where the run does, and of evaluating it."""
        gmacs, images = self.gmacs(budget), calibration_images(self.config, self.task)
        if not images:
            return gmacs * val
        return gmacs * val + (gmacs + self.least_squares(budget)) * images

    def least_squares(self, budget: slim.Budget) -> float:
        """1e9 MACs an image of what repair does with the features of each layer.

        It multiplies them with themselves, with what is missing, and once more with the weights.
        """
        architecture = self.checkpoint.select(budget)
        spec: Any = architecture.spec
        macs = 0
        for block in range(spec.depth):
            for features in (architecture.dims_in(block), len(architecture.units[block])):
                width = features + 1
                macs += architecture.tokens_in(block) * width * (width + 2 * spec.embed_dim)
        width = spec.embed_dim + 1
        return (macs + width * (width + 2 * spec.num_classes)) / 1e9

    def gmacs(self, budget: slim.Budget) -> float:
        """1e9 MACs of a budget's network."""
        return slim.count(self.checkpoint.select(budget)).macs / 1e9


def _budget(row: dict[str, Any]) -> slim.Budget:
    return slim.Budget(*(float(row[name]) for name in ("tokens", "mhsa", "mlp")))
