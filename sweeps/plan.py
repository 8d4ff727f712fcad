"""What a run is going to do and cost, before anything trains."""

import json
import time
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

from slim import Architecture, Budget, count
from slim.spec import ModelSpec, read_spec
from slim.tasks import Preprocessing, Task
from slim.training import Training
from sweeps.cluster import gpus_of_trial, this_machine
from sweeps.config import SweepConfig, dense_epochs, workers_per_stage
from sweeps.run_folder import RunFolder
from sweeps.searched import known_scores, stages_taken
from sweeps.space import DENSE, BudgetSpace, mean_share
from sweeps.study import first_budgets
from sweeps.transfer import transfer_methods
from sweeps.trial import keeps_outputs
from sweeps.untrained import images_before_training, judged_images

# A training step costs a forward and twice that backward; distillation adds a dense forward.
TRAIN, FORWARD = 3, 1
BEFORE_TRIALS = ("dense", "search", "share")
PROBE_SECONDS = 2.0
PROBE_GMACS = 50.0  # of one forward pass: a batch of a large model takes too long for a probe


def format_seconds(seconds: float) -> str:
    """`45 s`, `3 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class PlannedBudget:
    """One of the first budgets that are judged, or of the first trials where none are judged, by
    number; its MACs are an estimate until the search is done if its tokens are below 1."""

    trial: int
    tokens: float
    mhsa: float
    mlp: float
    gmacs: float
    params_m: float


@dataclass(frozen=True)
class PlannedStage:
    """A stage's work in units of 1e9 MACs x images, its share of the run's, and who does it."""

    name: str
    jobs: int
    workers: int
    epochs: int
    gmacs_images: float
    fraction: float
    seconds: float | None


@dataclass(frozen=True)
class Speed:
    """1e9 MACs x images a second of one worker, and how many of its kind this machine holds."""

    worker: float
    workers: int

    def seconds(self, units: float, workers: int) -> float:
        """Of so much work, shared by so many workers if there are as many."""
        return units / self.worker / min(workers, self.workers)


@dataclass(frozen=True)
class Speeds:
    """Of trials' workers, and of those of the stages before, which have all CPUs."""

    trial: Speed
    stage: Speed


@dataclass(frozen=True)
class Finished:
    """What earlier sessions of a run brought to its end: whole stages, ended trials, networks that
    were tested, or all of it."""

    stages: tuple[str, ...] = ()
    trials: int = 0
    tested: int = 0
    all_trials: int | None = None

    @classmethod
    def of(cls, folder: RunFolder) -> "Finished":
        """As the run's folder has it."""
        known = folder.recall_all()
        keys = {"dense": "dense_done", "search": "search_done", "share": "share_done"}
        stages = tuple(name for name, key in (keys | {"judge": "judged"}).items() if key in known)
        table = folder.path / "trials.csv"
        if not folder.is_worked_on():
            folder.mirror.fetch(table)
        rows = table.read_text().splitlines()[1:] if table.is_file() else []
        tested = len(known.get("test_top1", {}))
        return cls(stages, len(rows), tested, known.get("finished_trials"))


@dataclass(frozen=True)
class Plan:
    """Budgets, stages and time of a run."""

    data: str
    classes: int
    images: dict[str, int]
    model: str
    taken: tuple[str, ...]
    finished: Finished
    dense_gmacs: float
    dense_params_m: float
    trials: int
    may_end_early: bool
    extra_trials: int
    judged: int
    judged_images: int
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
            f"data {self.data}: {self.classes} classes, "
            + ", ".join(f"{count:,} images of {split}" for split, count in self.images.items()),
            f"model {self.model}: dense {self.dense_gmacs:.4g} GMACs, "
            f"{self.dense_params_m:.4g} M parameters",
            *([f"taken from another run: {', '.join(self.taken)}"] if self.taken else []),
            *self._told_finished(),
            *self._told_judged(),
            f"{'at most ' if self.may_end_early else ''}{self.trials} "
            f"trial{'s' * (self.trials > 1)}, {self.concurrency} at a time"
            + ("; 0 is the dense model, then of those that are judged" if self.judged else "")
            + (f"; {self.extra_trials} more if judging misled" if self.extra_trials else ""),
            f"the first {'budgets that are judged' if self.judged else 'trials'} (tokens, MHSA, "
            "MLP), before the sampler goes on:",
        ]
        for b in self.budgets:
            lines.append(
                f"  {b.trial}: {b.tokens:.2f} {b.mhsa:.2f} {b.mlp:.2f}  about "
                f"{b.gmacs:.4g} GMACs ({b.gmacs / self.dense_gmacs:.0%}), {b.params_m:.4g} M"
            )
        lines.append("stages (GMACs x images, share of all, estimated time):")
        for stage in self.stages:
            seconds = "" if stage.seconds is None else f", {format_seconds(stage.seconds)}"
            epochs = f" x {stage.epochs} epochs" if stage.epochs else ""
            lines.append(
                f"  {stage.name}: {stage.jobs} network{'s' * (stage.jobs > 1)}{epochs}, "
                f"{stage.gmacs_images:.4g} ({stage.fraction:.0%}){seconds}"
            )
        if self.seconds is not None:
            lines.append(f"in all about {format_seconds(self.seconds)} on this machine")
        return "\n".join(lines)

    def _told_judged(self) -> list[str]:
        on = "all" if self.judged_images == self.images["val"] else f"{self.judged_images:,}"
        return [f"{self.judged} budgets judged, on {on} images of val"] if self.judged else []

    def _told_finished(self) -> list[str]:
        done, trials = self.finished.stages, self.finished.trials
        ended = [*done, *([f"{trials} of the trials"] if trials else [])]
        return [f"finished before: {', '.join(ended)}"] if ended else []


