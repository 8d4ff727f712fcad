"""How busy a sweep keeps its workers, and what judging costs beside bare evaluation.

    python benchmarks/orchestration.py                  # trials of 30 s on two workers: 10 min
    python benchmarks/orchestration.py --parts judge --data fashion-mnist-10000+12000

The driver's parts (study, recorder, Ray Tune, MLflow on SQLite) are those of a run, the trials are
real trainings, of as many epochs as take `--seconds`. What counts as busy the workers
measure themselves, around the epochs of a training. Against it the same trainings by a loop of the
shell in each slot, with a process for each trial. Judged budgets are compared with the evaluation
alone of the same networks: on the clock, by as many processes, and in processor time, by the same
workers. Of two cores two workers leave none to the driver, one worker leaves one. All figures are
ratios within one run.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from machine import machine
from orchestration_judging import judge_all
from orchestration_setting import begin, checkpoint_of, data_of, make_networks

import slim
import sweeps.sweep
from slim.distillation import distill_from
from slim.tasks import load_task
from slim.training import Epoch, Training
from sweeps.cluster import connect
from sweeps.config import JudgeConfig, SpaceConfig, SweepConfig, resolved
from sweeps.dense import saved_preprocessing
from sweeps.judged import JudgedStudy
from sweeps.recorder import Recorder
from sweeps.space import BudgetSpace
from sweeps.stage_config import FinetuneConfig
from sweeps.stopping import StopRequest
from sweeps.study import BudgetStudy
from sweeps.sweep import sweep_budgets
from sweeps.trial import TrialJob, run_trial

PARTS = ("sweep", "shell", "judge")
WORKERS = 2
# Trials cost nearly the same, so that the slots end together and no tail is measured.
ALIKE = SpaceConfig(tokens_min=0.9, mhsa_min=0.9, mlp_min=0.9, uniform=[0.98, 0.96, 0.94, 0.92])


@dataclass(frozen=True)
class Span:
    """One training in a worker: seconds since 1970 at its begin and end, and who trained it."""

    slot: str
    begin: float
    end: float


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.trial is not None:
            train_alone(options.made, options.trial)
            return
        make_networks(folder, options.data)
        if "sweep" in options.parts or "shell" in options.parts:
            epochs = epochs_for(folder, options.seconds)
            config = sweep_config(folder, options.trials, epochs)
            print(f"{config.trials} trials of {epochs} epochs on {WORKERS} workers", flush=True)
            if "sweep" in options.parts:
                tell("sweep", swept(folder, config))
            if "shell" in options.parts:
                tell("shell loop", looped(folder, config))
        if "judge" in options.parts:
            judged = JudgeConfig(budgets=options.judged, images=options.images)
            for repair_images in (0, FinetuneConfig().repair_images):
                for slots in (WORKERS, 1):
                    judge_all(folder, judged, slots, repair_images)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=8, help="a multiple of the workers")
    parser.add_argument("--seconds", type=float, default=30.0, help="of a trial at least")
    parser.add_argument("--judged", type=int, default=200, help="more than a batch, 16")
    few = JudgeConfig().images
    parser.add_argument("--images", type=int, default=few, help="of val, to judge on; 0 for all")
    parser.add_argument("--data", default="mnist", help="the task's name")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--trial", type=int, help="train this one alone, as the shell loop does")
    parser.add_argument("--made", type=Path, help="with --trial: where the networks are")
    return parser.parse_args()


def sweep_config(folder: Path, trials: int, epochs: int) -> SweepConfig:
    """A sweep of trials alone."""
    config = SweepConfig(
        data=data_of(folder),
        cluster="local",
        method="retrain",
        trials=trials,
        concurrency=WORKERS,
        storage=str(folder / "runs"),
        tracking_uri=f"sqlite:///{folder}/mlflow.db",
        space=ALIKE,
    )
    return resolved(
        replace(
            config,
            finetune=replace(config.finetune, epochs=epochs, repair_images=0, dense=True),
        )
    )


def epochs_for(folder: Path, seconds: float) -> int:
    """Epochs that take so long in a slot while the others train too."""
    with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:
        taken = pool.map(epoch_seconds, [folder] * WORKERS)
    return max(1, math.ceil(seconds / min(taken)))


def epoch_seconds(folder: Path) -> float:
    """Seconds of one epoch, the second one."""
    torch.set_num_threads(1)
    training = training_of(folder, sweep_config(folder, 1, 2), slim.Budget(0.9, 0.9, 0.9), 0)
    return list(training.epochs())[-1].seconds


def training_of(folder: Path, config: SweepConfig, budget: slim.Budget, number: int) -> Training:
    """What a trial trains, without a cluster."""
    checkpoint, dense = slim.MaskCheckpoint.load(folder / "search"), slim.load(folder / "dense")
    options = config.finetune
    return Training(
        slim.extract(checkpoint, checkpoint.select(budget)),
        load_task(data_of(folder)),
        saved_preprocessing(folder / "dense"),
        options.recipe(),
        distill_from(dense, options.distillation, options.temperature),
        seed=number,
    )


def swept(folder: Path, config: SweepConfig) -> list[Span]:
    """Train the budgets by a sweep; what its workers measured."""
    with connect(config) as resources:
        run, tracker, job = begin(folder, config, "swept")
        space = BudgetSpace(config, checkpoint_of(folder).spec, checkpoint_of(folder).ranking)
        judged = JudgedStudy(run.journal, config, space)
        study, stop = BudgetStudy(run.journal, config, space, judged, 100.0), StopRequest(run.stop)
        epochs = config.finetune.epochs
        checkpoint, quiet = checkpoint_of(folder), lambda event, number, figures: None
        recorder = Recorder(study, tracker, run, checkpoint, epochs, None, quiet, stop)
        with mock.patch.object(sweeps.sweep, "run_trial", timed_trial):
            sweep_budgets(job, study, recorder, None, resources, run, False)
        tracker.flush()
        tracker.close()
        write_budgets(folder, study)
        return read_spans(run.state)


def timed_trial(proposal: dict[str, Any], job: TrialJob) -> None:
    """A sweep's trial, with a span written down for its training."""
    path = job.states.parent / f"{proposal['number']}.span"
    with mock.patch.object(Training, "resumable_epochs", timed(Training.resumable_epochs, path)):
        run_trial(proposal, job)


