"""A disk that takes no more: one error for the many that libraries make of it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slim.errors import StorageError

NUMBERS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
TEXTS = ("No space left on device", "Disk quota exceeded", "Read-only file system")


def is_out_of_space(error: BaseException | None) -> bool:
    """Whether a full or read-only disk is behind an error, or behind one that led to it."""
    while error is not None:
        if isinstance(error, StorageError):  # from another process it comes without its cause
            return True
        if isinstance(error, OSError) and error.errno in NUMBERS:
            return True
        if any(text in str(error) for text in TEXTS):  # safetensors and SQLite keep no number
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def needing_space(path: str | Path) -> Iterator[None]:
    """Say of a write that failed for want of space that it did.

    Raises:
        StorageError: One line that names the path.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_space(error):
            raise StorageError(
                f"{path} cannot be written: the disk is full or read-only; free space on it"
            ) from error
        raise
