"""Reading and writing tensors with a header: one safetensors file and one JSON file, no pickle."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from slim.errors import FileFormatError, SlimError, one_line
from slim.storage import needing_space

VERSION = 2
LARGEST_HEADER = 64 * 1024 * 1024
_OLD = ".old"  # ends the name of a folder that is being replaced
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def write_tensors(
    folder: str | Path,
    stem: str,
    kind: str,
    tensors: Mapping[str, Tensor],
    header: dict[str, Any],
    texts: Mapping[str, str] | None = None,
) -> Path:
    """Write `stem.safetensors` and a JSON header that names its checksum, as one atomic step.

    Args:
        folder: Made if need be; an older one is replaced when the pair is complete. For that it
            is renamed to `.NAME.*.old` for a moment, which a kill may leave (`restore_folders`).
        stem: "model" or "checkpoint"; the header is `config.json` or `checkpoint.json`.
        kind: What the files hold; checked on reading.
        tensors: By name; copied to the CPU.
        header: JSON values.
        texts: Further files by name, for people; reading does without them.

    Returns:
        The folder.

    Raises:
        SlimError: If a file has the folder's name, or a value of the header cannot be written as
            JSON.
        StorageError: If the disk is full; an older pair stays. A kill leaves it too, but in the
            working folder, which cannot be replaced as a whole.
    """
    target, folder = Path(folder), Path(folder).resolve()  # a link to a folder stays one
    if folder.exists() and not folder.is_dir():
        raise SlimError(f"{target} is a file; give a folder")
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        with needing_space(folder):
            draft.mkdir(parents=True)
            weights = draft / f"{stem}.safetensors"
            save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, weights)
            stamped = {"format": kind, "version": VERSION, "sha256": _sha256(weights)} | header
            (draft / _header_name(stem)).write_text(_header_text(stamped))
            weights.chmod((draft / _header_name(stem)).stat().st_mode)  # safetensors' is 0600
            for name, text in (texts or {}).items():
                (draft / name).write_text(text, encoding="utf-8", newline="")
            for path in draft.iterdir():
                _sync(path)
            _replace_folder(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def read_tensors(
    folder: str | Path, stem: str, kind: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote, and check that it is whole.

    Returns:
        The tensors by name, and the header.

    Raises:
        FileFormatError: If a file is missing, truncated, changed, foreign or of another version;
            one line that names the file.
    """
    folder = Path(folder)
    header = read_header(folder, stem, kind)
    weights = folder / f"{stem}.safetensors"
    if not weights.is_file():
        raise FileFormatError(f"{weights} is missing; the folder is not complete")
    if _sha256(weights) != header.get("sha256"):
        raise FileFormatError(f"{weights} is damaged: its checksum is not the header's")
    try:
        # Cloned: of the memory's own alignment, and no longer a view of the file.
        return {name: tensor.clone() for name, tensor in load_file(weights).items()}, header
    except (SafetensorError, ValueError) as error:
        raise FileFormatError(f"{weights} is not a safetensors file: {one_line(error)}") from error


def read_header(folder: str | Path, stem: str, kind: str) -> dict[str, Any]:
    """Read the JSON header alone.

    Raises:
        FileFormatError: If it is missing, damaged, foreign or of another version.
    """
    path = Path(folder) / _header_name(stem)
    if not path.is_file():
        raise FileFormatError(f"{path} is missing; expected a folder that holds a {kind}")
    if path.stat().st_size > LARGEST_HEADER:
        raise FileFormatError(f"{path} is larger than a header can be")
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is not JSON: {one_line(error)}") from error
    if not isinstance(header, dict) or header.get("format") != kind:
        raise FileFormatError(f"{path} does not describe a {kind}")
    if header.get("version") != VERSION:
        raise FileFormatError(
            f"{path} has version {header.get('version')!r}, this package reads {VERSION}; "
            "use the release that wrote it"
        )
    return header


