"""Joining or starting the Ray cluster; the one place that knows `ray.init`."""

import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import ray
import torch
from ray._private.authentication.authentication_token_setup import (
    AUTH_MODE_ENV_VAR,
    maybe_enable_token_auth_if_token_available,
)
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from slim.errors import one_line
from sweeps.config import SweepConfig, workers_per_stage
from sweeps.errors import InputError
from sweeps.versions import check_nodes

ANSWER_SECONDS = 30
MOST_IN_FLIGHT = 64
FLAG = "--gcs-address="  # of Ray's node process
RAY_COMMANDS = ("ray", "ray.scripts.scripts")


@dataclass(frozen=True)
class Resources:
    """What the cluster has, and what one trial takes of it.

    Args:
        workers_per_trial: Processes that train one network.
        workers_per_stage: Processes that train the network of a stage before the trials.
        cpus_per_trial: CPUs of each of them.
        gpus_per_trial: GPUs of each of them.
        concurrency: Trials in flight at most.
    """

    workers_per_trial: int
    workers_per_stage: int
    cpus_per_trial: int
    gpus_per_trial: float
    concurrency: int

    @property
    def workers(self) -> int:
        """Workers that trials have in flight at most; as many do jobs of one worker each."""
        return self.concurrency * self.workers_per_trial

    @property
    def trial(self) -> dict[str, float]:
        """Resources of one worker of a trial, in Ray's words."""
        return {"num_cpus": self.cpus_per_trial, "num_gpus": self.gpus_per_trial}

    @property
    def bundles(self) -> list[dict[str, float]]:
        """Resources of a whole trial, one bundle for each worker."""
        return [{"CPU": self.cpus_per_trial, "GPU": self.gpus_per_trial}] * self.workers_per_trial

    @property
    def stage(self) -> dict[str, float]:
        """Resources of one worker of a stage, which has the cluster for itself.

        One GPU, and as many CPUs as leave room for all workers: of one, all of its node.
        """
        gpus = self._stage_gpus
        nodes = [node for node in node_resources() if node.gpus or not gpus]
        for cpus in range(max((node.cpus for node in nodes), default=0), self.cpus_per_trial, -1):
            if sum(_trials_on(node, cpus, gpus) for node in nodes) >= self.workers_per_stage:
                return {"num_cpus": cpus, "num_gpus": gpus}
        return {"num_cpus": self.cpus_per_trial, "num_gpus": gpus}

    @property
    def _stage_gpus(self) -> float:
        return max(1.0, self.gpus_per_trial) if self.gpus_per_trial else 0.0

    def check_stage(self) -> None:
        """Refuse more workers of a stage than the cluster holds: they would wait without end.

        Raises:
            InputError: If so.
        """
        nodes, cpus, gpus = node_resources(), self.cpus_per_trial, self._stage_gpus
        held = sum(_trials_on(node, cpus, gpus) for node in nodes)
        if held < self.workers_per_stage:
            raise InputError(
                f"a stage of {self.workers_per_stage} workers, each {cpus} CPUs and {gpus:g} "
                f"GPUs, does not fit the cluster, which holds {held}; give another "
                "--workers-per-stage"
            )


@contextlib.contextmanager
def connect(config: SweepConfig) -> Iterator[Resources]:
    """Join the cluster that the configuration names, or start one; leave it at the end.

    Raises:
        InputError: If an address does not answer within 30 s, a node has other versions, or a
            trial does not fit.
    """
    level = logging.INFO if config.verbose else logging.ERROR
    logging.getLogger("ray").setLevel(level)
    address = _address(config.cluster)
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one prints at verbosity 0 too
    modules = _shipped(address)
    try:
        ray.init(
            address=address,
            include_dashboard=False if address == "local" else None,
            log_to_driver=config.verbose,
            logging_level=level,
            configure_logging=True,
            runtime_env=modules,
        )
    except Exception as error:  # Ray raises many kinds here
        detail = one_line(error)
        raise InputError(f"Ray cluster {config.cluster}: {detail}") from error
    try:
        if address != "local":
            check_nodes(shipped=modules is not None)
        yield resources_of(config)
    finally:
        ray.shutdown()


def _shipped(address: str) -> dict[str, Any] | None:
    """This working tree's packages, for the workers of a cluster that this process only joins.

    A driver that `ray job submit` started has shipped its working directory already. Credentials
    never travel this way: Ray writes a runtime environment to its logs.
    """
    if address == "local" or RAY_JOB_CONFIG_JSON_ENV_VAR in os.environ:
        return None
    root = Path(__file__).parent.parent
    modules = [str(root / name) for name in ("slim", "sweeps", "analysis")]
    return {"py_modules": modules, "excludes": ["**/__pycache__"]}


