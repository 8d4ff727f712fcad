"""What a run is going to do and cost, before anything trains."""

import json
import time
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import nn

from slim import Architecture, Budget, MaskCheckpoint, ModelSpec, count
from slim.ranking import Scores, select
from slim.spec import read_spec
from slim.tasks import Preprocessing, Task
from slim.training import Training
from sweeps.config import SweepConfig
from sweeps.dense import dense_epochs
from sweeps.study import first_budgets

# A training step costs a forward and twice that backward; distillation adds a dense forward.
TRAIN, FORWARD = 3, 1
PROBE_SECONDS = 2.0


def format_seconds(seconds: float) -> str:
    """`45 s`, `3 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class PlannedBudget:
    """A budget that is tried first; MACs of budgets below 1 in tokens are estimates until the
    search is done."""

    trial: int
    tokens: float
    mhsa: float
    mlp: float
    gmacs: float
    params_m: float


@dataclass(frozen=True)
class PlannedStage:
    """A stage's work in units of 1e9 MACs x images, and how many jobs share it."""

    name: str
    jobs: int
    epochs: int
    gmacs_images: float
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """Budgets, stages and time of a run."""

    data: str
    model: str
    dense_gmacs: float
    dense_params_m: float
    trials: int
    concurrency: int
    budgets: tuple[PlannedBudget, ...]
    stages: tuple[PlannedStage, ...]
    seconds: float | None

    def to_json(self) -> str:
        """For programs."""
        return json.dumps(asdict(self), indent=1)

    def to_text(self) -> str:
        """For people."""
        lines = [
            f"data {self.data}, model {self.model}: dense {self.dense_gmacs:.4g} GMACs, "
            f"{self.dense_params_m:.4g} M parameters",
            f"{self.trials} trials, {self.concurrency} at a time; the first budgets "
            "(tokens, MHSA, MLP), before the sampler goes on:",
        ]
        for b in self.budgets:
            lines.append(
                f"  trial {b.trial}: {b.tokens:.2f} {b.mhsa:.2f} {b.mlp:.2f}  about "
                f"{b.gmacs:.4g} GMACs ({b.gmacs / self.dense_gmacs:.0%}), {b.params_m:.4g} M"
            )
        lines.append("stages (GMACs x images, estimated time):")
        for stage in self.stages:
            seconds = "" if stage.seconds is None else f", {format_seconds(stage.seconds)}"
            epochs = f" x {stage.epochs} epochs" if stage.epochs else ""
            lines.append(
                f"  {stage.name}: {stage.jobs} network{'s' * (stage.jobs > 1)}{epochs}, "
                f"{stage.gmacs_images:.4g}{seconds}"
            )
        if self.seconds is not None:
            lines.append(f"in all about {format_seconds(self.seconds)} on this machine")
        return "\n".join(lines)


