"""The file that an interrupted training goes on from: written as one step, read without code."""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from slim.errors import FileFormatError, one_line
from slim.storage import needing_space

# What `torch.load` and `load_state_dict` raise on a file that is damaged or of something else.
UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
)


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Replace the file in one step: a reader sees the old or the new one, whole.

    Raises:
        StorageError: If the disk is full; the old one stays.
    """
    draft = path.with_suffix(".draft")
    try:
        with needing_space(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def reading_state(path: Path) -> Iterator[dict[str, Any]]:
    """The state in a file, on the CPU; what fails while it is taken over is the file's fault.

    Raises:
        FileFormatError: If the file is damaged, foreign or of another model or recipe.
    """
    try:
        yield torch.load(path, map_location="cpu", weights_only=True)
    except (torch.OutOfMemoryError, PermissionError):
        raise
    except UNREADABLE as error:
        line = one_line(error)
        raise FileFormatError(
            f"{path} is not a state of this training: {line}; remove it to train from the start"
        ) from error