def expected_concurrency(config: SweepConfig) -> int:
    """Trials in flight on this machine alone, for a plan that starts no cluster."""
    here = this_machine()
    places = _trials_on(here, config.cpus_per_trial, gpus_of_trial(config, here.gpus))
    return min(max(1, places // config.workers_per_trial), config.concurrency or MOST_IN_FLIGHT)


def gpus_of_trial(config: SweepConfig, gpus: float) -> float:
    """GPUs of one worker of a trial, where there are so many in all."""
    if config.gpus_per_trial is None:
        return 1.0 if gpus else 0.0
    return config.gpus_per_trial


class NodeResources(NamedTuple):
    """CPUs and GPUs of one node."""

    cpus: int
    gpus: float


def this_machine() -> NodeResources:
    """What a cluster on this machine alone would have."""
    return NodeResources(os.cpu_count() or 1, float(torch.cuda.device_count()))


def node_resources() -> list[NodeResources]:
    """What each node that is up has."""
    up = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [NodeResources(int(node.get("CPU", 0)), float(node.get("GPU", 0))) for node in up]


def _address(cluster: str) -> str:
    """Ray's address for what the user gave, after a look whether anybody answers there."""
    if cluster == "local":
        return "local"
    if cluster == "auto":
        given = os.environ.get("RAY_ADDRESS")
        if given and given not in ("auto", "local"):
            _check_answers(given)
            return given
        return _running_here() or "local"
    _check_answers(cluster)
    return cluster


def _running_here() -> str | None:
    """The address of a cluster that `ray start` made this machine a node of, the latest first.

    One that a program started for itself, such as another sweep, would end with that program.

    Raises:
        InputError: If it asks for another token, or answers without being healthy.
    """
    processes = psutil.process_iter(["name", "cmdline", "create_time"], ad_value=None)
    nodes = [p for p in processes if p.info["name"] == "raylet" and p.info["create_time"]]
    for node in sorted(nodes, key=lambda node: node.info["create_time"], reverse=True):
        words = node.info["cmdline"] or [""]
        address = next((w.removeprefix(FLAG) for w in words if w.startswith(FLAG)), None)
        if Path(words[0]).name != "raylet" or address is None:  # a child of one, or at its end
            continue
        if _started_by_command(node) and _answers(address):
            _check_answers(address)
            return address
    return None


def _started_by_command(node: psutil.Process) -> bool:
    """Whether `ray start` or what adopts its nodes is above a node, not a program's own Python."""
    try:
        owner = node.parent()
        words = owner.cmdline() if owner is not None else []
    except psutil.Error:  # it has just ended, or is nobody else's business
        return False
    if not words or "python" not in Path(words[0]).name.lower():
        return True
    return "start" in words and any(Path(w).name in RAY_COMMANDS for w in words)


def _check_answers(address: str) -> None:
    """Refuse an address where no Ray head answers, or one that knows another token.

    Raises:
        InputError: Says which.
    """
    plain = address.removeprefix("ray://")
    healthy = _answers(plain)
    if healthy and plain == address:
        healthy = _is_healthy_head(address)
    if not healthy:
        raise InputError(
            f"no Ray cluster answers at {address} within {ANSWER_SECONDS} s; start one "
            "(ray start --head), or give --cluster auto or local"
        )


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(
            f"cluster {address!r} is not an address; give HOST:PORT, `auto` or `local`"
        )
    try:
        with socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS):
            return True
    except OSError:
        return False


def _is_healthy_head(address: str) -> bool:
    """Whether it is a Ray head that answers there; this machine's token is taken if it asks.

    It is asked without a token first: with one, from ~/.ray, a driver would wait without end for
    nodes that know of none.

    Raises:
        InputError: If the head asks for a token that this machine does not have.
    """
    if AUTH_MODE_ENV_VAR in os.environ:
        return _health(address, os.environ[AUTH_MODE_ENV_VAR])
    try:
        return _health(address, "disabled")
    except InputError:
        if not maybe_enable_token_auth_if_token_available(warn_if_disabled=False):
            raise
        return _health(address, "token")


def _health(address: str, mode: str) -> bool:
    """What Ray's own command says of a head, asked with a mode of authentication.

    Raises:
        InputError: If the head asks for another token.
    """
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        done = subprocess.run(
            [*command, "--skip-version-check"],  # joining compares and names them
            env=os.environ | {AUTH_MODE_ENV_VAR: mode},
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    if "AuthenticationError" in done.stderr:
        raise InputError(
            f"the Ray cluster at {address} asks for its token; put it into ~/.ray/auth_token or "
            "RAY_AUTH_TOKEN, or give --cluster local"
        )
    return done.returncode == 0


def check_shares(config: SweepConfig) -> None:
    """Refuse shares of GPUs that no cluster can give.

    Raises:
        InputError: Says which.
    """
    gpus, workers = config.gpus_per_trial or 0.0, config.workers_per_trial
    if gpus > 1 and gpus != int(gpus):
        raise InputError(
            f"--gpus-per-trial {gpus:g} is neither a fraction nor whole; give {int(gpus)} or "
            f"{int(gpus) + 1}"
        )
    if workers > 1 and gpus != int(gpus):
        raise InputError(
            f"--workers-per-trial {workers} needs whole GPUs, not --gpus-per-trial {gpus:g}; give "
            "0, 1 or more of these"
        )


def resources_of(config: SweepConfig) -> Resources:
    """What the cluster has, and what a trial takes of it.

    Raises:
        InputError: If no trial fits.
    """
    nodes = node_resources()
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    per_trial = gpus_of_trial(config, gpus)
    workers = config.workers_per_trial
    places = sum(_trials_on(node, config.cpus_per_trial, per_trial) for node in nodes)
    if places < workers:
        many = f"{workers} workers, each " if workers > 1 else ""
        raise InputError(
            f"a trial of {many}{config.cpus_per_trial} CPUs and {per_trial:g} GPUs does not fit "
            f"the cluster ({len(nodes)} nodes, {cpus} CPUs and {gpus:g} GPUs in all); give "
            "--cpus-per-trial, --gpus-per-trial, --workers-per-trial"
        )
    concurrency = config.concurrency or min(places // workers, MOST_IN_FLIGHT)
    together = workers_per_stage(config)
    return Resources(workers, together, config.cpus_per_trial, per_trial, concurrency)


def _trials_on(node: NodeResources, cpus: int, gpus: float) -> int:
    """How many workers of so many CPUs and GPUs a node holds at once."""
    by_cpu = node.cpus // cpus
    if not gpus:
        return by_cpu
    if gpus < 1:  # a worker has its fraction of one GPU
        return min(by_cpu, int(node.gpus) * int(1 / gpus))
    return min(by_cpu, int(node.gpus / gpus))
