"""Reading pickles of arrays and plain values, in which nothing else is made and no code is run."""

import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core.multiarray import _reconstruct

from slim.errors import TaskError

# NumPy 2 moved the first; files of both kinds are about.
ARRAYS_ALONE = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def read_pickle(path: Path, open_file: Callable[..., Any] = open, encoding: str = "ASCII") -> Any:
    """Read a pickle of arrays, strings, numbers, lists and dictionaries.

    Args:
        path: The file.
        open_file: Opens it; `gzip.open` for a compressed one.
        encoding: Of strings that Python 2 wrote; `latin1` where they hold arrays' bytes.

    Raises:
        TaskError: If it is missing or damaged, or asks for anything else.
    """
    try:
        with open_file(path, "rb") as file:
            return _ArraysAlone(file, encoding=encoding).load()
    except (
        *(OSError, EOFError, zlib.error, pickle.UnpicklingError),
        *(ValueError, TypeError, IndexError, KeyError, AttributeError, MemoryError),
    ) as error:
        raise TaskError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


class _ArraysAlone(pickle.Unpickler):
    """Refuses every name but those that make an array."""

    def find_class(self, module: str, name: str) -> Any:
        """See `pickle.Unpickler.find_class`."""
        if (module, name) not in ARRAYS_ALONE:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")
        return ARRAYS_ALONE[module, name]