def make_plan(
    config: SweepConfig,
    model: nn.Module,
    task: Task,
    transfers: list[Task],
    concurrency: int,
    images_per_gmac_second: float | None,
    checkpoint: MaskCheckpoint | None = None,
) -> Plan:
    """Count the work of every stage.

    Args:
        config: The experiment.
        model: The dense model.
        task: The source task.
        transfers: The transfer tasks.
        concurrency: Trials in flight.
        images_per_gmac_second: Speed of one worker as GMACs x images a second; None for no times.
        checkpoint: The searched masks if they are there already.
    """
    spec = read_spec(model)
    scores = checkpoint.ranking if checkpoint is not None else _random_scores(spec)
    dense = count(Architecture.dense(spec))
    gmacs = dense.macs / 1e9
    train, val, test = (task.size(split) for split in ("train", "val", "test"))
    mean_share = _mean_share(config, spec, scores)
    trial = _trial_work(config, gmacs, mean_share, train, val)
    front = max(1, config.trials // 2)
    work = [
        ("dense", 1, dense_epochs(config), gmacs * dense_epochs(config) * (TRAIN * train + val)),
        ("search", 1, config.search.epochs, _search_work(config, gmacs, train, val)),
        *_share_work(config, spec, scores, train, val),
        ("sweep", config.trials, config.finetune.epochs, config.trials * trial),
        ("test", config.trials, 0, gmacs * (1 + config.trials * mean_share) * test),
    ]
    for other in transfers:
        sizes = TRAIN * other.size("train") + other.size("val")
        jobs = (front + 1) * config.transfer.seeds
        done = config.transfer.epochs * sizes + other.size("test")
        share = config.transfer.seeds * (1 + front * mean_share)
        work.append((f"transfer {other.name}", jobs, config.transfer.epochs, gmacs * share * done))
    stages = tuple(
        PlannedStage(
            name, jobs, epochs, units, _seconds(units, jobs, concurrency, images_per_gmac_second)
        )
        for name, jobs, epochs, units in work
    )
    times = [stage.seconds for stage in stages]
    return Plan(
        data=task.name,
        model=config.model,
        dense_gmacs=gmacs,
        dense_params_m=dense.params / 1e6,
        trials=config.trials,
        concurrency=concurrency,
        budgets=tuple(_planned(spec, scores, n, b) for n, b in enumerate(first_budgets(config))),
        stages=stages,
        seconds=None if None in times else sum(t for t in times if t is not None),
    )


def probe_speed(
    model: nn.Module, task: Task, preprocessing: Preprocessing, config: SweepConfig
) -> float:
    """GMACs x images a second of one worker, from a few training steps on a copy of the model."""
    threads = torch.get_num_threads()
    torch.set_num_threads(config.cpus_per_trial)
    spec = read_spec(model)
    training = Training(spec.build(), task, preprocessing, config.finetune.recipe())
    batches = task.train_batches(
        preprocessing, config.finetune.recipe().augmentation, config.finetune.batch_size, 0, 0
    )
    images, started = 0, time.monotonic()
    for step, (batch, labels) in enumerate(batches):
        if step == 1:  # the first step warms up
            images, started = 0, time.monotonic()
        training.step(batch, labels, 1)
        images += len(batch)
        if step and time.monotonic() - started > PROBE_SECONDS:
            break
    torch.set_num_threads(threads)
    gmacs = count(Architecture.dense(spec)).macs / 1e9
    return TRAIN * gmacs * images / max(1e-9, time.monotonic() - started)


def _seconds(units: float, jobs: int, concurrency: int, speed: float | None) -> float | None:
    """Time of a stage; a stage of one job runs on one worker."""
    return None if not speed else units / speed / min(jobs, concurrency)


def _trial_work(config: SweepConfig, gmacs: float, share: float, train: int, val: int) -> float:
    teacher = FORWARD * bool(config.finetune.distillation)
    epoch = (TRAIN * share + teacher) * train + share * val
    return gmacs * (config.finetune.epochs * epoch + share * val)


def _search_work(config: SweepConfig, gmacs: float, train: int, val: int) -> float:
    teacher = FORWARD * bool(config.search.distillation)
    return gmacs * config.search.epochs * ((TRAIN + teacher) * train + val)


def _share_work(
    config: SweepConfig, spec: ModelSpec, scores: Scores, train: int, val: int
) -> list[tuple[str, int, int, float]]:
    """The largest, the smallest and random networks are trained in each step."""
    share, space = config.share, config.space
    if not share.epochs:
        return []
    dense = count(Architecture.dense(spec)).macs / 1e9
    smallest = Budget(space.tokens_min, space.mhsa_min, space.mlp_min)
    least = count(select(spec, scores, smallest)).macs / 1e9
    trained = dense + least + share.networks * dense * _mean_share(config, spec, scores)
    teacher = FORWARD * dense * bool(share.distillation)
    epoch = (TRAIN * trained + teacher) * train + dense * val
    return [("share", 1, share.epochs, share.epochs * epoch)]


def _mean_share(config: SweepConfig, spec: ModelSpec, scores: Scores) -> float:
    """Mean MACs of the space's corners and centre, against dense."""
    space = config.space
    dense = count(Architecture.dense(spec)).macs
    budgets = [
        Budget(
            space.tokens_min + (1 - space.tokens_min) * t,
            space.mhsa_min + (1 - space.mhsa_min) * a,
            space.mlp_min + (1 - space.mlp_min) * m,
        )
        for t in (0.25, 0.75)
        for a in (0.25, 0.75)
        for m in (0.25, 0.75)
    ]
    return sum(count(select(spec, scores, b)).macs / dense for b in budgets) / len(budgets)


def _planned(spec: ModelSpec, scores: Scores, number: int, budget: Budget) -> PlannedBudget:
    cost = count(select(spec, scores, budget))
    macs, params = cost.macs / 1e9, cost.params / 1e6
    return PlannedBudget(number, budget.tokens, budget.mhsa, budget.mlp, macs, params)


def _random_scores(spec: ModelSpec) -> Scores:
    """Stand-ins before the search: with all tokens kept, the totals do not depend on them."""
    generator = torch.Generator().manual_seed(0)
    scores = Scores.fill(spec, partial(torch.rand, generator=generator))
    if not spec.drops_tokens:
        return scores
    falling = torch.linspace(0, -1, spec.depth).unbind()
    return replace(scores, tokens=tuple(scores.tokens[0] + height for height in falling))
