"""Runs of run_sweep.py that a benchmark may have begun before."""

from pathlib import Path

from sweeps.cli import parse, read_values
from sweeps.config import flatten


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
    begun = flatten(read_values(path).to_dict())
    for name, value in flatten(parse(arguments).config.to_dict()).items():
        if begun[name] != value:
            raise SystemExit(
                f"{folder} was begun with --{name} {begun[name]}, not {value}; move it away"
            )
    return True
