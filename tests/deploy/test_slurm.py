"""The Slurm script's own commands bring up two nodes, on which a whole run trains.

Slurm is stood in for: `scontrol` names two network namespaces of this machine, with addresses and
processes of their own, and `srun` runs a command in them. Every network of the run needs both.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from tests.deploy.namespaces import ADDRESSES, HOSTS, two_hosts
from tests.sweeps.conftest import ROOT, SMALL

pytestmark = pytest.mark.clusters
SCONTROL = f"""#!/usr/bin/env bash
[ "$*" = "show hostnames two-nodes" ] && printf '%s\\n' {" ".join(HOSTS)}
"""
SQUEUE = """#!/usr/bin/env bash
[ "$SLURM_TIME_FORMAT $*" = "standard --noheader --jobs=4711 --format=%e" ] || exit 1
date --date="@$SLURM_TEST_END" +%Y-%m-%dT%H:%M:%S
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
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN), ("squeue", SQUEUE)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "two-nodes", "SLURM_JOB_NUM_NODES": "2"}
    path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    patient = {"RAY_raylet_start_wait_time_s": "120", "OMP_NUM_THREADS": "1"}
    ends = {"SLURM_TEST_END": str(int(time.time()) + 24 * 3600)}
    return kept | job | patient | ends | {"SLURM_CPUS_PER_TASK": "1", "PATH": path}


def submitted(slurm: dict[str, str], cwd: Path, *arguments: str) -> subprocess.CompletedProcess:
    """What the script does, given what follows its name."""
    link = cwd / "run_sweep.py"
    if not link.is_symlink():
        link.symlink_to(ROOT / "run_sweep.py")
    return subprocess.run(
        [ROOT / "deploy" / "slurm.sh", *arguments],
        cwd=cwd,
        env=slurm,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )


def test_two_nodes_of_slurm_train_every_network_of_a_run_together(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    tiny = ["--workers-per-trial", "2", "--name", "two", "--tasks", "none", "--trials", "2"]
    tiny += ["--method", "judge", "--dense.epochs", "1", "--share.epochs", "0"]
    without_cluster = [word for word in SMALL if word not in ("--cluster", "local")]
    done = submitted(slurm, tmp_path, *without_cluster, *tiny)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    folder = tmp_path / "runs" / "two"
    trials = pd.read_csv(folder / "trials.csv")
    assert trials["state"].tolist() == ["COMPLETE", "COMPLETE"]
    assert not trials.isna().any().any()
    assert (folder / "front.html").is_file()
    assert f"{ADDRESSES[0]}:24711" in (folder / "config.yaml").read_text()


def test_a_job_whose_time_is_up_writes_its_state_and_can_go_on(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    without_cluster = [word for word in SMALL if word not in ("--cluster", "local")]
    endless = ["--name", "long", "--tasks", "none", "--dense.epochs", "100000"]
    soon = slurm | {"SLURM_TEST_END": str(int(time.time()) + 120 + 90)}
    ended = submitted(soon, tmp_path, *without_cluster, *endless)
    told = ended.stdout + ended.stderr
    assert ended.returncode != 0
    assert "interrupted; finished trials are kept" in told, told[-2000:]
    assert "--resume long" in told
    assert (tmp_path / "runs" / "long" / "state" / "dense.pt").is_file()
    (run,) = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").search_runs(
        ["1"], "tags.kind = 'sweep'"
    )
    assert run.info.status == "KILLED"
