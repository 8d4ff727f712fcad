"""What a run begins with: every value, and what it names, checked before anything starts."""

from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

import slim
from slim.adapt import resized
from slim.architecture import Architecture
from slim.masks import as_timm
from slim.ranking import select
from slim.spec import read_spec
from slim.tasks import Preprocessing, Task, load_task
from slim.tasks.images import ImageTask
from slim.training import Training
from sweeps.cli import Command
from sweeps.cluster import check_shares
from sweeps.config import SweepConfig, dense_epochs, flatten, workers_per_stage
from sweeps.dense import (
    has_other_images,
    make_dense,
    preprocessing_for,
    saved_preprocessing,
)
from sweeps.early_stopping import rungs
from sweeps.errors import InputError
from sweeps.pretrained import is_folder
from sweeps.run_folder import RunFolder
from sweeps.searched import known_scores, searched_dense, searched_model, stages_taken
from sweeps.space import (
    DENSE,
    DIMENSIONS,
    BudgetSpace,
    smallest_budget,
    space_for,
    target_gmacs,
    uniform_budgets,
)
from sweeps.transfer import transfer_methods, transfer_tasks

# What a resumed run may be given anew; everything else must be what it began with.
MAY_CHANGE = {
    *("cluster", "concurrency", "workers_per_trial", "workers_per_stage"),
    *("cpus_per_trial", "gpus_per_trial"),
    *("download", "kept_outputs_gb", "kept_images_gb", "max_retries", "register", "storage"),
    *("patience", "min_gain", "verbose"),
}
_ANY_IMAGE = Preprocessing((1, 1, 1), (0.0,), (1.0,))


def check_inputs(
    config: SweepConfig, begins: bool
) -> tuple[SweepConfig, Task, list[Task], nn.Module]:
    """Load the data and build the model's shape before anything starts.

    Args:
        config: All values.
        begins: Whether the run does: what its values cannot do is then refused, as long as they
            may be changed.

    Returns:
        The configuration with a space that suits the model; the tasks and the model.

    Raises:
        InputError: If the data, the tasks, the model or their fit are unusable.
    """
    try:
        task = load_task(config.data, config.download)
    except slim.TaskError as error:
        raise InputError(f"--data: {error}") from error
    transfers = transfer_tasks(config)
    for each in (task, *transfers):
        if isinstance(each, ImageTask):
            each.keep_images(int(config.kept_images_gb * 1e9))
    transfer_methods(config)
    if config.searched:
        model = searched_model(config, task)
    elif made := _own_dense(config, begins):
        model = _read_dense(made)
    else:
        model = make_dense(config, task, weights=False)
    _check_method(config)
    check_shares(config)
    _check_img_size(config, model)
    config = replace(config, space=space_for(config.space, read_spec(model)))
    if begins:
        _check_sense(config)
    _check_budgets(config, model)
    if (config.search.token_mask, config.search.score) == ("tanh", "taylor"):
        raise InputError("--search.score taylor needs --search.token_mask log, not tanh")
    taken, of_stages = stages_taken(config), workers_per_stage(config)
    for name in ("dense", "search", "share", "finetune", "transfer"):
        options = getattr(config, name)
        epochs = dense_epochs(config) if name == "dense" else options.epochs
        if not epochs or name in taken:
            continue
        workers = {"transfer": 1, "finetune": config.workers_per_trial}.get(name, of_stages)
        own = name != "finetune" and config.workers_per_stage is not None
        option = "--workers-per-stage" if own else "--workers-per-trial"
        if options.batch_size % workers:
            raise InputError(
                f"--{name}.batch_size {options.batch_size} cannot be shared out equally to "
                f"{option} {workers}"
            )
        try:
            recipe = replace(options, epochs=epochs).recipe(workers)
            for trained in transfers if name == "transfer" else [task]:
                _check_batch(name, options.batch_size, trained)
                trained.check_augmentation(_ANY_IMAGE, recipe.augmentation)
            fit_for_any_model = replace(recipe, layer_decay=1.0, grad_checkpointing=False)
            Training(nn.Linear(1, 1), task, _ANY_IMAGE, fit_for_any_model)
        except slim.RecipeError as error:  # begins with the name of its value
            raise InputError(f"--{name}.{error}") from error
        except slim.TaskError as error:
            raise InputError(f"--{name}: {error}") from error
    return config, task, transfers, model


def planned_preprocessing(
    config: SweepConfig, task: Task, model: nn.Module, begins: bool
) -> Preprocessing:
    """What the dense model expects of an image, as `check_inputs` found it."""
    made = searched_dense(config) if config.searched else _own_dense(config, begins)
    return saved_preprocessing(made) if made else preprocessing_for(config, model, task)


def _own_dense(config: SweepConfig, begins: bool) -> Path | None:
    """The dense model that a resumed run has made, or None; what it was made from may be gone."""
    folder = None if begins else RunFolder(config.storage, str(config.name))
    return folder.dense if folder and folder.recall("dense_done") else None


