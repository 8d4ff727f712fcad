"""The same libraries on the driver and on every node, checked before anything is sent."""

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from slim.errors import one_line
from sweeps.errors import InputError

LIBRARIES = ("ray", "torch", "torchvision", "timm")
NODE_SECONDS = 120.0  # the first worker of a node unpacks what was shipped


def check_nodes(shipped: bool) -> None:
    """Ask every node for its versions, and compare them with this process's.

    Args:
        shipped: Whether the nodes get this package from here; else theirs must be the same too.

    Raises:
        InputError: Names the node, the library and both versions.
    """
    names = LIBRARIES if shipped else (*LIBRARIES, "vit-slim-sweeps")
    ours = versions_of(names)
    ask = ray.remote(versions_of)
    answers = [
        (node["NodeManagerAddress"], ask.options(**_only_on(node)).remote(names))
        for node in ray.nodes()
        if node["Alive"]
    ]
    for address, answer in answers:
        try:
            theirs = ray.get(answer, timeout=NODE_SECONDS)
        except (ray.exceptions.RayError, TimeoutError) as error:
            line = one_line(error)
            raise InputError(f"node {address} does not run this project: {line}") from error
        compare_versions(ours, theirs, address)


def _only_on(node: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a task that runs on one node, at once, whatever runs there."""
    place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": place}


def compare_versions(ours: Mapping[str, str], theirs: Mapping[str, str], address: str) -> None:
    """Refuse a node that has another version of anything.

    Raises:
        InputError: Names all that differ, with both versions.
    """
    differing = [
        f"{name} {theirs[name]}, but this process {ours[name]}"
        for name in ours
        if theirs[name] != ours[name]
    ]
    if differing:
        raise InputError(
            f"node {address} has {'; '.join(differing)}; install the same there (constraints.txt)"
        )


def versions_of(names: tuple[str, ...]) -> dict[str, str]:
    """Versions of Python and of packages, `none` for one that is not installed."""
    found = {"Python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found
