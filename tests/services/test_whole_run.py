"""A whole run on a tracking server that asks who it is; nothing it writes says."""

import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from tests.services.mlflow_server import mlflow_server
from tests.services.postgres import Postgres
from tests.sweeps.conftest import SMALL, run_sweep_process

NAME = "sweeper"


@dataclass(frozen=True)
class GuardedServer:
    """A server that takes one name and one password."""

    address: str
    password: str


@pytest.fixture
def guarded(database_server: Postgres, tmp_path: Path) -> Iterator[GuardedServer]:
    folder, password = tmp_path / "server", secrets.token_hex(16)
    folder.mkdir()
    settings = folder / "auth.ini"
    settings.write_text(
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = {database_server.database('accounts')}\n"
        f"admin_username = {NAME}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    environment = {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
    }
    runs = database_server.database("runs")
    with mlflow_server(
        runs, folder, "--app-name", "basic-auth", environment=environment
    ) as address:
        yield GuardedServer(address, password)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where Ray writes its logs: a path short enough for its sockets."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


def files_with(secret: str, *folders: Path) -> list[Path]:
    """Files below the folders that hold a text."""
    return [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes()
    ]


def test_a_run_logs_to_a_guarded_server_and_writes_its_password_nowhere(
    guarded: GuardedServer, ray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    arguments = [*SMALL, "--name", "guarded", "--trials", "2", "--tracking-uri", guarded.address]

    refused = run_sweep_process(cwd, *arguments, check=False)
    assert refused.returncode == 2
    assert len(refused.stderr.strip().splitlines()) == 1
    assert guarded.address in refused.stderr
    assert not (cwd / "runs" / "guarded").exists()

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", NAME)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", guarded.password)
    done = run_sweep_process(cwd, *arguments)
    folder = cwd / "runs" / "guarded"
    table = pd.read_csv(folder / "trials.csv")
    assert (table["state"] == "COMPLETE").all()

    client = MlflowClient(guarded.address)
    experiment = client.get_experiment_by_name("vit-slim")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")
    logged = {int(run.data.tags["trial"]): run.data.metrics for run in runs}
    assert sorted(logged) == table["trial"].tolist()
    for row in table.itertuples():
        assert logged[row.trial]["val_top1"] == row.val_top1
        assert logged[row.trial]["test_top1"] == row.test_top1
    models = {file.path for file in client.list_artifacts(runs[0].info.run_id, "model")}
    assert "model/model.safetensors" in models

    assert list(ray.glob("*/session_*/logs/*")), "Ray's logs are elsewhere"
    assert files_with(guarded.password, cwd, ray) == []
    assert guarded.password not in done.stdout + done.stderr
