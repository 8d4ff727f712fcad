"""A whole run on two hosts that ask for a token: `ray start` on each, `--cluster ADDRESS` on one.

With DEFAULT_RUN=1 in the environment it is the default run instead of a small one.
"""

import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pandas as pd
import pytest

from tests.deploy.namespaces import ADDRESSES, HOSTS, two_hosts
from tests.sweeps.conftest import ROOT, SMALL

pytestmark = pytest.mark.clusters
HEAD = f"{ADDRESSES[0]}:6379"
WHOLE = bool(os.environ.get("DEFAULT_RUN"))
SMALL_RUN = [word for word in SMALL if word not in ("--cluster", "local")] + ["--trials", "4"]


@pytest.fixture
def environment() -> dict[str, str]:
    """That of a user of both hosts, who has the cluster's token."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return kept | token | {"RAY_raylet_start_wait_time_s": "120", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def cluster(environment: dict[str, str]) -> Iterator[None]:
    """A Ray node of one CPU on each of two hosts."""
    with two_hosts(), tempfile.TemporaryDirectory(prefix="ray-") as folder, ExitStack() as stack:
        head = ["--head", "--port", "6379", "--include-dashboard", "false", "--temp-dir", folder]
        stack.enter_context(ray_node(0, environment, *head))
        wait_for_nodes(1, environment)
        stack.enter_context(ray_node(1, environment, "--address", HEAD))
        wait_for_nodes(2, environment)
        yield


@contextmanager
def ray_node(host: int, environment: dict[str, str], *options: str) -> Iterator[None]:
    own = ["--node-ip-address", ADDRESSES[host], "--num-cpus", "1"]
    command = ["ray.scripts.scripts", "start", "--block", *own, *options]
    command += ["--object-store-memory", str(200 * 2**20)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            on(host, *command), env=environment, stdout=said, stderr=subprocess.STDOUT
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)


def on(host: int, module: str, *arguments: str) -> list[str]:
    """A Python module's command line on a host."""
    return ["ip", "netns", "exec", HOSTS[host], sys.executable, "-m", module, *arguments]


def wait_for_nodes(count: int, environment: dict[str, str]) -> None:
    """Until so many nodes have joined; asked from the head."""
    asked = (
        "import ray, sys, time\n"
        f"ray.init(address='{HEAD}', log_to_driver=False, logging_level='ERROR')\n"
        "for _ in range(240):\n"
        f"    if sum(node['Alive'] for node in ray.nodes()) == {count}: sys.exit()\n"
        "    time.sleep(0.5)\n"
        "sys.exit('the nodes have not joined')\n"
    )
    for _ in range(20):
        done = subprocess.run(
            ["ip", "netns", "exec", HOSTS[0], sys.executable, "-c", asked],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        if done.returncode == 0:
            return
    raise AssertionError(done.stderr[-2000:])


def sweep(
    cwd: Path, environment: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line on the first host."""
    command = [sys.executable, str(ROOT / "run_sweep.py"), "--cluster", HEAD, *arguments]
    return subprocess.run(
        ["ip", "netns", "exec", HOSTS[0], *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
    )


@pytest.mark.timeout(3600)
def test_a_whole_run_uses_both_hosts_and_only_with_their_token(
    cluster: None, environment: dict[str, str], tmp_path: Path
) -> None:
    foreign = environment | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    refused = sweep(tmp_path, foreign, *SMALL_RUN, "--name", "foreign")
    assert refused.returncode == 2, refused.stderr
    assert "asks for its token" in refused.stderr
    assert not (tmp_path / "runs" / "foreign").exists()

    done = sweep(tmp_path, environment, *([] if WHOLE else SMALL_RUN), "--name", "both")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    folder = tmp_path / "runs" / "both"
    trials = pd.read_csv(folder / "trials.csv")
    assert (trials["state"] == "COMPLETE").all()
    assert len(trials) >= 4
    assert not trials.isna().any().any()
    assert len(pd.read_csv(folder / "transfer.csv")) >= 2
    state = "".join(p.read_text() for p in folder.glob("state/tune/experiment_state-*.json"))
    assert set(re.findall(r'node_ip\\*": \\*"([\d.]+)', state)) == set(ADDRESSES)
    print(done.stdout[-1500:])
