"""A sweep that begins with another run's search, so that one search serves many sweeps.

The other run's dense model and mask checkpoint, and its shared weights where they suit, are copied
before anything trains: what was begun so needs the other run no more.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from torch import nn

import slim
from slim.masks import as_timm
from slim.ranking import Scores
from slim.serving import load_about
from slim.spec import ModelSpec
from slim.tasks import Task
from slim.training import Epoch
from sweeps.cli import Command
from sweeps.config import SweepConfig, flatten
from sweeps.dense import has_other_images
from sweeps.errors import InputError
from sweeps.pretrained import suited
from sweeps.run_folder import RunFolder
from sweeps.space import DIMENSIONS, stand_in_scores

# What a search depends on, but for its seed: those of the run that searched are taken.
_OF_A_SEARCH = ("data", "model", "pretrained", "weights", "vit", "dense", "search")
_TAKEN = "taken"


def with_search_of(command: Command) -> SweepConfig:
    """The command's configuration, with the values of the run whose search it takes, if any.

    Raises:
        InputError: If there is no such run, if it has not searched yet, or if a value was given
            that it did not search with.
    """
    asked, name = command.config, command.config.searched
    if name is None:
        return asked
    other = RunFolder.open(asked.storage, name)
    if not other.search.is_dir():
        raise InputError(
            f"--searched {name}: that run has not finished its search; first go on with "
            f"--resume {other.address}"
        )
    stored = other.read_config()
    before, now = flatten(stored.to_dict()), flatten(asked.to_dict())
    taken = {key for key in before if key.partition(".")[0] in _OF_A_SEARCH}
    changed = [key for key in sorted(command.given & taken) if now[key] != before[key]]
    if changed:
        shown = "; ".join(f"{key} was {before[key]!r}, is {now[key]!r}" for key in changed)
        raise InputError(
            f"--searched {name}: that run began with other values: {shown}; leave them out, or "
            "--searched"
        )
    config = replace(asked, **{group: getattr(stored, group) for group in _OF_A_SEARCH})
    if config.share.epochs and stored.share.epochs:  # as it shared, where nothing else is given
        shared = {k: v for k, v in asdict(stored.share).items() if _share(k) not in command.given}
        config = replace(config, share=replace(config.share, **shared))
        taken |= {_share(key) for key in shared}
    return suited(config, command.given | taken)


def searched_model(config: SweepConfig, task: Task) -> nn.Module:
    """The dense model that a sweep takes from another run.

    Raises:
        InputError: If it is damaged, or the task has other images now than it was trained on.
    """
    folder = searched_dense(config)
    try:
        model, differs = as_timm(slim.load(folder)), has_other_images(folder, task)
    except slim.FileFormatError as error:
        raise InputError(f"--searched {config.searched}: {error}") from error
    if differs:
        raise InputError(
            f"--searched {config.searched}: data {config.data} has other images than that run "
            "began with; leave --searched out"
        )
    return model


def searched_dense(config: SweepConfig) -> Path:
    """Where the dense model is that a sweep takes from another run."""
    return _source(config).dense


def known_scores(config: SweepConfig, spec: ModelSpec) -> Scores:
    """What ranks before a run's own search: another run's, or stand-ins.

    Raises:
        InputError: If the other run's is damaged.
    """
    if config.searched is None:
        return stand_in_scores(spec)
    try:
        return slim.MaskCheckpoint.load(_source(config).search).ranking
    except slim.FileFormatError as error:
        raise InputError(f"--searched {config.searched}: {error}") from error


def stages_taken(config: SweepConfig) -> tuple[str, ...]:
    """The stages that another run went through for this one; decided when a run begins.

    Shared weights are taken where both runs share by the same values, and the other one for all
    budgets of this space.
    """
    if config.searched is None:
        return ()
    taken = _own(config).recall(_TAKEN)
    if taken is not None:
        return tuple(taken)
    other = _other(config)
    stored = other.read_config()
    lows = [f"{name}_min" for name in DIMENSIONS]
    within = all(getattr(config.space, low) >= getattr(stored.space, low) for low in lows)
    alike = bool(config.share.epochs) and config.share == stored.share
    shared = ("share",) if within and alike and other.shared.is_dir() else ()
    return ("dense", "search", *shared)


def take_search(config: SweepConfig, folder: RunFolder) -> None:
    """Copy what another run made into a run's folder, unless that is done or there is none.

    Raises:
        InputError: If it is damaged or gone.
    """
    if config.searched is None or folder.recall(_TAKEN) is not None:
        return
    taken, other = stages_taken(config), _other(config)
    checkpoints = [(other.search, folder.search), (other.shared, folder.shared)]
    try:
        about = load_about(other.dense)
        about.pop("test_top1", None)  # this run looks at test when it comes to its end
        slim.save(slim.load(other.dense), folder.dense, about)
        for source, copy in checkpoints[: len(taken) - 1]:
            slim.MaskCheckpoint.load(source).save(copy)
    except slim.FileFormatError as error:
        raise InputError(f"--searched {config.searched}: {error}") from error
    folder.mirror.keep(folder.dense, folder.search, folder.shared)
    folder.remember(_TAKEN, taken)


def taken_stage(config: SweepConfig, task: Task, folder: Path, state: Path) -> Iterator[Epoch]:
    """The stage whose result was copied into a folder: an `Epoch` of number 0 tells its worth."""
    dense = folder.name == "dense"
    known = load_about(folder) if dense else slim.MaskCheckpoint.load(folder).metrics
    yield Epoch(0, float("nan"), known["val_top1"], 0.0)


def _share(key: str) -> str:
    return f"share.{key}"


def _source(config: SweepConfig) -> RunFolder:
    """The folder that has what is taken: the run's own, once it has."""
    own = _own(config)
    return own if own.recall(_TAKEN) else _other(config)


def _own(config: SweepConfig) -> RunFolder:
    """The run's folder; one without a name yet is none of those that are there."""
    return RunFolder(config.storage, config.name or ".unnamed")


def _other(config: SweepConfig) -> RunFolder:
    """The folder of the run that searched."""
    return RunFolder.open(config.storage, str(config.searched))
