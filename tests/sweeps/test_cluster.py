"""Which cluster `--cluster auto` joins, and with what authentication."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from sweeps.cluster import connect
from sweeps.config import SweepConfig

ASK = """
import os, ray
from sweeps.cluster import connect
from sweeps.config import SweepConfig
with connect(SweepConfig()):
    print(ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_MODE"])
"""


def joined() -> list[str]:
    """The address that `--cluster auto` joins here, and how, asked in a process of its own."""
    environment = {
        k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_MODE")
    }
    environment |= {
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_OVERRIDE_RESOURCES": '{"CPU": 1}',
    }
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[str]:
    """The address of a head that `ray start` runs, which asks for no token."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += [f"--port={port}", "--num-cpus=1", "--include-dashboard=false"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--object-store-memory=80000000"],
            env=os.environ | {"RAY_AUTH_MODE": "disabled"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    while "Ray runtime started" not in (tmp_path / "log").read_text():
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.2)
    yield f":{port}"
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    process.kill()
    process.wait()


def test_a_cluster_that_stays_is_joined_without_the_token_it_does_not_ask_for(
    started: str,
) -> None:
    address, mode = joined()
    assert address.endswith(started)
    assert mode == "disabled"


def test_a_cluster_that_another_program_started_for_itself_is_left_alone() -> None:
    with connect(SweepConfig(cluster="local")):
        own = ray.get_runtime_context().gcs_address
        address, mode = joined()
    assert address != own
    assert mode == "token"
