"""What a run leaves on disk, and how far it came."""

import contextlib
import fcntl
import json
import re
import shlex
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from slim.files import restore_folders, write_text_atomic
from sweeps.cli import read_values
from sweeps.config import SweepConfig
from sweeps.errors import InputError
from sweeps.mirror import LOCK, Mirror, Stamps, is_locked, is_uri

_READ_AS_NUMBER = re.compile(r"[-+]?[\d._]+(e[-+]?\d+)?", re.IGNORECASE)


class _Dumper(yaml.SafeDumper):
    """Quotes text that the command line's YAML reads as a number, though PyYAML's does not."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = "'" if _READ_AS_NUMBER.fullmatch(text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.represent_text)


class RunFolder:
    """The folder STORAGE/NAME of one run."""

    def __init__(self, storage: str | Path, name: str) -> None:
        self.mirror = Mirror.of(str(storage))
        self.path = self.mirror.folder / name
        self.name = name
        self.known: Stamps = {}  # files as this process has kept them

    @classmethod
    def create(cls, config: SweepConfig, name: str) -> "RunFolder":
        """Make a new run's folder and write its configuration first.

        Raises:
            InputError: If the name exists or the storage cannot be written.
        """
        folder = cls(config.storage, name)
        folder.refuse_taken()
        if is_uri(config.storage):  # what a run of that name left here that is not kept any more
            remove(folder.path)
        draft = cls(config.storage, f".{name}.{uuid.uuid4().hex[:8]}")
        try:
            draft.path.mkdir(parents=True)
            folder.write_config(config, draft.config_file)
            draft.path.rename(folder.path)
        except OSError as error:
            shutil.rmtree(draft.path, ignore_errors=True)
            folder.refuse_taken()
            raise InputError(
                f"storage {config.storage} cannot be written: {error.strerror}; give --storage"
            ) from error
        folder.mirror.mark(folder.path)
        folder.mirror.keep(folder.config_file)
        return folder

    @property
    def address(self) -> str:
        """The name as `--resume` takes it, with `--storage` where that is not the default."""
        usual = str(Path(SweepConfig().storage).resolve())
        storage = self.mirror.storage
        return self.name if storage == usual else f"{self.name} --storage {shlex.quote(storage)}"

    @classmethod
    def open(cls, storage: str | Path, name: str, *, to_read: bool = False) -> "RunFolder":
        """Find an existing run, and bring what this process needs of it.

        Args:
            storage: Where it is.
            name: Its name.
            to_read: Whether it is only to be read what it was and where it is tracked.

        Raises:
            InputError: If there is no such run.
        """
        folder = cls(storage, name)
        folder.mirror.check()
        if not folder.is_worked_on():  # whose files are newer than those in the bucket
            folder.mirror.forget_earlier(folder.path)
            folder.mirror.fetch(folder.config_file, folder.progress)
            if not to_read:
                folder.mirror.fetch(folder.dense, folder.search, folder.shared)
                for log in (folder.journal, folder.outbox):
                    folder.mirror.fetch_log(log)
                folder.mirror.fetch(folder.state, skip=folder.is_not_the_drivers)
        gone = is_uri(folder.mirror.storage) and not folder._is_taken()
        if gone or not folder.config_file.is_file():
            raise InputError(f"there is no run {name} in {storage}; check the name and --storage")
        return folder

    def refuse_taken(self) -> None:
        """Refuse a name that a run of this storage has.

        Raises:
            InputError: If one does, or the storage cannot be used.
        """
        self.mirror.check()
        if self._is_taken():
            raise InputError(
                f"run {self.name} exists in {self.mirror.storage}; give another --name, or "
                f"--resume {self.address}"
            )

    def _is_taken(self) -> bool:
        """Whether there is a run of the name; what lies here of one in a bucket is a copy."""
        if self.is_worked_on():
            return True
        if is_uri(self.mirror.storage):
            return bool(self.mirror.kept(self.config_file))
        return self.path.is_dir() and any(self.path.iterdir())

    def write_config(self, config: SweepConfig, path: Path | None = None) -> None:
        """Write all values, enough to run it again."""
        values = config.to_dict() | {"name": self.name}
        text = yaml.dump(values, Dumper=_Dumper, sort_keys=False)
        write_text_atomic(path or self.config_file, text)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """In it no other process works on the run; a kill ends it too.

        Raises:
            InputError: If another process does.
        """
        self.state.mkdir(exist_ok=True)
        with self.lock.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"another process works on run {self.name}") from error
            except OSError:  # a file system without locks
                pass
            yield

    def is_worked_on(self) -> bool:
        """Whether a process of this machine works on the run."""
        return is_locked(self.lock)

    def remove_drafts(self) -> None:
        """Remove what a killed process left half written."""
        for folder in (self.path, self.state, self.models):
            restore_folders(folder)
            for draft in folder.glob(".*.*") if folder.is_dir() else ():
                remove(draft)

    def keep(self) -> None:
        """Copy what this process wrote since the last time to where the run is kept.

        The workers keep what they write: networks and the states of trainings.
        """
        state = [path for path in self.state.glob("*") if _is_own(path)]
        tables = [path for path in self.path.glob("*") if path.is_file()]
        self.mirror.keep(*tables, *state, self.reports, known=self.known)

    def is_not_the_drivers(self, path: Path) -> bool:
        """Whether a file of the state is a log, or a worker's, which brings it where it trains."""
        weights = path.suffix == ".safetensors" and path.is_relative_to(self.repeats)
        return path in (self.journal, self.outbox) or path.suffix == ".pt" or weights

    def forget(self, state: Path) -> None:
        """Remove the state of a training that has ended, here and where the run is kept."""
        remove(state)
        self.mirror.drop(state)

    def forget_all(self, folder: Path, states: Sequence[Path]) -> None:
        """`forget` those states of a folder that a killed run has left."""
        kept = self.mirror.kept(folder)
        for state in states:
            if state.exists() or any(state in (one, one.parent) for one in kept):
                self.forget(state)

    def forget_failed(self, state: Path, reason: str) -> None:
        """`forget` the state of a training that failed, unless the reason says where it is."""
        if str(state) not in reason:
            self.forget(state)

    def discard(self) -> None:
        """Remove a folder in which nothing was made, not even the dense model."""
        if self.recall("dense_done"):
            return
        shutil.rmtree(self.path, ignore_errors=True)
        self.mirror.drop(self.path)

    @property
    def config_file(self) -> Path:
        """All values of the run."""
        return self.path / "config.yaml"

    @property
    def dense(self) -> Path:
        """The dense model before the search."""
        return self.path / "dense"

    @property
    def search(self) -> Path:
        """The mask checkpoint."""
        return self.path / "search"

    @property
    def shared(self) -> Path:
        """The mask checkpoint after weight-shared training."""
        return self.path / "shared"

    @property
    def models(self) -> Path:
        """One saved network per COMPLETE trial."""
        return self.path / "models"

    @property
    def reports(self) -> Path:
        """The executed notebooks."""
        return self.path / "reports"

    @property
    def state(self) -> Path:
        """What only resuming needs: training states, the study's journal, Ray Tune's files."""
        return self.path / "state"

    @property
    def progress(self) -> Path:
        """What `remember` kept."""
        return self.state / "progress.json"

    @property
    def lock(self) -> Path:
        """Locked by the process that works on the run."""
        return self.path / LOCK

    @property
    def repeats(self) -> Path:
        """Networks of the front's budgets trained again, and the states of these trainings."""
        return self.state / "repeats"

    @property
    def transfers(self) -> Path:
        """What each transfer gave, and the states of those that train."""
        return self.state / "transfer"

    @property
    def outputs(self) -> Path:
        """The dense model's outputs, while trials follow them."""
        return self.state / "outputs"

    @property
    def journal(self) -> Path:
        """The journal of the run's Optuna studies."""
        return self.state / "study.journal"

    @property
    def outbox(self) -> Path:
        """What MLflow was told, and is to be told."""
        return self.state / "mlflow.jsonl"

    @property
    def stop(self) -> Path:
        """The file that asks every training to stop."""
        return self.state / "stop"

    def read_config(self) -> SweepConfig:
        """The configuration the run began with; what it does not say is as by default.

        Raises:
            InputError: If the file was damaged, or is of another release.
        """
        try:
            return read_values(self.config_file)
        except InputError as error:
            reason = str(error).removeprefix(f"{self.config_file}: ")
            raise InputError(
                f"{self.config_file} is damaged, or of another release: {reason}"
            ) from error

    def remember(self, key: str, value: Any) -> None:
        """Keep a JSON value for a later session of this run."""
        self.state.mkdir(exist_ok=True)
        known = self.recall_all() | {key: value}
        write_text_atomic(self.progress, json.dumps(known, indent=1) + "\n")
        self.keep()

    def recall(self, key: str, default: Any = None) -> Any:
        """What `remember` kept."""
        return self.recall_all().get(key, default)

    def recall_all(self) -> dict[str, Any]:
        """Everything that `remember` kept.

        Raises:
            InputError: If the file was damaged.
        """
        if not self.progress.is_file():
            return {}
        try:
            known: dict[str, Any] = dict(json.loads(self.progress.read_text()))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{self.progress} is damaged: {error}; put it back from a copy, or begin the run "
                "anew under another --name"
            ) from error
        return known


def remove(path: Path) -> None:
    """Remove a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_own(path: Path) -> bool:
    """Whether it is the driver's state: not a worker's, Ray Tune's or a lock."""
    others = ("tune", "trials", "outputs", "transfer", "repeats", "lock", "stop", "begun")
    return path.name not in others and path.suffix not in (".pt", ".draft", ".lock")
