"""Sixty-four sweeps log to one server at once, and nothing is lost."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from sweeps.tracking import FINISHED
from tests.services.mlflow_server import mlflow_server
from tests.services.postgres import Postgres
from tests.services.writers import EPOCHS, TRIALS, accuracy, name_of, write_sweeps

WRITERS, PROCESSES = 64, 4


@pytest.fixture
def server(database_server: Postgres, tmp_path: Path) -> Iterator[str]:
    with mlflow_server(database_server.database("writers"), tmp_path) as address:
        yield address


def all_runs(client: MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name("vit-slim")
    assert experiment is not None
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment.experiment_id], page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def test_sixty_four_writers_at_once_lose_nothing(server: str, tmp_path: Path) -> None:
    shares = [list(range(first, WRITERS, PROCESSES)) for first in range(PROCESSES)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=spawn) as pool:
        written = list(
            pool.map(write_sweeps, [server] * PROCESSES, [tmp_path] * PROCESSES, shares)
        )
    client = MlflowClient(server)
    runs = all_runs(client)
    parents = {run.info.run_name: run for run in runs if run.data.tags["kind"] == "sweep"}
    assert sorted(parents) == sorted(name_of(sweep) for sweep in range(WRITERS))
    assert len(runs) == WRITERS * (1 + TRIALS)
    assert {run.info.status for run in runs} == {FINISHED}
    trials = {
        (run.data.tags["mlflow.parentRunId"], int(run.data.tags["trial"])): run
        for run in runs
        if run.data.tags["kind"] == "trial"
    }
    lost = 0
    for sweep in range(WRITERS):
        parent = parents[name_of(sweep)]
        assert parent.data.params == {f"value-{n}": str(n) for n in range(150)}
        for trial in range(TRIALS):
            run = trials[parent.info.run_id, trial]
            assert run.data.tags["state"] == "COMPLETE"
            assert run.data.params == {"tokens": "0.5", "mhsa": "0.5", "mlp": "0.5"}
            assert run.data.metrics["val_top1"] == accuracy(sweep, trial, EPOCHS - 1)
            points = client.get_metric_history(run.info.run_id, "val_top1")
            told = [(point.step, point.value) for point in points]
            expected = [(epoch, accuracy(sweep, trial, epoch)) for epoch in range(EPOCHS)]
            assert told == expected, "points are lost, doubled or out of order"
            lost += len(expected) - len(told)
    messages, seconds = sum(count for count, _ in written), max(taken for _, taken in written)
    print(f"{WRITERS} writers, {messages} messages in {seconds:.1f} s, lost={lost}")