def make_plan(
    config: SweepConfig,
    model: nn.Module,
    task: Task,
    transfers: list[Task],
    concurrency: int,
    speeds: Speeds | None,
    finished: Finished,
) -> Plan:
    """Count the work of every stage.

    Args:
        config: The experiment.
        model: The dense model.
        task: The source task.
        transfers: The transfer tasks.
        concurrency: Trials in flight.
        speeds: Of workers; None for no times.
        finished: What is left out of the stages.
    """
    spec = read_spec(model)
    space = BudgetSpace(config, spec, known_scores(config, spec))
    dense = space.cost(DENSE)
    gmacs = dense.macs / 1e9
    train, val, test = (task.size(split) for split in ("train", "val", "test"))
    share = mean_share(space)
    kept, taken = keeps_outputs(config, task), stages_taken(config)
    judged = int(config.judge.budgets or 0)
    looked_at = judged_images(config, task)
    untrained = {
        seen: gmacs * (share * by_network + by_dense)
        for seen in (looked_at, val)
        for by_network, by_dense in [images_before_training(config, model, task, seen)]
    }
    standing = not config.finetune.dense  # trial 0 is the dense model, and is not trained
    front = min(max(1, config.trials // 2), config.trials - standing)
    again = front * (config.repeats - 1)
    epochs, seeds = config.finetune.epochs, config.repeats - 1
    trials = max(0, config.trials - finished.trials)
    trained = trials - (standing and not finished.trials)
    wave, rewave = min(trained, concurrency), min(again, seeds * concurrency)  # begin together
    swept = _trials_work(config, trained, wave if kept else trained, gmacs, share, task)
    repeated = _trials_work(config, again, rewave if kept else again, gmacs, share, task)
    untested = max(0, config.trials + 1 - finished.tested)
    dense_left = 0 if finished.tested else 1
    work = [
        ("dense", 1, dense_epochs(config), gmacs * dense_epochs(config) * (TRAIN * train + val)),
        ("search", 1, config.search.epochs, _search_work(config, gmacs, train, val)),
        ("share", 1, int(config.share.epochs or 0), _share_work(config, space, train, val)),
        ("judge", judged, 0, judged * untrained[looked_at]),
        ("sweep", trained, epochs, swept + trained * untrained[val]),
        ("repeats", again, epochs, repeated + again * untrained[val]),
        ("test", untested, 0, gmacs * (dense_left + (untested - dense_left) * share) * test),
    ]
    for other in transfers:
        sizes = TRAIN * other.size("train") + other.size("val")
        repeats = config.transfer.seeds * len(transfer_methods(config))
        jobs = (front + 1) * repeats
        done = config.transfer.epochs * sizes + other.size("test")
        units = gmacs * repeats * (1 + front * share) * done
        work.append((f"transfer {other.name}", jobs, config.transfer.epochs, units))
    left = [one for one in work if one[-1] and one[0] not in (*taken, *finished.stages)]
    if finished.all_trials == config.trials:
        left = []
    total = sum(units for *_, units in left)
    stages = []
    for name, jobs, epochs, units in left:
        workers = _workers(config, name, jobs, concurrency)
        speed = speeds and (speeds.stage if name in BEFORE_TRIALS else speeds.trial)
        seconds = speed.seconds(units, workers) if speed else None
        stages.append(PlannedStage(name, jobs, workers, epochs, units, units / total, seconds))
    times = [stage.seconds for stage in stages]
    first = space.first[:judged] if judged else first_budgets(config, space, [])
    return Plan(
        data=task.name,
        classes=task.num_classes,
        images={"train": train, "val": val, "test": test},
        model=config.model,
        taken=taken,
        finished=finished,
        dense_gmacs=gmacs,
        dense_params_m=dense.params / 1e6,
        trials=config.trials,
        may_end_early=config.patience > 0,
        extra_trials=int(config.judge.extra_trials or 0) if judged else 0,
        concurrency=concurrency,
        judged=judged,
        judged_images=looked_at,
        budgets=tuple(_planned(space, n, budget) for n, budget in enumerate(first)),
        stages=tuple(stages),
        seconds=None if None in times else sum(t for t in times if t is not None),
    )


def probe_speeds(
    model: nn.Module, task: Task, preprocessing: Preprocessing, config: SweepConfig
) -> Speeds:
    """Speeds from a few training steps on copies of the model, on the devices of this machine."""
    spec, here = read_spec(model), this_machine()
    gpus, cpus = gpus_of_trial(config, here.gpus), config.cpus_per_trial
    on_gpu = bool(gpus and here.gpus)
    trial = _probed(spec, task, preprocessing, config, min(cpus, here.cpus), on_gpu)
    if on_gpu:  # trials that share one have it in turns
        return Speeds(Speed(trial, int(here.gpus)), Speed(trial, int(here.gpus)))
    together = max(cpus, here.cpus // workers_per_stage(config))
    stage = trial
    if together != min(cpus, here.cpus):
        stage = _probed(spec, task, preprocessing, config, together, on_gpu=False)
    held = [max(1, here.cpus // threads) for threads in (cpus, together)]
    return Speeds(Speed(trial, held[0]), Speed(stage, held[1]))


def _probed(
    spec: ModelSpec,
    task: Task,
    preprocessing: Preprocessing,
    config: SweepConfig,
    threads: int,
    on_gpu: bool,
) -> float:
    """1e9 MACs x images a second of a process of so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    gmacs = count(Architecture.dense(spec)).macs / 1e9
    recipe = replace(config.finetune.recipe(), accumulation=1)
    size = min(recipe.batch_size, max(1, int(PROBE_GMACS / gmacs)))
    device = "cuda" if on_gpu else "cpu"
    training = Training(spec.build(), task, preprocessing, recipe, device=device)
    batches = task.train_batches(preprocessing, recipe.augmentation, size, 0, 0)
    images, started = 0, time.monotonic()
    for step, (batch, labels) in enumerate(batches):
        if step == 1:  # the first step warms up
            images, started = 0, time.monotonic()
        training.step(batch, labels, 1)
        images += len(batch)
        if step and time.monotonic() - started > PROBE_SECONDS:
            break
    torch.set_num_threads(before)
    return TRAIN * gmacs * images / max(1e-9, time.monotonic() - started)


def _workers(config: SweepConfig, stage: str, jobs: int, concurrency: int) -> int:
    """Workers that share a stage."""
    if stage in BEFORE_TRIALS:
        return workers_per_stage(config)
    each = config.workers_per_trial
    if stage in ("sweep", "repeats"):
        return min(jobs, concurrency) * each
    return min(jobs, concurrency * each)


def _trials_work(
    config: SweepConfig, trials: int, teachers: int, gmacs: float, share: float, task: Task
) -> float:
    """Training so many networks, for which the dense model sees all images so many times."""
    train, val = task.size("train"), task.size("val")
    epochs, teachers = config.finetune.epochs, teachers * bool(config.finetune.distillation)
    network = share * epochs * (TRAIN * train + val)
    return gmacs * (trials * network + teachers * FORWARD * epochs * train)


def _search_work(config: SweepConfig, gmacs: float, train: int, val: int) -> float:
    teacher = FORWARD * bool(config.search.distillation)
    return gmacs * config.search.epochs * ((TRAIN + teacher) * train + val)


def _share_work(config: SweepConfig, space: BudgetSpace, train: int, val: int) -> float:
    """The largest, the smallest and random networks are trained in each step."""
    share = config.share
    dense, least = (space.cost(budget).macs / 1e9 for budget in (DENSE, space.smallest))
    trained = dense + least + share.networks * dense * mean_share(space)
    teacher = FORWARD * dense * bool(share.distillation)
    return int(share.epochs or 0) * ((TRAIN * trained + teacher) * train + dense * val)


def _planned(space: BudgetSpace, number: int, budget: Budget) -> PlannedBudget:
    cost = space.cost(budget)
    macs, params = cost.macs / 1e9, cost.params / 1e6
    return PlannedBudget(number, budget.tokens, budget.mhsa, budget.mlp, macs, params)
