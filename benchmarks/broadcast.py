"""What the broadcast moves and saves: bytes to each node, time to a ready subnetwork, memory.

    python benchmarks/broadcast.py --models deit_small_patch16_224 --nodes 1 2 4 8

Nodes are simulated on this machine by Ray: each has an object store of its own, and what goes from
one to another goes through a socket. Each worker cuts a network of half of everything out of the
checkpoint that is in its node's store, and for comparison out of the checkpoint's file. Times are
medians; memory is what a process alone has (USS).
"""

import argparse
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import ray
import timm
import torch
from machine import machine
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

import slim
from slim import Architecture, Budget, MaskCheckpoint
from slim.tasks import Preprocessing, load_task
from sweeps.broadcast import Broadcast, broadcast, receive_checkpoint

BUDGET = Budget(0.5, 0.5, 0.5)
REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["deit_small_patch16_224"])
    parser.add_argument("--nodes", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--workers", type=int, default=1, help="on each node")
    options = parser.parse_args()
    print(machine())
    for name in options.models:
        torch.manual_seed(0)
        checkpoint = MaskCheckpoint.from_model(slim.attach_masks(timm.create_model(name)))
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.save(Path(folder) / "search")
            for nodes in options.nodes:
                measure(name, checkpoint, Path(folder) / "search", nodes, options.workers)


def measure(name: str, checkpoint: MaskCheckpoint, file: Path, nodes: int, workers: int) -> None:
    """Broadcast to so many nodes, and print what each of their workers saw."""
    store = 4 * sum(array.nbytes for array in checkpoint.to_arrays().values())
    head = {"num_cpus": 0, "object_store_memory": store}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(nodes):
        cluster.add_node(num_cpus=workers, object_store_memory=store)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        shared = put(checkpoint)
        actors = start(workers)
        before = stored()
        seen = [ray.get([w.from_store.remote(shared) for w in group]) for group in actors]
        moved = (stored() - before) / nodes
        again = ray.get([w.from_store.remote(shared) for group in actors for w in group])
        files = ray.get([w.from_file.remote(str(file)) for group in actors for w in group])
    finally:
        ray.shutdown()
        cluster.shutdown()
    one = sum(array.nbytes for array in checkpoint.to_arrays().values())
    show(name, nodes, moved / one, [s for g in seen for s in g], again, files)


def put(checkpoint: MaskCheckpoint) -> Broadcast:
    dense = slim.extract(checkpoint, Architecture.dense(checkpoint.spec))
    task = load_task("digits")
    return broadcast(checkpoint, dense, task, Preprocessing((3, 224, 224), (0.5,) * 3, (0.5,) * 3))


@ray.remote(num_cpus=1)
class Worker:
    """A worker that has imported everything, and cut something once."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        vit = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32)
        small = MaskCheckpoint.from_model(slim.attach_masks(vit))
        slim.extract(small, small.select(BUDGET))

    def ready(self) -> bool:
        """Answers when imports are done."""
        return True

    def from_store(self, shared: Broadcast) -> dict[str, float]:
        """Cut a network out of what is in the node's memory."""
        return measured(lambda: receive_checkpoint(shared))

    def from_file(self, folder: str) -> dict[str, float]:
        """Cut a network out of a file."""
        return measured(lambda: MaskCheckpoint.load(folder))


def measured(receive: Callable[[], MaskCheckpoint]) -> dict[str, float]:
    """Seconds to a subnetwork, and private bytes that it took against those of its parameters."""
    before, began = private_bytes(), time.perf_counter()
    vit = cut(receive)
    first, taken = time.perf_counter() - began, private_bytes() - before
    size = sum(p.numel() * p.element_size() for p in vit.parameters())
    del vit
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        cut(receive)
        times.append(time.perf_counter() - began)
    return {"first": first, "median": statistics.median(times), "private": taken / size}


def cut(receive: Callable[[], MaskCheckpoint]) -> nn.Module:
    checkpoint = receive()
    return slim.extract(checkpoint, checkpoint.select(BUDGET))


def private_bytes() -> int:
    gc.collect()
    return int(psutil.Process().memory_full_info().uss)


def start(workers: int) -> list[list[Any]]:
    """Workers on every node but the head."""
    groups = []
    for node in ray.nodes():
        if node["Resources"].get("CPU"):
            place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            options = {"scheduling_strategy": place}
            groups.append([Worker.options(**options).remote() for _ in range(workers)])
    ray.get([worker.ready.remote() for group in groups for worker in group])
    return groups


def stored() -> int:
    """Bytes in the object stores of all nodes: their pages in shared memory that are written."""
    shared = os.statvfs("/dev/shm")
    return (shared.f_blocks - shared.f_bfree) * shared.f_frsize


def show(name: str, nodes: int, moved: float, *seen: list[dict[str, float]]) -> None:
    first, again, files = seen
    store = statistics.median(each["median"] for each in again)
    file = statistics.median(each["median"] for each in files)
    print(
        f"{name}, {nodes} nodes: bytes to a node / checkpoint {moved:.3f}; "
        f"first worker of a node {statistics.median(s['first'] for s in first):.2f} s, "
        f"then {store * 1e3:.0f} ms, from file {file * 1e3:.0f} ms: {store / file:.2f}; private "
        f"memory / subnetwork {statistics.median(s['private'] for s in first):.2f}, "
        f"from file {statistics.median(s['private'] for s in files):.2f}"
    )


if __name__ == "__main__":
    main()
