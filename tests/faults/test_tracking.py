"""What MLflow is told arrives once and in order, whoever dies and whatever is away meanwhile."""

import json
import multiprocessing
import multiprocessing.synchronize
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from mlflow.entities import Run
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    INVALID_PARAMETER_VALUE,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
    ErrorCode,
)
from mlflow.tracking import MlflowClient

from sweeps.delivery import may_pass
from sweeps.errors import StoppedRun
from sweeps.outbox import Message, Outbox
from sweeps.tracking import FAILED, FINISHED, KILLED, Tracker


class Died(BaseException):
    """Nothing of the program catches it, as nothing catches a kill."""


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('tracking') / 'mlflow.db'}"


def runs_of(tracker: Tracker) -> dict[str, Run]:
    client = MlflowClient(tracker.uri)
    found = client.search_runs([tracker.experiment])
    ours = [run for run in found if run.data.tags["vit-slim.id"].startswith(tracker.sweep)]
    assert len({run.info.run_name for run in ours}) == len(ours), "a run stands twice"
    return {run.info.run_name: run for run in ours}


def tell_everything(tracker: Tracker, root: Path) -> None:
    """A small sweep, as the driver tells it; told again it says the same."""
    tracker.begin("sweep")
    tracker.params(tracker.parent, {"trials": 2})
    for number in range(2):
        run = tracker.child(f"trial-{number}", "trial", {"trial": str(number)})
        if tracker.ended(run):
            continue
        tracker.reopen(run)
        tracker.params(run, {"tokens": 0.5})
        tracker.text(run, "architecture.json", "{}")
        for epoch in range(3):
            tracker.metrics(run, {"val_top1": 10.0 * epoch}, step=epoch)
        tracker.tags(run, {"state": "COMPLETE"})
        tracker.finish(run)
    tracker.finish_parent()


def assert_everything_is_told_once(tracker: Tracker) -> None:
    runs = runs_of(tracker)
    assert set(runs) == {"sweep", "trial-0", "trial-1"}
    assert {run.info.status for run in runs.values()} == {FINISHED}
    assert runs["sweep"].data.params == {"trials": "2"}
    client = MlflowClient(tracker.uri)
    parent = runs["sweep"].info.run_id
    for number in range(2):
        run = runs[f"trial-{number}"]
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert (run.data.tags["trial"], run.data.tags["state"]) == (str(number), "COMPLETE")
        points = client.get_metric_history(run.info.run_id, "val_top1")
        assert [(point.step, point.value) for point in points] == [(0, 0), (1, 10), (2, 20)]
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == [
            "architecture.json"
        ]


