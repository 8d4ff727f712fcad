"""A sweep that begins with another run's search, so that one search serves many sweeps.

The other run's dense model and mask checkpoint, and its shared weights where both share, are
copied in place of the stages that would make them: what was begun so needs the other run no more.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import slim
from slim.processes import Processes
from slim.serving import load_about
from slim.tasks import Task
from slim.training import Epoch
from sweeps.cli import Command
from sweeps.config import SweepConfig, flatten
from sweeps.errors import InputError
from sweeps.pretrained import suited
from sweeps.run_folder import RunFolder

Copy = Callable[[SweepConfig, Task, Path, Path, Path], Iterator[Epoch]]

# What a search depends on, but for its seed: those of the run that searched are taken.
_OF_A_SEARCH = ("data", "model", "pretrained", "weights", "vit", "dense", "search")


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
    stored = other.read_config()
    shares = bool(asked.share.epochs and stored.share.epochs)
    if not other.recall("share_done" if shares else "search_done"):
        raise InputError(
            f"--searched {name}: that run has not finished its "
            f"{'weight sharing' if shares else 'search'}; go on with --resume {name} first"
        )
    groups = (*_OF_A_SEARCH, "share") if shares else _OF_A_SEARCH
    before, now = flatten(stored.to_dict()), flatten(asked.to_dict())
    taken = {key for key in before if key.partition(".")[0] in groups}
    changed = [key for key in sorted(command.given & taken) if now[key] != before[key]]
    if changed:
        shown = "; ".join(f"{key} was {before[key]!r}, is {now[key]!r}" for key in changed)
        raise InputError(f"--searched {name}: that run began with other values: {shown}")
    config = replace(asked, **{group: getattr(stored, group) for group in groups})
    return suited(config, command.given | taken)


def check_images(config: SweepConfig, task: Task) -> None:
    """Refuse a search on other images than the task has now.

    Raises:
        InputError: If the data changed since the other run trained on it.
    """
    if config.searched is None:
        return
    seen = load_about(RunFolder(config.storage, config.searched).dense).get("data")
    if seen != json.loads(json.dumps(task.fingerprint())):
        raise InputError(
            f"--searched {config.searched}: data {config.data} has other images than that run "
            "began with; leave --searched out"
        )


def stages_taken(config: SweepConfig) -> dict[str, tuple[Copy, Path]]:
    """By stage that is another run's: what copies what it made, and the folder with that."""
    if config.searched is None:
        return {}
    other = RunFolder(config.storage, config.searched)
    other.mirror.fetch(other.progress)
    taken: dict[str, tuple[Copy, Path]] = {
        "dense": (copy_network, other.dense),
        "search": (copy_checkpoint, other.search),
    }
    if config.share.epochs and other.recall("share_done"):
        taken["share"] = (copy_checkpoint, other.shared)
    return taken


def copy_network(
    config: SweepConfig, task: Task, source: Path, folder: Path, state: Path
) -> Iterator[Epoch]:
    """Save a network again, with all that is kept beside it; yields one `Epoch` of number 0."""
    about = load_about(source)
    if not Processes.current().rank:
        slim.save(slim.load(source), folder, about)
    yield Epoch(0, float("nan"), about["val_top1"], 0.0)


def copy_checkpoint(
    config: SweepConfig, task: Task, source: Path, folder: Path, state: Path
) -> Iterator[Epoch]:
    """Save a mask checkpoint again; yields one `Epoch` of number 0."""
    checkpoint = slim.MaskCheckpoint.load(source)
    if not Processes.current().rank:
        checkpoint.save(folder)
    yield Epoch(0, float("nan"), checkpoint.metrics["val_top1"], 0.0)
