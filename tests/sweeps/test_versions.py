"""Nodes of other versions are refused before anything is sent, in one line that names both."""

import platform
from collections.abc import Iterator

import pytest
import ray
import torch

from sweeps import versions
from sweeps.errors import InputError
from sweeps.versions import check_nodes, compare_versions, versions_of


@pytest.fixture(scope="module")
def node() -> Iterator[str]:
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield ray.util.get_node_ip_address()
    ray.shutdown()


def test_the_versions_are_those_of_this_process() -> None:
    found = versions_of(("torch", "no-such-package"))
    assert found["torch"] == torch.__version__.partition("+")[0]
    assert found["Python"] == platform.python_version()
    assert found["no-such-package"] == "none"


def test_a_difference_names_the_node_and_both_versions() -> None:
    ours, theirs = {"Python": "3.11.9", "torch": "2.14.1"}, {"Python": "3.11.9", "torch": "2.13.0"}
    with pytest.raises(InputError) as refusal:
        compare_versions(ours, theirs, "10.0.0.7")
    assert str(refusal.value) == (
        "node 10.0.0.7 has torch 2.13.0, but this process 2.14.1; install the same there "
        "(constraints.txt)"
    )


def test_every_node_is_asked(node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_nodes(shipped=False)
    real = versions.version
    monkeypatch.setattr(versions, "version", lambda n: "0.9" if n == "timm" else real(n))
    installed = real("timm")
    with pytest.raises(InputError, match=f"^node {node} has timm {installed}, but this process 0"):
        check_nodes(shipped=True)
