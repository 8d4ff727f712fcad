"""A real MLflow on SQLite with sweeps of every shape, written once for all tests."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

import slim
from analysis.runs import Run, load_run
from slim import Budget
from tests.analysis.tracked_sweeps import (
    EXPERIMENT,
    Sweep,
    Transferred,
    Trial,
    tiny_checkpoint,
    write_sweep,
)

DENSE = Budget()
SMALL = Budget(tokens=0.5, mhsa=0.5, mlp=0.5)

FULL = Sweep(
    name="full <run> of *all*",
    stages={"dense": 120.0, "search": 60.0},
    trials=(
        Trial(0, DENSE, curve=(90.0,), test_top1=89.0, seconds=3.0, front=True),
        Trial(
            1,
            Budget(0.9, 0.8, 0.7),
            curve=(80, 88, 89.5),
            test_top1=88.0,
            seconds=30.0,
            front=True,
        ),
        Trial(
            2,
            Budget(0.6, 0.5, 0.6),
            curve=(70, 85.0, 86.0),
            test_top1=85.5,
            seconds=25.0,
            front=True,
        ),
        Trial(3, Budget(1.0, 0.4, 0.9), curve=(60, 84.0, 83.0), test_top1=82.0, seconds=28.0),
        Trial(
            4,
            Budget(0.3, 0.3, 0.3),
            curve=(40, 60.0, 70.0),
            test_top1=69.0,
            seconds=15.0,
            front=True,
        ),
        Trial(5, Budget(0.8, 0.2, 0.2), state="PRUNED", curve=(20.0,), seconds=6.0),
        Trial(6, Budget(0.5, 0.9, 0.4), state="FAILED"),
    ),
    transfer=(
        Transferred("digits", "dense", "full", 0, 95.0),
        Transferred("digits", "1", "full", 0, 96.0),
        Transferred("digits", "1", "full", 1, 94.0),
        Transferred("digits", "2", "full", 0, 93.0),
        Transferred("digits", "4", "full", 0, 90.0),
        Transferred("digits", "dense", "linear", 0, 91.0),
        Transferred("digits", "1", "linear", 0, 90.5),
        Transferred("fashion & co", "dense", "full", 0, 85.0),
        Transferred("fashion & co", "2", "full", 0, 86.0),
    ),
)
EMPTY = Sweep(name="empty")
ONE = Sweep(name="one trial", trials=(Trial(0, DENSE, curve=(90.0,), seconds=3.0, front=True),))
FAILED = Sweep(
    name="only failed",
    status="FAILED",
    trials=(Trial(0, DENSE, state="FAILED"), Trial(1, SMALL, state="FAILED")),
)
RUNNING = Sweep(
    name="still running",
    status="RUNNING",
    trials=(
        Trial(0, DENSE, curve=(90.0,), seconds=3.0, front=True),
        Trial(1, SMALL, state="RUNNING", curve=(50.0,)),
    ),
)

GRID = [Budget(t, a, m) for t in (0.4, 0.7, 1.0) for a in (0.4, 0.7, 1.0) for m in (0.4, 0.7, 1.0)]
"""Budgets that were judged: their accuracy is a plane, 10 points for all tokens."""
PLANE = tuple((b, 60 + 10 * b.tokens + 5 * b.mhsa + 2 * b.mlp) for b in GRID)
JUDGED = Sweep(
    name="judged first",
    stages={"dense": 20.0, "search": 10.0, "share": 10.0},
    judged=PLANE,
    trials=(
        Trial(0, DENSE, curve=(80, 90.0), seconds=5.0, front=True),
        Trial(1, Budget(mhsa=0.4), curve=(75, 86.0), seconds=5.0, front=True),
        Trial(2, Budget(0.4, 0.4, 0.4), curve=(70, 80.0), seconds=5.0, front=True),
        Trial(3, Budget(0.4, 0.7, 1.0), state="PRUNED", curve=(60.0,), seconds=2.0),
        Trial(4, Budget(0.7, 0.7, 1.0), state="PRUNED", seconds=1.0, reason="9 ms an image"),
    ),
)


@pytest.fixture(scope="session")
def checkpoint() -> slim.MaskCheckpoint:
    return tiny_checkpoint()


@pytest.fixture(scope="session")
def tracking_uri(checkpoint: slim.MaskCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow store that holds FULL, EMPTY, ONE, FAILED, RUNNING and JUDGED."""
    folder: Path = tmp_path_factory.mktemp("tracking")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    client.create_experiment(EXPERIMENT, artifact_location=(folder / "artifacts").as_uri())
    for sweep in (FULL, EMPTY, ONE, FAILED, RUNNING, JUDGED):
        write_sweep(client, checkpoint, sweep)
    return uri


@pytest.fixture(scope="session")
def full_run(tracking_uri: str) -> Run:
    return load_run(tracking_uri, FULL.name)


@pytest.fixture(scope="session")
def judged_run(tracking_uri: str) -> Run:
    return load_run(tracking_uri, JUDGED.name)