def replace_header(folder: str | Path, stem: str, header: dict[str, Any]) -> None:
    """Replace the header as one step; the tensors and the checksum it names stay."""
    write_text_atomic(Path(folder) / _header_name(stem), _header_text(header))


def check_tensors(
    where: str | Path, tensors: Mapping[str, Tensor], expected: Mapping[str, torch.Size]
) -> None:
    """Refuse tensors that are missing, extra, of another shape, not finite or of mixed types.

    Raises:
        FileFormatError: Names the first tensor that is wrong.
    """
    for name in sorted(tensors.keys() ^ expected.keys()):
        problem = "missing" if name in expected else "not expected"
        raise FileFormatError(f"{where}: tensor {name!r} is {problem}")
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) != 1 or not dtypes <= FLOATS:
        found = ", ".join(sorted(str(dtype) for dtype in dtypes))
        raise FileFormatError(f"{where}: tensors are of {found}, expected one type of float")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name]:
            raise FileFormatError(
                f"{where}: tensor {name} has shape {tuple(tensor.shape)}, "
                f"expected {tuple(expected[name])}"
            )
        if not bool(tensor.isfinite().all()):
            raise FileFormatError(f"{where}: tensor {name} holds values that are not finite")


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Put the file's name before what is found wrong in it."""
    try:
        yield
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from error


def _header_name(stem: str) -> str:
    return "config.json" if stem == "model" else f"{stem}.json"


def _header_text(header: dict[str, Any]) -> str:
    try:
        return json.dumps(header, indent=1, default=_plain) + "\n"
    except (TypeError, ValueError) as error:
        raise SlimError(
            f"{one_line(error)}; give numbers, text, lists and dictionaries of them"
        ) from error


def _plain(value: Any) -> Any:
    """A number of NumPy or torch as Python's."""
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.numel() == 1):
        return value.item()
    raise TypeError(f"a value of {type(value).__name__} cannot be kept beside a network")


def _replace_folder(draft: Path, folder: Path) -> None:
    """Put a complete folder where an older one may stand; what else lay in it stays there."""
    if not folder.is_dir():
        draft.rename(folder)
        return
    shutil.copymode(folder, draft)
    if _is_worked_in(folder):  # which must stay the folder that it is
        _replace_files(draft, folder)
        return
    old = folder.with_name(f"{draft.name}{_OLD}")
    folder.rename(old)
    try:
        draft.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    for other in old.iterdir():
        if not (folder / other.name).exists():
            other.rename(folder / other.name)
    shutil.rmtree(old, ignore_errors=True)


def _is_worked_in(folder: Path) -> bool:
    """Whether the process's working folder is this one or lies in it."""
    try:
        return Path.cwd().is_relative_to(folder)
    except FileNotFoundError:  # it was removed
        return False


def _replace_files(draft: Path, folder: Path) -> None:
    """Move the files of one folder into another; those that were there stay if that fails."""
    old = folder / draft.name
    old.mkdir()
    try:
        for path in draft.iterdir():
            if (there := folder / path.name).exists():
                there.rename(old / path.name)
        for path in list(draft.iterdir()):
            path.rename(folder / path.name)
    except OSError:
        for path in old.iterdir():
            path.replace(folder / path.name)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def restore_folders(parent: Path) -> None:
    """Give folders their name back whose replacement a kill stopped half-way."""
    for old in parent.glob(f".*{_OLD}"):
        folder = parent / old.name.removeprefix(".").removesuffix(_OLD).rpartition(".")[0]
        if not folder.exists():
            old.rename(folder)


def _sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text_atomic(path: str | Path, text: str) -> None:
    """Replace a text file in one step: a reader sees the old or the new one, whole."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_bytes_atomic(path: str | Path, content: bytes, sync: bool = True) -> None:
    """Replace a file in one step.

    Args:
        path: The file.
        content: All of it.
        sync: Wait until it is on the disk; else a power cut may leave it empty.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
