"""The Slurm script's own commands bring up two nodes, on which a whole run trains.

Slurm is stood in for: `scontrol` names two network namespaces of this machine, with addresses and
processes of their own, and `srun` runs a command in them. Every network of the run needs both.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.sweeps.conftest import ROOT, SMALL

pytestmark = pytest.mark.clusters
NODES = ("vit-slim-first", "vit-slim-second")
ADDRESSES = ("10.231.77.1", "10.231.77.2")
CABLE = [
    f"ip netns add {NODES[0]}",
    f"ip netns add {NODES[1]}",
    f"ip link add vslim0 netns {NODES[0]} type veth peer vslim1 netns {NODES[1]}",
    f"ip -n {NODES[0]} addr add {ADDRESSES[0]}/24 dev vslim0",
    f"ip -n {NODES[1]} addr add {ADDRESSES[1]}/24 dev vslim1",
    *(f"ip -n {name} link set lo up" for name in NODES),
    f"ip -n {NODES[0]} link set vslim0 up",
    f"ip -n {NODES[1]} link set vslim1 up",
]
SCONTROL = f"""#!/usr/bin/env bash
[ "$*" = "show hostnames two-nodes" ] && printf '%s\\n' {" ".join(NODES)}
"""
# Own processes too: `ray stop` on a node must find those of that node alone.
SRUN = f"""#!/usr/bin/env bash
nodes=({" ".join(NODES)})
while [ "${{1#--}}" != "$1" ]; do
    case $1 in
        --nodelist=*) nodes=("${{1#*=}}") ;;
    esac
    shift
done
[ "$1" = hostname ] && echo {ADDRESSES[0]} && exit
for node in "${{nodes[@]}}"; do
    ip netns exec "$node" unshare --pid --fork --kill-child --mount-proc "$@" &
    running="$running $!"
done
for one in $running; do
    wait "$one" || failed=$?
done
exit ${{failed:-0}}
"""


def run(command: str) -> bool:
    return not subprocess.run(command.split(), capture_output=True, check=False).returncode


@pytest.fixture
def nodes() -> Iterator[None]:
    """Two network namespaces joined by a cable."""
    if os.geteuid() or not shutil.which("ip") or not all(run(command) for command in CABLE):
        remove_nodes()
        pytest.skip("network namespaces need root, and ip of iproute2")
    yield
    remove_nodes()


def remove_nodes() -> None:
    for name in NODES:
        inside = subprocess.run(
            ["ip", "netns", "pids", name], capture_output=True, text=True, check=False
        )
        for process in inside.stdout.split():
            os.kill(int(process), signal.SIGKILL)
        run(f"ip netns del {name}")


@pytest.fixture
def slurm(nodes: None, tmp_path: Path) -> dict[str, str]:
    """The environment of a batch job that has two nodes of one CPU."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "two-nodes", "SLURM_JOB_NUM_NODES": "2"}
    path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    patient = {"RAY_raylet_start_wait_time_s": "120", "OMP_NUM_THREADS": "1"}
    return kept | job | patient | {"SLURM_CPUS_PER_TASK": "1", "PATH": path}


def test_two_nodes_of_slurm_train_every_network_of_a_run_together(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "run_sweep.py").symlink_to(ROOT / "run_sweep.py")
    tiny = [
        "--workers-per-trial",
        "2",
        "--name",
        "two",
        "--tasks",
        "none",
        "--dense.epochs",
        "1",
        "--share.epochs",
        "0",
        "--trials",
        "2",
    ]
    without_cluster = [word for word in SMALL if word not in ("--cluster", "local")]
    done = subprocess.run(
        [ROOT / "deploy" / "slurm.sh", *without_cluster, *tiny],
        cwd=tmp_path,
        env=slurm,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    folder = tmp_path / "runs" / "two"
    trials = pd.read_csv(folder / "trials.csv")
    assert trials["state"].tolist() == ["COMPLETE", "COMPLETE"]
    assert not trials.isna().any().any()
    assert (folder / "front.html").is_file()
    assert f"{ADDRESSES[0]}:24711" in (folder / "config.yaml").read_text()
