"""A run whose driver, workers, nodes or disk are taken away ends as if they had not been."""

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from ray.cluster_utils import Cluster

from tests.faults.runs import TINY, assert_whole, finish, start, tracked

# A word of each stage, in their order; a kill comes up to two seconds after it.
MOMENTS = [
    *("dense: started", "dense: epoch 1/", "search: started", "search: epoch", "share: started"),
    *("judge: started", "sweep: started", "sweep: trial", "sweep: trial", "test: started"),
    *("test: network", "reports: started"),
]


def kill_and_resume(cwd: Path, moments: list[str], seed: int) -> list[str]:
    """Kill the driver at each moment and go on after it; returns the moments that were over."""
    generator, missed = random.Random(seed), []
    arguments = [*TINY, "--name", "killed"]
    finished: dict[int, float] = {}
    for moment in moments:
        driver = start(cwd, *arguments)
        if driver.wait_for(moment):
            time.sleep(generator.uniform(0, 2))
        if driver.process.poll() is not None:
            missed.append(moment)
        driver.kill() if driver.process.poll() is None else None
        driver.end()
        if (cwd / "runs" / "killed").is_dir():
            arguments = ["--resume", "killed"]
        kept = finished_trials(cwd)
        assert finished.items() <= kept.items(), "a finished trial was lost"
        finished = kept
    finish(cwd, *arguments)
    assert finished.items() <= finished_trials(cwd).items()
    return missed


def finished_trials(cwd: Path) -> dict[int, float]:
    """Accuracy by number, as the table says."""
    table = cwd / "runs" / "killed" / "trials.csv"
    if not table.is_file():
        return {}
    rows = pd.read_csv(table)
    return dict(zip(rows["trial"], rows["val_top1"], strict=True))


def test_a_run_whose_driver_is_killed_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    assert kill_and_resume(tmp_path, ["sweep: trial"], seed=0) == []
    assert_whole(tmp_path, "killed")


@pytest.mark.faults
def test_twelve_kills_of_the_driver_over_all_stages_lose_nothing(tmp_path: Path) -> None:
    missed, runs = MOMENTS, 0
    while missed:  # what a run had behind it when the kill came is met in another one
        cwd = tmp_path / str(runs)
        cwd.mkdir()
        missed = kill_and_resume(cwd, missed, seed=1 + runs)
        assert_whole(cwd, "killed")
        runs += 1
        assert runs <= len(MOMENTS)
    print(f"driver kills {len(MOMENTS)} in {runs} runs: 0 trials lost, 0 duplicates, 0 orphans")


@pytest.mark.faults
def test_five_killed_workers_are_replaced_and_every_trial_completes(tmp_path: Path) -> None:
    generator, killed = random.Random(2), set()
    long = ["--finetune.epochs", "30", "--max-retries", "5", "--name", "workers"]
    driver = start(tmp_path, *TINY, *long)
    driver.wait_for("dense: started")
    while len(killed) < 5 and driver.process.poll() is None:
        kind = "_generate" if not killed else "ImplicitFunc"
        for worker in driver.workers(kind)[:1]:
            time.sleep(generator.uniform(0.5, 2))
            worker.send_signal(signal.SIGKILL)
            killed.add(worker.pid)
        time.sleep(0.2)
    assert driver.end() == 0, "".join(driver.lines[-30:])
    trials = pd.read_csv(tmp_path / "runs" / "workers" / "trials.csv")
    assert trials["trial"].tolist() == [0, 1, 2, 3]
    assert (trials["state"] == "COMPLETE").all()
    assert {run.info.status for run in tracked(tmp_path).values()} == {"FINISHED"}
    print(f"worker kills {len(killed)}: 0 trials lost")
    assert len(killed) == 5