def _read_dense(folder: Path) -> nn.Module:
    try:
        return as_timm(slim.load(folder))
    except slim.FileFormatError as error:
        raise InputError(f"the run cannot go on: {error}") from error


def _check_method(config: SweepConfig) -> None:
    """What a method has no part of was not asked for."""
    values = flatten(config.to_dict())
    for name, methods in (("share.epochs", ["share"]), ("judge.budgets", ["judge", "share"])):
        if values[name] and config.method not in methods:
            raise InputError(
                f"--{name} {values[name]} does not go with --method {config.method}, but with "
                f"--method {' or '.join(methods)}; leave one out"
            )


def _check_sense(config: SweepConfig) -> None:
    """Whatever is given does something: penalties draw masks down, and targets are in reach."""
    if config.method == "share" and not config.share.epochs:
        raise InputError("--share.epochs 0 shares no weights; give --method judge for that")
    if config.weights and (config.model == "vit" or is_folder(config.model)):
        raise InputError(
            f"--weights {config.weights} is for a named model of timm's, not --model "
            f"{config.model}; leave one out"
        )
    if config.finetune.reduction and not rungs(config.finetune.epochs, config.finetune.reduction):
        raise InputError(
            f"--finetune.reduction {config.finetune.reduction} stops no trial of "
            f"{config.finetune.epochs} epochs; give at most {config.finetune.epochs}, or 0"
        )
    for name, weight in asdict(config.search.penalty).items():
        if not 0 <= weight < float("inf"):
            raise InputError(f"--search.penalty.{name} {weight:g}: give 0 or more")
    for target in target_gmacs(config):
        if config.max_gmacs is not None and target > config.max_gmacs:
            raise InputError(
                f"--target-gmacs {target:g} is more than --max-gmacs {config.max_gmacs:g}; leave "
                "one out"
            )
    if smallest_budget(config.space) == DENSE:
        lows = [f"--space.{name.strip()}_min" for name in config.space.dimensions.split(",")]
        raise InputError(
            f"--space: nothing is cut, as the smallest budget is 1; lower {' or '.join(lows)}"
        )


def _check_img_size(config: SweepConfig, model: nn.Module) -> None:
    """The networks' patches must cut the tasks' images."""
    size, spec = config.transfer.img_size, read_spec(model)
    try:
        resized(
            Architecture.dense(spec), (spec.in_chans, *((size, size) if size else spec.img_size))
        )
    except slim.UnsupportedModelError as error:
        raise InputError(f"--transfer.img_size {size}: {error}") from error


def _check_budgets(config: SweepConfig, model: nn.Module) -> None:
    """Every budget that may be asked must be one that the model, and the limits, can meet."""
    spec = read_spec(model)
    alike = slim.Scores.fill(spec, torch.ones)
    for budget in [*uniform_budgets(config.space), smallest_budget(config.space)]:
        try:
            select(spec, alike, budget)
        except slim.BudgetError as error:
            raise InputError(f"--space: {error}") from error
    BudgetSpace(config, spec, known_scores(config, spec)).check()


def _check_batch(stage: str, batch_size: int, task: Task) -> None:
    if not task.steps_per_epoch(batch_size):
        raise InputError(
            f"--{stage}.batch_size {batch_size} is more than the {task.size('train')} training "
            f"images of data {task.name}; give a smaller one"
        )


def resumed_config(command: Command) -> SweepConfig:
    """The configuration a run began with, and what of it may change.

    Raises:
        InputError: If there is no such run, or a value differs that must not.
    """
    asked = command.config
    stored = RunFolder.open(asked.storage, str(command.resume)).read_config()
    before, now = flatten(stored.to_dict()), flatten(asked.to_dict())
    for name in DIMENSIONS:
        if before[f"space.{name}_min"] == 1:  # as `space_for` has it for what is not cut
            now[f"space.{name}_min"] = 1.0
    fixed = command.given - MAY_CHANGE - {"trials", "name"}
    changed = [name for name in sorted(fixed) if now[name] != before[name]]
    if changed:
        shown = "; ".join(f"{n} was {before[n]!r}, is {now[n]!r}" for n in changed)
        raise InputError(f"run {command.resume} began with other values: {shown}")
    trials = asked.trials if "trials" in command.given else stored.trials
    if trials < stored.trials:
        raise InputError(
            f"--trials {trials} is fewer than run {command.resume} has; give {stored.trials} or "
            "more, or leave it out"
        )
    changes = {name: getattr(asked, name) for name in (MAY_CHANGE & command.given) | {"storage"}}
    return replace(stored, **changes, trials=trials)


def check_images(folder: RunFolder, task: Task) -> None:
    """Refuse to go on with other images than those that the run's dense model was made for.

    Raises:
        InputError: If images or classes differ, or the model is damaged.
    """
    try:
        differs = folder.recall("dense_done") and has_other_images(folder.dense, task)
    except slim.SlimError as error:
        raise InputError(f"run {folder.name} cannot go on: {error}") from error
    if differs:
        raise InputError(
            f"data {task.name} has other images or classes than run {folder.name} began with; "
            "bring those back, or begin another run"
        )
