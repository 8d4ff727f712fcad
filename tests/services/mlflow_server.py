"""`mlflow server` on the loopback, with PostgreSQL behind it."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.services.postgres import free_port

WITHOUT_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # eight more processes

PATIENT = "--timeout-worker-healthcheck 300"  # on a busy machine it would kill its own workers


@contextmanager
def mlflow_server(
    database: str, folder: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run a server as long as the context lasts; its address."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", database, "--artifacts-destination", str(folder / "artifacts")),
        *("--workers", "2", "--uvicorn-opts", PATIENT, *options),
    ]
    address, log = f"http://127.0.0.1:{port}", folder / "server.log"
    with log.open("w") as told:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=told,
            stderr=told,
            env=os.environ | WITHOUT_JOBS | dict(environment or {}),
            start_new_session=True,
        )
        try:
            _wait(address, process, log)
            yield address
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # its workers too
            process.wait(60)


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(1800):
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except urllib.error.HTTPError:  # it answers, and asks who we are
            return
        except OSError:
            assert process.poll() is None, log.read_text()[-2000:]
            time.sleep(0.1)
    raise AssertionError(log.read_text()[-2000:])