def timed(epochs: Any, path: Path) -> Any:
    """A training's epochs, whose begin and end are written to a file."""

    def measured(*args: Any, **options: Any) -> Iterator[Epoch]:
        begin = time.time()
        yield from epochs(*args, **options)
        write_span(path, begin)

    return measured


def write_span(path: Path, begin: float) -> None:
    path.write_text(json.dumps({"slot": str(os.getpid()), "begin": begin, "end": time.time()}))


def read_spans(folder: Path) -> list[Span]:
    return [Span(**json.loads(path.read_text())) for path in folder.glob("*.span")]


def write_budgets(folder: Path, study: BudgetStudy) -> None:
    """What the shell loop is to train."""
    rows = {row.trial: [row.tokens, row.mhsa, row.mlp] for row in study.rows()}
    epochs = study.rows()[0].epochs
    (folder / "budgets.json").write_text(json.dumps({"epochs": epochs, "budgets": rows}))


def looped(folder: Path, config: SweepConfig) -> list[Span]:
    """Train the same budgets by a shell loop in each slot."""
    if not (folder / "budgets.json").is_file():
        raise SystemExit("the shell loop trains what the sweep trained; give --parts sweep shell")
    command = f"{sys.executable} {Path(__file__).resolve()} --made {folder} --trial"
    slots = [
        subprocess.Popen(
            ["sh", "-c", f"for n in {numbers}; do {command} $n; done"], stdout=subprocess.DEVNULL
        )
        for numbers in (
            " ".join(map(str, range(slot, config.trials, WORKERS))) for slot in range(WORKERS)
        )
    ]
    if any(slot.wait() for slot in slots):
        raise SystemExit("a trial of the shell loop failed")
    return read_spans(folder)


def train_alone(folder: Path, number: int) -> None:
    """A trial of the shell loop: all that one of the sweep does, in a process of its own."""
    known = json.loads((folder / "budgets.json").read_text())
    config = sweep_config(folder, 1, known["epochs"])
    training = training_of(folder, config, slim.Budget(*known["budgets"][str(number)]), number)
    begin = time.time()
    for _ in training.resumable_epochs(folder / f"{number}.pt"):
        pass
    slot = str(number % WORKERS)
    span = {"slot": slot, "begin": begin, "end": time.time()}
    slim.save(training.evaluated, folder / "alone" / str(number))
    (folder / f"{number}.span").write_text(json.dumps(span))


def tell(what: str, spans: list[Span]) -> None:
    """Print how busy the slots were, and the time between two trainings in one."""
    spans = sorted(spans, key=lambda span: span.begin)
    whole = max(span.end for span in spans) - min(span.begin for span in spans)
    busy = sum(span.end - span.begin for span in spans) / (WORKERS * whole)
    gaps = [
        after.begin - before.end
        for slot in {span.slot for span in spans}
        for before, after in pairwise([span for span in spans if span.slot == slot])
    ]
    shortest = min(span.end - span.begin for span in spans)
    between = f"{sum(gaps) / len(gaps):.2f} s, at most {max(gaps):.2f} s" if gaps else "unknown"
    print(
        f"{what}: {len(spans)} trainings of {shortest:.1f} s or more, {whole:.0f} s in all; "
        f"slots busy {busy:.1%}; between two trainings of a slot {between}",
        flush=True,
    )


if __name__ == "__main__":
    main()
