"""A run kept in a bucket leaves everything there, and goes on from it on a fresh machine."""

import os
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import boto3
import pandas as pd
import pytest

from sweeps.mirror import working_folder
from tests.sweeps.buckets import s3_server
from tests.sweeps.conftest import SMALL, run_sweep_process

pytestmark = pytest.mark.clusters
STORAGE = "s3://kept/some/runs"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    shutil.rmtree(working_folder(STORAGE), ignore_errors=True)
    with s3_server("kept") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield boto3.resource("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).Bucket("kept")
    shutil.rmtree(working_folder(STORAGE), ignore_errors=True)


def body(bucket, name: str) -> bytes:
    return bucket.Object(f"some/runs/{name}").get()["Body"].read()


def files(bucket, run: str = "far") -> set[str]:
    below = f"some/runs/{run}/"
    kept = {entry.key for entry in bucket.objects.filter(Prefix=below)}
    return {key.removeprefix(below) for key in kept if not key.endswith("/")}


def trials(bucket) -> pd.DataFrame:
    return pd.read_csv(BytesIO(body(bucket, "far/trials.csv")))


def test_a_run_in_a_bucket_is_whole_and_goes_on_elsewhere(bucket, tmp_path: Path) -> None:
    arguments = ["--storage", STORAGE, "--tasks", "none"]
    arguments += ["--method", "judge", "--share.epochs", "0"]
    short = ["--dense.epochs", "1", "--trials", "2", "--repeats", "2", "--name", "far"]
    run_sweep_process(tmp_path, *SMALL, *arguments, *short)
    assert files(bucket) >= {
        *("config.yaml", "trials.csv", "front.csv", "front.html", "state/study.journal"),
        *("dense/model.safetensors", "search/checkpoint.json", "reports/front.html"),
        *(f"models/{n}/{f}" for n in (0, 1) for f in ("model.safetensors", "config.json")),
    }
    front = pd.read_csv(BytesIO(body(bucket, "far/front.csv")))
    repeats = {name for name in files(bucket) if name.startswith("state/repeats/")}
    trained = front[front["epochs"] > 0]["trial"]  # trial 0 is the dense model as it stands
    assert {f"state/repeats/{n}-1/model.safetensors" for n in trained} <= repeats
    assert not any(name.startswith("state/repeats/0-") for name in repeats)
    assert not any(name.endswith(".pt") for name in files(bucket))  # all trainings have ended
    first = trials(bucket)
    assert (first["state"] == "COMPLETE").all()
    assert not list((tmp_path).glob("runs"))

    shutil.rmtree(working_folder(STORAGE))  # as on another machine
    run_sweep_process(
        tmp_path, "--resume", "far", "--storage", STORAGE, "--trials", "3", "--cluster", "local"
    )
    pd.testing.assert_frame_equal(trials(bucket).iloc[:2], first)
    assert trials(bucket)["state"].tolist() == ["COMPLETE"] * 3
    assert "models/2/model.safetensors" in files(bucket)
    assert not any(name.startswith(("state/trials", "state/outputs")) for name in files(bucket))
    repeated = pd.read_csv(BytesIO(body(bucket, "far/repeats.csv")))
    assert set(repeated["repeat"]) == {0, 1}

    made = bucket.Object("some/runs/far/reports/front.html").last_modified
    run_sweep_process(tmp_path, "--report", "far", "--storage", STORAGE)
    assert bucket.Object("some/runs/far/reports/front.html").last_modified > made
    other = ["--name", "other", "--searched", "far", "--cluster", "local"]
    once = ["--trials", "1", "--judge.budgets", "0", "--finetune.epochs", "1"]
    run_sweep_process(tmp_path, *other, *once, *arguments)
    run_sweep_process(tmp_path, "--compare", "far", "other", "--storage", STORAGE)
    assert b"far and other" in body(bucket, "far-and-other.html")


def test_a_search_in_a_bucket_is_taken_elsewhere(bucket, tmp_path: Path) -> None:
    arguments = ["--storage", STORAGE, "--trials", "1", "--judge.budgets", "2"]
    carried = ["--tasks", "mnist", "--transfer.epochs", "1", "--dense.epochs", "1"]
    run_sweep_process(tmp_path, *SMALL, *arguments, *carried, "--name", "near")
    results = {name for name in files(bucket, "near") if name.startswith("state/transfer/")}
    assert results == {"state/transfer/mnist_dense_0.json"}  # trial 0 is the same network
    shutil.rmtree(working_folder(STORAGE))  # as on another machine
    taking = ["--searched", "near", "--name", "again", "--method", "share", "--seed", "1"]
    local = ["--cluster", "local", "--tasks", "none", "--finetune.epochs", "1"]
    run_sweep_process(tmp_path, *taking, *arguments, *local)
    for part in ("dense/model", "search/checkpoint", "shared/checkpoint"):
        ours, theirs = (body(bucket, f"{run}/{part}.safetensors") for run in ("again", "near"))
        assert ours == theirs