@pytest.mark.faults
def test_a_trial_whose_workers_die_too_often_is_failed_and_the_sweep_goes_on(
    tmp_path: Path,
) -> None:
    one = ["--finetune.epochs", "30", "--max-retries", "0", "--concurrency", "1"]
    driver = start(tmp_path, *TINY, *one, "--name", "lost")
    assert driver.wait_for("sweep: started")
    while not (workers := driver.workers("ImplicitFunc")):
        time.sleep(0.2)
    time.sleep(1)
    workers[0].send_signal(signal.SIGKILL)
    assert driver.end() == 0, "".join(driver.lines[-30:])
    trials = pd.read_csv(tmp_path / "runs" / "lost" / "trials.csv")
    assert trials["state"].tolist().count("FAILED") == 1
    assert trials["state"].tolist().count("COMPLETE") == 3
    number = int(trials.set_index("state").loc["FAILED", "trial"])
    run = tracked(tmp_path)[f"trial-{number}"]
    assert run.info.status == "FAILED"
    assert "died" in run.data.tags["reason"]


@pytest.mark.faults
def test_three_lost_nodes_lose_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)  # which this cluster does not ask for
    node = cluster.add_node(num_cpus=2)
    long = ["--finetune.epochs", "30", "--name", "nodes", "--max-retries", "5"]
    try:
        driver, losses = start(tmp_path, *TINY, *long, cluster=cluster.address), 0
        for moment in ("dense: started", "sweep: started", "sweep: trial"):
            if driver.wait_for(moment) and driver.process.poll() is None:
                time.sleep(2)
                cluster.remove_node(node, allow_graceful=False)
                losses += 1
                node = cluster.add_node(num_cpus=2)
        assert driver.end() == 0, "".join(driver.lines[-30:])
    finally:
        cluster.shutdown()
    trials = pd.read_csv(tmp_path / "runs" / "nodes" / "trials.csv")
    assert trials["trial"].tolist() == [0, 1, 2, 3]
    assert (trials["state"] == "COMPLETE").all()
    print(f"node losses {losses}: 0 trials lost")
    assert losses == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own for runs; needs the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.faults
def test_a_disk_that_is_full_twice_stops_the_run_whole(tmp_path: Path, small_disk: Path) -> None:
    arguments = [*TINY, "--name", "full"]
    (tmp_path / "runs").symlink_to(small_disk)
    for size in ("500k", "900k"):
        subprocess.run(["mount", "-o", f"remount,size={size}", small_disk], check=True)
        driver = start(tmp_path, *arguments)
        assert driver.end() == 1, "".join(driver.lines[-30:])
        (line,) = [line for line in driver.lines if line.startswith("run_sweep.py:")]
        assert "free" in line
        assert "--resume full" in line
        assert "Traceback" not in "".join(driver.lines)
        arguments = ["--resume", "full"]
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    finish(tmp_path, *arguments)
    assert_whole(tmp_path, "full")
    print("full disks 2: 0 trials lost")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("number", "times"), [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGTERM, 1)]
)
def test_ctrl_c_or_a_scheduler_leaves_a_run_that_resumes(
    tmp_path: Path, number: signal.Signals, times: int
) -> None:
    driver = start(tmp_path, *TINY, "--dense.epochs", "200", "--name", "stopped")
    assert driver.wait_for("dense: epoch 1/")
    began = time.monotonic()
    for _ in range(times):
        driver.kill(number)  # SIGTERM ends Ray's own processes too
        time.sleep(0.3)
    assert driver.end() == 130, "".join(driver.lines[-30:])
    assert "--resume stopped" in driver.lines[-1]
    print(f"{number.name} x {times}: ended in {time.monotonic() - began:.1f} s")
    state = tmp_path / "runs" / "stopped" / "state" / "dense.pt"
    assert state.is_file()
    assert {run.info.status for run in tracked(tmp_path).values()} <= {"KILLED", "RUNNING"}
    again = start(tmp_path, "--resume", "stopped")
    assert again.wait_for("dense: epoch")
    again.kill()
    again.end()
    assert "dense: goes on after epoch" in "".join(again.lines)
    first = next(line for line in again.lines if "dense: epoch" in line)
    assert "epoch 1/200" not in first
