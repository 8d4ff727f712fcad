"""A bucket that keeps a run, and the folder on each machine in which its files are worked with.

Training states, tables and the study's journal are replaced and appended to in place, which a
bucket cannot do. So every machine works in a folder of its own, of the same name everywhere, and
what is written there is copied to the bucket; what is missing there is copied from it.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import ArrowException, fs

from slim import StoppedTraining
from slim.errors import one_line
from slim.files import write_text_atomic
from slim.processes import Processes
from sweeps.errors import InputError

MARK = "state/begun"  # in a run's folder: tells it from an earlier run of its name
LOCK = "state/lock"  # in a run's folder: held by the process that works on it

Stamps = dict[Path, tuple[int, int]]
"""When each file was written, in nanoseconds since 1970, and its bytes."""


def is_uri(storage: str) -> bool:
    """Whether it is not a folder."""
    return "://" in storage


def working_folder(storage: str) -> Path:
    """Where the files of a storage are worked with: the folder itself, or one for the URI."""
    if not is_uri(storage):
        return Path(storage)
    digest = hashlib.sha256(storage.encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"vit-slim-{os.getuid()}" / digest


@dataclass(frozen=True)
class Mirror:
    """Copies a run's files between its working folder and where it is kept; travels to workers.

    A storage that is a folder needs no copies: then nothing is done. Credentials come from the
    environment of each machine, as the cloud's own tools take them.

    Args:
        storage: A folder, or a URI such as `s3://bucket/prefix`.
        folder: The working folder of the storage, the same on all machines.
    """

    storage: str
    folder: Path

    @classmethod
    def of(cls, storage: str) -> "Mirror":
        """That of a storage."""
        return cls(storage, working_folder(storage))

    def mark(self, run: Path) -> None:
        """Mark the folder of a run that begins, here and where it is kept."""
        if is_uri(self.storage):
            _write_mark(run, uuid.uuid4().hex)
            self.keep(run / MARK)

    def forget_earlier(self, *paths: Path) -> None:
        """Remove what this machine has of an earlier run of the same name, since removed.

        Args:
            paths: In the folders of the runs that are worked on.
        """
        if not is_uri(self.storage):
            return
        system, root = self._system()
        for name in {path.relative_to(self.folder).parts[0] for path in paths}:
            run = self.folder / name
            if not (infos := _files(system, self._kept(root, run / MARK))):
                continue  # begun by a version that left no marks
            with system.open_input_stream(infos[0].path) as stream:
                mark = stream.read().decode()
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.folder.joinpath(f".{name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not (run / MARK).is_file() or (run / MARK).read_text() != mark:
                    if not is_locked(run / LOCK):
                        shutil.rmtree(run, ignore_errors=True)
                    _write_mark(run, mark)

    def fetch(
        self, *paths: Path, skip: Callable[[Path], bool] | None = None, anew: bool = False
    ) -> None:
        """Bring files or folders that are kept and not here, or newer than here.

        Args:
            paths: In the working folder.
            skip: Whether a file stays where it is; by default none does.
            anew: Whether training states are brought whatever is here.
        """
        if not is_uri(self.storage):
            return
        system, root = self._system()
        for path in paths:
            for info in _files(system, self._kept(root, path)):
                ours = self.folder / info.path.removeprefix(f"{root}/")
                wanted = not _is_as_new(ours, info) or (anew and _is_state(ours))
                if wanted and not (skip and skip(ours)):
                    _download(system, info.path, ours)

    def fetch_log(self, path: Path) -> None:
        """Bring a file that is only appended to, unless ours goes on from the one that is kept.

        A process that died between its last line and its copy left ours the longer one.
        """
        if not is_uri(self.storage):
            return
        system, root = self._system()
        for info in _files(system, self._kept(root, path)):
            _download(system, info.path, path, unless_continued=True)

    def keep(self, *paths: Path, known: Stamps | None = None, lacking: bool = False) -> None:
        """Copy files or folders to where they are kept.

        Args:
            paths: In the working folder.
            known: Files as they are kept: those that are still so are left out, others added.
            lacking: Whether to look if they are: who wrote them may have died before their copy.
                Training states are not missed, as they are forgotten when a training has ended.
        """
        if not is_uri(self.storage):
            return
        system, root = self._system()
        known = {} if known is None else known
        for path in paths:
            there: set[str] = set()
            if lacking:
                there = {info.path for info in _files(system, self._kept(root, path))}
            for ours in [path] if path.is_file() else sorted(path.rglob("*"), key=_headers_last):
                kept = self._kept(root, ours)
                with contextlib.suppress(FileNotFoundError):  # another worker's, gone by now
                    stamp = _stamp(ours)
                    lacks = lacking and kept not in there and not _is_state(ours)
                    if (lacks or known.get(ours) != stamp) and _is_whole(ours):
                        _upload(system, ours, kept)
                        known[ours] = stamp

    def kept(self, folder: Path) -> set[Path]:
        """The files of a folder that are kept, as they would lie here."""
        if not is_uri(self.storage):
            return set()
        system, root = self._system()
        infos = _files(system, self._kept(root, folder))
        return {self.folder / info.path.removeprefix(f"{root}/") for info in infos}

    def drop(self, path: Path) -> None:
        """Forget a file or a folder where it is kept."""
        if is_uri(self.storage):
            system, root = self._system()
            for info in _files(system, self._kept(root, path)):
                system.delete_file(info.path)

    def check(self) -> None:
        """Write and remove a file.

        Raises:
            InputError: If the storage cannot be used.
        """
        if not is_uri(self.storage):
            return
        try:
            system, root = self._system()
            probe = f"{root}/.writable-{uuid.uuid4().hex}"
            with system.open_output_stream(probe) as stream:
                stream.write(b"")
            system.delete_file(probe)
        except (OSError, ArrowException) as error:
            line = one_line(error)
            raise InputError(
                f"storage {self.storage} cannot be used: {line}; check bucket and credentials"
            ) from error

    def _system(self) -> tuple[fs.FileSystem, str]:
        """The file system and the path in it.

        Raises:
            InputError: If the working folder is in another user's, who might change what is read.
        """
        holder = self.folder.parent
        with contextlib.suppress(FileExistsError):
            holder.mkdir(mode=0o700, parents=True)
        about = holder.lstat()
        if about.st_uid != os.getuid() or not stat.S_ISDIR(about.st_mode):
            raise InputError(
                f"{holder}, where the files of {self.storage} are worked with, is not a folder of "
                "this user's; have it removed, or set TMPDIR to a folder of your own"
            )
        if about.st_mode & 0o077:
            holder.chmod(0o700)
        system, path = fs.FileSystem.from_uri(self.storage)
        return system, path.rstrip("/")

    def _kept(self, root: str, path: Path) -> str:
        return f"{root}/{path.relative_to(self.folder).as_posix()}"


NO_MIRROR = Mirror("", Path())


def mirrored(
    mirror: Mirror, paths: Sequence[Path], function: Callable[..., Iterator[Any]], *args: Any
) -> Iterator[Any]:
    """Run a generator function on files that are kept elsewhere.

    The files are brought first; what it wrote is kept at each step, before its item is yielded,
    at the end, and when it was asked to stop. Of several processes that run it together the first
    one keeps.
    """
    processes = Processes.current()
    first = processes.rank == 0
    mirror.forget_earlier(*paths)
    mirror.fetch(*paths)
    if processes.world_size > 1:
        _agree_on_states(mirror, paths, processes)
    known = stamps(paths)
    try:
        for item in function(*args):
            if first:
                mirror.keep(*paths, known=known)
            yield item
    except StoppedTraining:
        if first:
            mirror.keep(*paths, known=known)
        raise
    if first:
        mirror.keep(*paths, known=known, lacking=True)


def _agree_on_states(mirror: Mirror, paths: Sequence[Path], processes: Processes) -> None:
    """Have all go on from the first one's states, which may be newer than what is kept of them."""
    if processes.rank == 0:
        mirror.keep(*filter(_is_state, stamps(paths)))
    processes.meet()
    if processes.rank:
        mirror.fetch(*paths, anew=True)


