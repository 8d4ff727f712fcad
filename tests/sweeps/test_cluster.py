"""Which cluster `--cluster auto` joins, and with what authentication."""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from sweeps import cluster
from sweeps.cluster import connect
from sweeps.config import SweepConfig

TOKEN = secrets.token_hex(32)
ASK = """
import os, ray
from sweeps.cluster import connect
from sweeps.config import SweepConfig
with connect(SweepConfig()):
    print(ray.get_runtime_context().gcs_address, os.environ.get("RAY_AUTH_MODE"))
"""


def joined() -> list[str]:
    """The address that `--cluster auto` joins here, and how, on a machine with a token."""
    environment = {
        k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_MODE")
    }
    environment |= {"RAY_AUTH_TOKEN": TOKEN, "RAY_OVERRIDE_RESOURCES": '{"CPU": 1}'}
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@contextlib.contextmanager
def started(mode: str) -> Iterator[str]:
    """The port of a head that `ray start` runs, with a mode of authentication."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += [f"--port={port}", "--num-cpus=1", "--include-dashboard=false"]
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        command += ["--object-store-memory=80000000", f"--temp-dir={folder}"]
        log = Path(folder) / "log"
        with log.open("w") as file:
            head = subprocess.Popen(
                command,
                env=os.environ | {"RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": TOKEN},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        try:
            while "Ray runtime started" not in log.read_text():
                assert head.poll() is None, log.read_text()
                time.sleep(0.2)
            yield f":{port}"
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(head.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.kill()
            head.kill()
            head.wait()


@pytest.mark.parametrize(("mode", "joins_with"), [("disabled", "None"), ("token", "token")])
def test_a_cluster_that_stays_is_joined_with_a_token_if_it_asks(
    mode: str, joins_with: str
) -> None:
    with started(mode) as port:
        address, used = joined()
    assert address.endswith(port)
    assert used == joins_with


def test_a_cluster_that_another_program_started_for_itself_is_left_alone() -> None:
    with connect(SweepConfig(cluster="local")):
        own = ray.get_runtime_context().gcs_address
        address, _ = joined()
    assert address != own


@pytest.mark.parametrize(
    ("gpus", "held"), [(0.0, 16), (0.3, 12), (0.6, 4), (0.5, 8), (1.0, 4), (2.0, 2), (8.0, 0)]
)
def test_a_fraction_of_a_gpu_is_of_one_gpu(gpus: float, held: int) -> None:
    assert cluster._trials_on(cluster.NodeResources(cpus=16, gpus=4.0), 1, gpus) == held
