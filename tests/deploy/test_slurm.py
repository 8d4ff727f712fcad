"""The Slurm script's own commands bring up two nodes, on which a whole run trains.

Slurm is stood in for: `scontrol` names two network namespaces of this machine, with addresses and
processes of their own, and `srun` runs a command in them. Every network of the run needs both.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.deploy.namespaces import ADDRESSES, HOSTS, two_hosts
from tests.sweeps.conftest import ROOT, SMALL

pytestmark = pytest.mark.clusters
SCONTROL = f"""#!/usr/bin/env bash
[ "$*" = "show hostnames two-nodes" ] && printf '%s\\n' {" ".join(HOSTS)}
"""
# Own processes too: `ray stop` on a node must find those of that node alone.
SRUN = f"""#!/usr/bin/env bash
nodes=({" ".join(HOSTS)})
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


@pytest.fixture
def nodes() -> Iterator[None]:
    with two_hosts():
        yield


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
