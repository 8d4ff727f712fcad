"""Runs of run_sweep.py that a benchmark may have begun before."""

from pathlib import Path

from sweeps.cli import parse, read_values
from sweeps.config import flatten
from sweeps.errors import InputError
from sweeps.inputs import MAY_CHANGE


def is_begun(folder: Path, arguments: list[str]) -> bool:
    """Whether a run is there to go on with.

    Args:
        folder: The run's.
        arguments: What would begin it.

    Raises:
        SystemExit: If it was begun with other values, an earlier version's defaults perhaps.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        return False
    try:
        begun, asked = read_values(path), parse(arguments).config
    except InputError as error:
        raise SystemExit(f"{folder} cannot be gone on with: {error}") from error
    values = flatten(begun.to_dict())
    for name, value in flatten(asked.to_dict()).items():
        if values[name] != value and name not in MAY_CHANGE:
            raise SystemExit(
                f"{folder} was begun with --{name} {values[name]}, not {value}; move it away"
            )
    return True
