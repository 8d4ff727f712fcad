"""Two hosts on one machine: network namespaces with addresses of their own, joined by a cable."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

HOSTS = (f"vit-slim-{os.getpid()}-a", f"vit-slim-{os.getpid()}-b")
ADDRESSES = ("10.231.77.1", "10.231.77.2")
CABLE = [
    f"ip netns add {HOSTS[0]}",
    f"ip netns add {HOSTS[1]}",
    f"ip link add vslim0 netns {HOSTS[0]} type veth peer vslim1 netns {HOSTS[1]}",
    f"ip -n {HOSTS[0]} addr add {ADDRESSES[0]}/24 dev vslim0",
    f"ip -n {HOSTS[1]} addr add {ADDRESSES[1]}/24 dev vslim1",
    *(f"ip -n {name} link set lo up" for name in HOSTS),
    f"ip -n {HOSTS[0]} link set vslim0 up",
    f"ip -n {HOSTS[1]} link set vslim1 up",
]


@contextmanager
def two_hosts() -> Iterator[None]:
    """Both hosts, as long as the context lasts; their processes are killed with them."""
    if os.geteuid() or not shutil.which("ip") or not all(_succeeds(line) for line in CABLE):
        _remove_hosts()
        pytest.fail("network namespaces need root, and ip of iproute2")
    try:
        yield
    finally:
        _remove_hosts()


def _remove_hosts() -> None:
    for name in HOSTS:
        inside = subprocess.run(
            ["ip", "netns", "pids", name], capture_output=True, text=True, check=False
        )
        for process in inside.stdout.split():
            os.kill(int(process), signal.SIGKILL)
        _succeeds(f"ip netns del {name}")


def _succeeds(command: str) -> bool:
    return not subprocess.run(command.split(), capture_output=True, check=False).returncode