def test_whatever_was_told_last_the_next_session_tells_the_rest_once(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, left = Outbox.append, [0]

    def append_until_death(self: Outbox, message: Message) -> None:
        if left[0] == 0:
            raise Died
        left[0] -= 1
        append(self, message)

    monkeypatch.setattr(Outbox, "append", append_until_death)
    for last in (0, 1, 3, 5, 8, 12, 16, 19):
        root, left[0] = tmp_path / str(last), last
        killed = Tracker(uri, root)
        with pytest.raises(Died):
            tell_everything(killed, root)
        killed.close()
        left[0] = 10**9
        tracker = Tracker(uri, root)
        tell_everything(tracker, root)
        tracker.flush()
        tracker.close()
        assert_everything_is_told_once(tracker)


def test_the_last_value_told_is_the_one_that_stays(uri: str, tmp_path: Path) -> None:
    for value in (8.0, 9.0, 9.0, 8.0, 8.0):
        tracker = Tracker(uri, tmp_path)
        tracker.begin("sweep")
        tracker.metrics(tracker.parent, {"front_networks": value})
        tracker.flush()
        tracker.close()
    found = runs_of(tracker)["sweep"]
    assert found.data.metrics["front_networks"] == 8.0
    points = MlflowClient(uri).get_metric_history(found.info.run_id, "front_networks")
    assert [point.value for point in points] == [8.0, 9.0, 8.0]


def test_a_run_of_any_name_is_found_again(uri: str, tmp_path: Path) -> None:
    name = '/data/it\'s "the" 100% täsk-dense-0'
    for _ in range(2):
        tracker = Tracker(uri, tmp_path)
        tracker.begin("sweep")
        run = tracker.child(name, "transfer")
        tracker.finish(run)
        tracker.flush()
        tracker.close()
    fresh = Tracker(uri, tmp_path)
    assert fresh.run_id(run) == runs_of(fresh)[name].info.run_id
    fresh.close()


def test_a_session_whose_outbox_is_older_than_mlflow_begins_no_run_twice(
    uri: str, tmp_path: Path
) -> None:
    outbox = tmp_path / "state" / "mlflow.jsonl"
    begun = Tracker(uri, tmp_path)
    begun.begin("sweep")
    begun.flush()
    begun.close()
    kept = outbox.read_bytes()  # of what follows the bucket has nothing
    for _ in range(2):
        tracker = Tracker(uri, tmp_path)
        tell_everything(tracker, tmp_path)
        tracker.flush()
        tracker.close()
        outbox.write_bytes(kept)
    assert set(runs_of(tracker)) == {"sweep", "trial-0", "trial-1"}  # each stands once


def test_what_was_sent_but_not_marked_as_sent_changes_nothing_when_sent_again(
    uri: str, tmp_path: Path
) -> None:
    tracker = Tracker(uri, tmp_path)
    tell_everything(tracker, tmp_path)
    tracker.flush()
    tracker.close()
    (tmp_path / "state" / "mlflow.sent").write_text("")
    again = Tracker(uri, tmp_path)
    tell_everything(again, tmp_path)
    again.flush()
    again.close()
    assert_everything_is_told_once(again)


@pytest.mark.parametrize(
    ("code", "passes"),
    [
        (TEMPORARILY_UNAVAILABLE, True),
        (BAD_REQUEST, True),  # as MLflow says of a pool without a free connection
        (INVALID_PARAMETER_VALUE, False),
        (RESOURCE_DOES_NOT_EXIST, False),
    ],
)
def test_what_a_database_cannot_do_now_is_asked_again_and_a_refusal_is_not(
    code: int, passes: bool
) -> None:
    assert may_pass(MlflowException("no", error_code=code)) == passes
    answer = {"error_code": ErrorCode.Name(code), "message": "no"}
    assert may_pass(RestException(answer)) == passes


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (EndpointConnectionError(endpoint_url="http://bucket"), True),
        (ClientError({"ResponseMetadata": {"HTTPStatusCode": 503}}, "PutObject"), True),
        (ClientError({"ResponseMetadata": {"HTTPStatusCode": 403}}, "PutObject"), False),
        (NoCredentialsError(), False),
        (ConnectionResetError(), True),
        (ValueError("a fault of the program"), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_a_store_of_artifacts_that_fails_now_is_asked_again(
    error: Exception, passes: bool
) -> None:
    assert may_pass(error) == passes


def test_half_a_message_of_a_killed_run_is_told_anew(uri: str, tmp_path: Path) -> None:
    outbox = tmp_path / "state" / "mlflow.jsonl"
    outbox.parent.mkdir()
    outbox.write_text('{"kind": "create", "run": "sw')
    tracker = Tracker(uri, tmp_path)
    tell_everything(tracker, tmp_path)
    tracker.flush()
    tracker.close()
    assert_everything_is_told_once(tracker)


def test_an_interrupted_sweep_leaves_no_run_that_runs_and_no_reason_that_is_past(
    uri: str, tmp_path: Path
) -> None:
    tracker = Tracker(uri, tmp_path)
    tracker.begin("sweep")
    run = tracker.child("trial-0", "trial")
    tracker.finish(tracker.child("search", "search"), FAILED, "the disk was full")
    tracker.finish_parent(KILLED)
    tracker.flush()
    statuses = {name: each.info.status for name, each in runs_of(tracker).items()}
    assert statuses == {"sweep": KILLED, "trial-0": KILLED, "search": FAILED}
    assert runs_of(tracker)["search"].data.tags["reason"] == "the disk was full"
    tracker.reopen(run)
    tracker.reopen("search.search")
    tracker.flush()
    tracker.close()
    assert runs_of(tracker)["trial-0"].info.status == "RUNNING"
    assert "reason" not in runs_of(tracker)["search"].data.tags


def test_what_waits_is_sent_in_order_once_somebody_answers(uri: str, tmp_path: Path) -> None:
    tracker, notes = Tracker(uri, tmp_path), []
    tracker.on_note(notes.append)
    send, failures = tracker.delivery.send, [3]

    def answer_later(message: Message) -> None:
        if failures[0]:
            failures[0] -= 1
            raise MlflowException("API request failed with exception: connection refused")
        send(message)

    tracker.delivery.send = answer_later
    tell_everything(tracker, tmp_path)
    tracker.flush()
    tracker.close()
    assert_everything_is_told_once(tracker)
    assert "does not answer" in notes[0]
    assert "answers again" in notes[1]
    assert len(notes) == 2


def test_when_nobody_answers_to_the_end_the_run_stops_and_says_what_waits(
    uri: str, tmp_path: Path
) -> None:
    tracker = Tracker(uri, tmp_path)

    def away(message: Message) -> None:
        raise MlflowException("connection refused")

    tracker.delivery.send = away
    tell_everything(tracker, tmp_path)
    with pytest.raises(StoppedRun, match=r"connection refused; \d+ messages wait in .*jsonl"):
        tracker.flush(patience=0.5)
    tracker.close()
    again = Tracker(uri, tmp_path)
    tell_everything(again, tmp_path)
    again.flush()
    again.close()
    assert_everything_is_told_once(again)


def test_a_refusal_is_not_waited_out(uri: str, tmp_path: Path) -> None:
    tracker = Tracker(uri, tmp_path)
    tracker.begin("sweep")
    tracker.metrics("trial.never-created", {"val_top1": 1.0})
    with pytest.raises(StoppedRun, match=r"refuses .*never-created .* no longer"):
        tracker.flush()
    tracker.close()


def test_a_message_that_the_disk_does_not_take_leaves_the_outbox_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(tmp_path / "outbox.jsonl")
    outbox.append(Message("tags", "sweep", 1, {"a": "b"}))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        outbox.append(Message("tags", "sweep", 2, {"c": "d"}))
    monkeypatch.undo()
    outbox.append(Message("tags", "sweep", 3, {"e": "f"}))
    assert [message.time for message in Outbox(outbox.path).messages()] == [1, 3]


def begin_one(uri: str, root: Path, ready: multiprocessing.synchronize.Barrier) -> None:
    ready.wait()
    tracker = Tracker(uri, root)
    tell_everything(tracker, root)
    tracker.flush()


@pytest.mark.faults
def test_sweeps_that_open_a_cold_database_at_once_do_not_disturb_each_other(
    tmp_path: Path,
) -> None:
    uri = f"sqlite:///{tmp_path / 'cold.db'}"
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(4)
    sweeps = [
        context.Process(target=begin_one, args=(uri, tmp_path / str(n), ready)) for n in range(4)
    ]
    for sweep in sweeps:
        sweep.start()
    for sweep in sweeps:
        sweep.join()
    assert [sweep.exitcode for sweep in sweeps] == [0, 0, 0, 0]
    for number in range(4):
        tracker = Tracker(uri, tmp_path / str(number))
        assert_everything_is_told_once(tracker)


class Server:
    """A real tracking server that can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        store = f"sqlite:///{self.folder / 'server.db'}"
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.2)

    def stop(self) -> None:
        os.killpg(self.process.pid, 9)
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.stop()


@pytest.mark.faults
def test_a_server_that_was_away_twice_for_30_seconds_knows_everything(
    server: Server, tmp_path: Path
) -> None:
    root, notes = tmp_path / "run", []
    tracker = Tracker(server.uri, root)
    tracker.on_note(notes.append)
    tracker.begin("sweep")
    run = tracker.child("trial-0", "trial")
    for outage in range(2):
        tracker.flush()
        server.stop()
        for epoch in range(50):
            tracker.metrics(run, {"val_top1": float(epoch)}, step=50 * outage + epoch)
        time.sleep(30)
        server.start()
    tracker.finish_parent()
    tracker.flush()
    tracker.close()
    runs = runs_of(tracker)
    points = MlflowClient(server.uri).get_metric_history(runs["trial-0"].info.run_id, "val_top1")
    assert [point.step for point in points] == list(range(100))
    assert [point.timestamp for point in points] == sorted(point.timestamp for point in points)
    assert {run.info.status for run in runs.values()} == {FINISHED, KILLED}
    assert ["answers again" in note for note in notes] == [False, True] * 2
    print(json.dumps({"server stops": 2, "points lost": 100 - len(points)}))
