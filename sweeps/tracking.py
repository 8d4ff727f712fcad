"""Writing a run to MLflow; the driver is the only writer."""

import logging
import os
import subprocess
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from sweeps.errors import InputError

EXPERIMENT = "vit-slim"
FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"
LONGEST_PARAM = 6000
VERSIONED = ("ray", "torch", "timm", "optuna", "mlflow", "vit-slim-sweeps")


class Tracker:
    """One sweep in MLflow: a parent run and its children.

    Args:
        uri: Of the tracking server or database; database and experiment are made here, before
            anybody else writes.

    Raises:
        InputError: If the tracking server or database cannot be used.
    """

    parent: str

    def __init__(self, uri: str) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        try:
            self.client = MlflowClient(tracking_uri=uri)
            self.experiment = _experiment(self.client, uri)
        except (MlflowException, OSError) as error:
            line = " ".join(str(error).split())[:200]
            raise InputError(
                f"tracking {uri} cannot be used: {line}; give --tracking-uri"
            ) from error

    def begin(self, name: str, parent: str | None = None) -> str:
        """Begin the sweep's run, or take it up again; returns its id."""
        self.parent = parent or self._create(name, {"kind": "sweep", **_versions()})
        self.reopen(self.parent)
        return self.parent

    def reopen(self, run: str) -> None:
        """Mark a run as running again."""
        self.client.update_run(run, status="RUNNING")

    def child(self, name: str, kind: str, tags: Mapping[str, str] | None = None) -> str:
        """Begin a run below the sweep's; returns its id."""
        own = {MLFLOW_PARENT_RUN_ID: self.parent, "kind": kind}
        return self._create(name, own | dict(tags or {}))

    def params(self, run: str, values: Mapping[str, Any]) -> None:
        """Log parameters, as text."""
        params = [Param(name, str(value)[:LONGEST_PARAM]) for name, value in values.items()]
        for start in range(0, len(params), 100):
            self.client.log_batch(run, params=params[start : start + 100])

    def metrics(self, run: str, values: Mapping[str, float | None], step: int = 0) -> None:
        """Log metrics at a step; the last value logged is the final one."""
        now = int(time.time() * 1000)
        metrics = [Metric(k, float(v), now, step) for k, v in values.items() if v is not None]
        self.client.log_batch(run, metrics=metrics)

    def tags(self, run: str, values: Mapping[str, str]) -> None:
        """Set tags."""
        self.client.log_batch(run, tags=[RunTag(name, value) for name, value in values.items()])

    def artifact(self, run: str, path: Path, folder: str | None = None) -> None:
        """Upload a file or a folder."""
        if path.is_dir():
            self.client.log_artifacts(run, str(path), folder or path.name)
        else:
            self.client.log_artifact(run, str(path), folder)

    def text(self, run: str, name: str, content: str) -> None:
        """Upload text as an artifact."""
        self.client.log_text(run, content, name)

    def finish(self, run: str, status: str = FINISHED) -> None:
        """End a run."""
        self.client.set_terminated(run, status)

    def finish_parent(self, status: str = FINISHED) -> None:
        """End the sweep's run; children that still run end as KILLED, to be taken up again."""
        query = (
            f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{self.parent}' and attributes.status = 'RUNNING'"
        )
        while running := self.client.search_runs([self.experiment], query):
            for run in running:
                self.finish(run.info.run_id, KILLED)
        self.finish(self.parent, status)

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        own = {MLFLOW_RUN_NAME: name, "mlflow.user": os.environ.get("USER", "unknown")}
        run = self.client.create_run(self.experiment, run_name=name, tags=own | dict(tags))
        run_id: str = run.info.run_id
        return run_id


def changed_tags(before: Iterable[int], now: Iterable[int]) -> dict[int, str]:
    """Which trials enter the front ("true") or leave it ("false")."""
    old, new = set(before), set(now)
    return dict.fromkeys(new - old, "true") | dict.fromkeys(old - new, "false")


def _experiment(client: MlflowClient, uri: str) -> str:
    """The experiment's id; made if need be, also when another process makes it at once."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        try:
            made: str = client.create_experiment(EXPERIMENT, artifact_location=_artifacts(uri))
            return made
        except MlflowException:
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise InputError(
            f"MLflow's experiment {EXPERIMENT} is deleted in {uri}; restore it or give another "
            "--tracking-uri"
        )
    experiment: str = found.experiment_id
    return experiment


def _artifacts(uri: str) -> str | None:
    """Beside a database file, in `mlartifacts`; a server knows its own place."""
    scheme, _, path = uri.partition(":///")
    if scheme != "sqlite":
        return None
    return (Path(path).parent / "mlartifacts").as_uri()


def _versions() -> dict[str, str]:
    """Package versions and the git commit, as tags."""
    tags = {f"version.{name}": version(name) for name in VERSIONED}
    root = Path(__file__).parent.parent
    shown = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    if shown.returncode == 0:
        tags["git_commit"] = shown.stdout.strip()
    return tags
