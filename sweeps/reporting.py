"""Reports of runs that are there already: made again, or two runs beside each other."""

import contextlib
import hashlib
from pathlib import Path

import yaml
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from analysis.errors import AnalysisError, RunNotFoundError
from analysis.reports import make_comparison, make_reports
from analysis.runs import find_run
from slim.errors import one_line
from sweeps.cli import Command
from sweeps.errors import InputError
from sweeps.run_folder import RunFolder
from sweeps.tracking import fail_at_once, unusable

_LONGEST = 200  # characters; files may have 255, and drafts add some
_LONGEST_PART = 90


def report(command: Command) -> int:
    """Make the reports that a command asks for, in the runs' storage; a run's own in MLflow too.

    Returns:
        The exit code: 0.

    Raises:
        InputError: If a run is not there, or a report cannot be made.
    """
    fail_at_once()
    try:
        pages = _again(command) if command.report else _compared(command)
    except AnalysisError as error:
        raise InputError(str(error)) from error
    for page in pages:
        print(page)
    return 0


def _again(command: Command) -> list[Path]:
    folder = RunFolder.open(command.config.storage, str(command.report), to_read=True)
    uri = _tracking_uri(command, folder)
    parent = _find(uri, folder)
    pages = make_reports(uri, folder.name, folder.reports, run_id=parent)
    folder.mirror.keep(*pages)
    client = MlflowClient(uri)
    try:
        for page in pages:
            client.log_artifact(parent, str(page), "reports")
    except Exception as error:  # of the client's many kinds, and its store's
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise InputError(
            f"the reports are in {folder.reports}, but MLflow at {uri} did not take them: {reason}"
        ) from error
    return pages


def _compared(command: Command) -> list[Path]:
    first, second = command.compare
    if first == second:
        raise InputError(f"--compare takes two different runs, not {first} twice")
    storage = command.config.storage
    folders = [RunFolder.open(storage, name, to_read=True) for name in (first, second)]
    uris = [_tracking_uri(command, folder) for folder in folders]
    if uris[0] != uris[1]:
        raise InputError(
            f"run {first} is tracked in {uris[0]} and run {second} in {uris[1]}; give the "
            "--tracking-uri that holds both"
        )
    runs = (_find(uris[0], folders[0]), _find(uris[0], folders[1]))
    mirror = folders[0].mirror
    page = mirror.folder / f"{both_names(first, second)}.html"
    make_comparison(uris[0], first, second, page, runs)
    mirror.keep(page)
    return [page]


def both_names(first: str, second: str) -> str:
    """Both names in one that a file may have."""
    both = f"{first}-and-{second}"
    if len(both) <= _LONGEST:
        return both
    digest = hashlib.sha256(both.encode()).hexdigest()[:8]
    return f"{first[:_LONGEST_PART]}-and-{second[:_LONGEST_PART]}-{digest}"


def _find(uri: str, folder: RunFolder) -> str:
    """The id of a run's MLflow run; a first look at whether MLflow answers."""
    known = folder.recall("mlflow_run")
    try:
        with contextlib.suppress(RunNotFoundError):  # where another store is asked
            if known:
                return find_run(uri, str(known))
        return find_run(uri, folder.name)
    except (MlflowException, OSError) as error:
        raise unusable(uri, error) from error


def _tracking_uri(command: Command, folder: RunFolder) -> str:
    """The one that is asked for, else the one that the run began with, whatever wrote it."""
    if "tracking_uri" in command.given:
        return command.config.tracking_uri
    try:
        return str(yaml.safe_load(folder.config_file.read_text())["tracking_uri"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        line = " ".join(str(error).split())
        raise InputError(f"{folder.config_file} is damaged: {line}") from error