def stamps(paths: Sequence[Path]) -> Stamps:
    """Of these files, and of all files below these folders."""
    found: Stamps = {}
    for path in paths:
        for file in [path] if path.is_file() else path.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # another worker's, gone by now
                if file.is_file():
                    found[file] = _stamp(file)
    return found


def is_locked(lock: Path) -> bool:
    """Whether a process of this machine holds a lock."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # it was never held here, or a file system without locks
        pass
    return False


def _stamp(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_mtime_ns, about.st_size


def _is_state(path: Path) -> bool:
    """Whether it is the state of a training."""
    return path.suffix == ".pt"


def _write_mark(run: Path, mark: str) -> None:
    (run / MARK).parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(run / MARK, mark)


def _files(system: fs.FileSystem, path: str) -> list[fs.FileInfo]:
    """The file, or all files below the folder."""
    (info,) = system.get_file_info([path])
    if info.type == fs.FileType.File:
        return [info]
    below = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    return [info for info in below if info.type == fs.FileType.File]


def _headers_last(path: Path) -> tuple[bool, Path]:
    """The order in which files are kept: a header says that what it describes is there."""
    return path.suffix == ".json", path


def _is_whole(path: Path) -> bool:
    """Whether it is a file that nobody is still writing."""
    return path.is_file() and path.suffix != ".draft" and not path.name.startswith(".")


def _is_as_new(ours: Path, info: fs.FileInfo) -> bool:
    if not ours.is_file():
        return False
    written, size = _stamp(ours)
    return bool(written >= info.mtime_ns and (size == info.size or _is_state(ours)))


def _download(
    system: fs.FileSystem, kept: str, ours: Path, unless_continued: bool = False
) -> None:
    """In one step, as several workers of a machine may bring the same file.

    With `unless_continued` ours is left as it is where it begins with all of the kept one.
    """
    ours.parent.mkdir(parents=True, exist_ok=True)
    draft = ours.with_name(f".{ours.name}.{uuid.uuid4().hex}")
    fs.copy_files(kept, str(draft), source_filesystem=system)
    if unless_continued and ours.is_file() and ours.read_bytes().startswith(draft.read_bytes()):
        draft.unlink()
    else:
        draft.replace(ours)


def _upload(system: fs.FileSystem, ours: Path, kept: str) -> None:
    system.create_dir(kept.rpartition("/")[0])
    fs.copy_files(str(ours), kept, destination_filesystem=system)
