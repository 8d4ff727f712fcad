"""Writing a run to MLflow; the driver is the only writer."""

import contextlib
import fcntl
import logging
import os
import subprocess
import textwrap
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from analysis.runs import EXPERIMENT
from sweeps.delivery import PATIENCE, Delivery
from sweeps.errors import InputError
from sweeps.front_view import SHARED_VIEW, front_page, front_view
from sweeps.ledger import Ledger
from sweeps.outbox import Message, Outbox
from sweeps.versions import versions_of

FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"
LONGEST_PARAM = 6000
MOST_PARAMS = 100
LONGEST_REASON = 500
ID_TAG = "vit-slim.id"
VERSIONED = ("ray", "torch", "timm", "optuna", "mlflow", "vit-slim-sweeps")


class Tracker:
    """One sweep in MLflow: a parent run and its children.

    Everything is written to an outbox in the run's folder first, and sent from there. Runs are
    named by keys that are unique in the sweep, and stand in MLflow under a tag of their own: a
    resumed sweep finds them again, and says nothing twice.

    Args:
        uri: Of the tracking server or database; database and experiment are made here, before
            anybody else writes.
        root: The run's folder; the outbox is in it.

    Raises:
        InputError: If the tracking server or database cannot be used.
    """

    parent = "sweep"

    def __init__(self, uri: str, root: Path) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        fail_at_once()  # the delivery tries again
        self.uri, self.root = uri, root
        try:
            with _alone(uri):
                self.client = MlflowClient(tracking_uri=uri)
                self.experiment = _experiment(self.client, uri)
        except (MlflowException, OSError) as error:
            raise unusable(uri, error) from error
        self.outbox, self.ledger = Outbox(root / "state" / "mlflow.jsonl"), Ledger()
        self.sweep = uuid.uuid4().hex
        self._first_session = True
        for message in self.outbox.messages():
            self._first_session = False  # what another began may be in no outbox of this machine
            self.ledger.enter(message)
            self.sweep = message.values.get(ID_TAG, self.sweep).partition("/")[0]
        self.delivery = Delivery(self.outbox, self._send, uri)
        self._ids: dict[str, str] = {}
        self._never_sent: set[str] = set()  # runs that MLflow cannot have yet

    def begin(self, name: str) -> None:
        """Begin the sweep's run, or take it up again."""
        own = _names(name) | {"kind": "sweep"} | self._id(self.parent)
        self._tell("create", self.parent, own)
        self.delivery.start()
        self._tell("tags", self.parent, _versions())
        self.reopen(self.parent)
        self._tell("view", self.parent, {"name": name})

    def on_note(self, note: Callable[[str], None]) -> None:
        """Whom to tell that MLflow is lost or found again."""
        self.delivery.note = note

    def front_page(self, name: str) -> str:
        """Where MLflow's page shows the front of a sweep, below the page's address."""
        return front_page(self.experiment, name)

    def reopen(self, run: str) -> None:
        """Mark a run as running again; why it ended before is no longer true."""
        self._tell("untag", run, {"reason": ""})
        self._tell("status", run, {"status": "RUNNING"})

    def child(self, name: str, kind: str, tags: Mapping[str, str] | None = None) -> str:
        """Begin a run below the sweep's, unless it is there; returns its key."""
        key = f"{kind}.{name}"
        own = _names(name) | {"kind": kind} | self._id(key) | dict(tags or {})
        self._tell("create", key, own)
        return key

    def params(self, run: str, values: Mapping[str, Any]) -> None:
        """Log parameters, as text."""
        texts = {name: str(value)[:LONGEST_PARAM] for name, value in values.items()}
        names = list(texts)
        for start in range(0, len(names), MOST_PARAMS):
            self._tell("params", run, {n: texts[n] for n in names[start : start + MOST_PARAMS]})

    def metrics(self, run: str, values: Mapping[str, float | None], step: int = 0) -> None:
        """Log metrics at a step; the last value logged is the final one."""
        known = {name: float(value) for name, value in values.items() if value is not None}
        self._tell("metrics", run, known, step)

    def tags(self, run: str, values: Mapping[str, str]) -> None:
        """Set tags."""
        self._tell("tags", run, values)

    def artifact(self, run: str, path: Path, folder: str | None = None) -> None:
        """Upload a file or a folder, as it is when its turn comes."""
        place = path.relative_to(self.root) if path.is_relative_to(self.root) else path
        into = folder or (path.name if path.is_dir() else "")
        self._tell("artifact", run, {"path": str(place), "folder": into})

    def text(self, run: str, name: str, content: str) -> None:
        """Upload text as an artifact."""
        path = self.root / "state" / "mlflow" / run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        self.artifact(run, path)

    def finish(self, run: str, status: str = FINISHED, reason: str = "") -> None:
        """End a run, with the reason if it is not a good one."""
        if reason:
            self._tell("tags", run, {"reason": reason[:LONGEST_REASON]})
        self._tell("status", run, {"status": status})

    def ended_as(self, run: str, status: str) -> bool:
        """Whether the run has ended with this status."""
        return self.ledger.status(run) == status

    def ended(self, run: str) -> bool:
        """Whether the run is there and has ended."""
        return self.ledger.status(run) not in ("", "RUNNING")

    def finish_parent(self, status: str = FINISHED) -> None:
        """End the sweep's run; children that still run end as KILLED, to be taken up again."""
        for run in self.ledger.running():
            if run != self.parent:
                self.finish(run, KILLED)
        self.finish(self.parent, status)

    def flush(self, patience: float = PATIENCE) -> None:
        """Wait until MLflow knows everything.

        Raises:
            StoppedRun: If it does not answer for so many seconds.
        """
        self.delivery.flush(patience)

    def close(self) -> None:
        """Send no more; what was not sent is sent when the run is resumed."""
        self.delivery.close()

    def _tell(self, kind: str, run: str, values: Mapping[str, Any], step: int = 0) -> None:
        self.delivery.check()
        now = int(time.time() * 1000)
        news = self.ledger.enter(Message(kind, run, now, dict(values), step))
        if news is not None:
            if kind == "create" and self._first_session:
                self._never_sent.add(run)
            self.outbox.append(news)

    def _id(self, key: str) -> dict[str, str]:
        """The tag that no other run of any sweep has."""
        return {ID_TAG: f"{self.sweep}/{key}".replace("'", "%27")}  # MLflow is asked for it

    def _send(self, message: Message) -> None:
        """Deliver one message; the same one again changes nothing."""
        values, time_ms = message.values, message.time
        if message.kind == "create":
            self._create(message)
            return
        run = self.run_id(message.run)
        if message.kind == "params":
            self.client.log_batch(run, params=[Param(k, v) for k, v in values.items()])
        elif message.kind == "metrics":
            points = [Metric(k, v, time_ms, message.step) for k, v in values.items()]
            self.client.log_batch(run, metrics=points)
        elif message.kind == "tags":
            self.client.log_batch(run, tags=[RunTag(k, v) for k, v in values.items()])
        elif message.kind == "untag":
            self._untag(run, values)
        elif message.kind == "view":
            self.client.set_experiment_tag(
                self.experiment, SHARED_VIEW + values["name"], front_view(run)
            )
        elif message.kind == "artifact":
            self._upload(run, self.root / values["path"], values["folder"] or None)
        elif values["status"] == "RUNNING":
            self.client.update_run(run, status="RUNNING")
        else:
            self.client.set_terminated(run, values["status"], end_time=time_ms)

    def _create(self, message: Message) -> None:
        if message.run in self._never_sent:
            self._never_sent.remove(message.run)  # a second attempt looks whether it is there
        elif self._find(message.run) is not None:
            return
        tags = dict(message.values)
        if message.run != self.parent:
            tags[MLFLOW_PARENT_RUN_ID] = self.run_id(self.parent)
        run = self.client.create_run(
            self.experiment,
            start_time=message.time,
            tags=tags,
            run_name=message.values[MLFLOW_RUN_NAME],
        )
        self._ids[message.run] = run.info.run_id

    def run_id(self, key: str) -> str:
        """MLflow's id of a run that was created."""
        found = self._find(key)
        if found is None:
            raise MlflowException.invalid_parameter_value(
                f"the run {key} of this sweep is no longer in {self.uri}"
            )
        return found

    def _find(self, key: str) -> str | None:
        """MLflow's id of a run, by the tag that no other run has."""
        if key not in self._ids:
            query = f"tags.`{ID_TAG}` = '{self._id(key)[ID_TAG]}'"
            for run in self.client.search_runs([self.experiment], query, max_results=1):
                self._ids[key] = run.info.run_id
        return self._ids.get(key)

    def _untag(self, run: str, names: Iterable[str]) -> None:
        set_ = self.client.get_run(run).data.tags
        for name in names:
            if name in set_:
                self.client.delete_tag(run, name)

    def _upload(self, run: str, path: Path, folder: str | None) -> None:
        if path.is_dir():
            self.client.log_artifacts(run, str(path), folder)
        elif path.is_file():
            self.client.log_artifact(run, str(path), folder)
        else:
            self.delivery.note(f"{path} is gone, and is not among the artifacts")


def fail_at_once() -> None:
    """Have MLflow's client say soon that a server does not answer, instead of after minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


def unusable(uri: str, error: Exception) -> InputError:
    """What to tell of a tracking server or database that fails from the start."""
    line = textwrap.shorten(str(error), 200, placeholder=" ...")
    return InputError(f"tracking {uri} cannot be used: {line}; give --tracking-uri")


def _names(name: str) -> dict[str, str]:
    return {MLFLOW_RUN_NAME: name, "mlflow.user": os.environ.get("USER", "unknown")}


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """One process at a time opens a database file: MLflow makes its tables without a lock."""
    path = _database(uri)
    if path is None:
        yield
        return
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _database(uri: str) -> Path | None:
    """The file of a database that is one."""
    scheme, _, path = uri.partition(":///")
    return Path(path) if scheme == "sqlite" and path else None


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
    path = _database(uri)
    return None if path is None else (path.parent / "mlartifacts").as_uri()


def _versions() -> dict[str, str]:
    """Package versions and the git commit, as tags."""
    tags = {f"version.{name}": found for name, found in versions_of(VERSIONED).items()}
    root = Path(__file__).parent.parent
    shown = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    if shown.returncode == 0:
        tags["git_commit"] = shown.stdout.strip()
    return tags
