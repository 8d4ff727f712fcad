"""Several workers that train one network together: rank 0 where it is asked for, peers beside it.

Ray gives the processes their places (the bundles of one placement group), `torch.distributed`
joins them, and `slim.training` divides the batches.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psutil
import ray
import torch
from ray.util.placement_group import PlacementGroup, get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import distributed

from slim import SlimError
from sweeps.worker import prepare_worker, worker_device

PEER_SECONDS = 10.0  # for peers to end, and to tell why


def train_together(
    workers: int, function: Callable[..., Iterator[Any]], *args: Any
) -> Iterator[Any]:
    """Run a generator function in this worker and in its peers at once.

    This worker is rank 0 and has the first bundle of the placement group it runs in; a peer
    starts in each of the others. With one worker the function runs as it is.

    Args:
        workers: How many processes, this one counted.
        function: Runs in each; what only one must do, rank 0 does.
        args: Its arguments.

    Yields:
        What the function yields in this worker.

    Raises:
        Exception: What the function raised, in whichever worker it raised first.
    """
    if workers == 1:
        yield from function(*args)
        return
    place = get_current_placement_group()
    store = distributed.TCPStore(ray.util.get_node_ip_address(), 0, is_master=True)
    arguments = ray.put((function, args))  # one copy a node, however many peers
    peers = [
        _in_bundle(place, rank).remote(rank, workers, store.host, store.port, [arguments])
        for rank in range(1, workers)
    ]
    try:
        with _joined(store, 0, workers), closing(function(*args)) as steps:  # type: ignore[type-var]
            yield from steps
        ray.get(peers)
    except SlimError:
        raise
    except Exception as error:  # often no more than that a peer is gone
        raise _told_by(peers) or error from None
    finally:  # peers that lost this one end by themselves, and their processes serve others
        _, hanging = ray.wait(peers, num_returns=len(peers), timeout=PEER_SECONDS)
        for peer in hanging:
            ray.cancel(peer, force=True)


def _in_bundle(place: PlacementGroup, rank: int) -> Any:
    """The peers' task, with all that the bundle of a rank has."""
    bundle = place.bundle_specs[rank]
    return ray.remote(_follow).options(
        max_retries=0,
        num_cpus=bundle.get("CPU", 0),
        num_gpus=bundle.get("GPU", 0),
        scheduling_strategy=PlacementGroupSchedulingStrategy(place, rank),
    )


def _follow(rank: int, workers: int, host: str, port: int, arguments: list[Any]) -> None:
    """Run the function as a peer; what it yields only rank 0 tells."""
    prepare_worker()
    function, args = ray.get(arguments[0])
    with _joined(distributed.TCPStore(host, port, is_master=False), rank, workers):
        for _ in function(*args):
            pass


@contextmanager
def _joined(store: distributed.Store, rank: int, workers: int) -> Iterator[None]:
    """In it `torch.distributed` joins the workers, over NCCL where they have GPUs."""
    interface = _interface(ray.util.get_node_ip_address())
    if interface is not None:  # a host's name may stand for an address that others cannot reach
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    on_gpu = worker_device() == "cuda"
    if on_gpu:
        torch.cuda.set_device(0)  # Ray shows a worker its own GPUs alone
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=workers
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _interface(address: str) -> str | None:
    """The network interface that has an address."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(a.family == socket.AF_INET and a.address == address for a in addresses):
            found: str = name
            return found
    return None


def _told_by(peers: list[ray.ObjectRef]) -> BaseException | None:
    """The first error of a peer that is not about the others."""
    ended, _ = ray.wait(peers, num_returns=len(peers), timeout=PEER_SECONDS)
    for peer in ended:
        try:
            ray.get(peer)
        except ray.exceptions.RayTaskError as error:
            cause: BaseException = error.cause or error
            if not isinstance(cause, RuntimeError):  # as torch.distributed raises
                return cause
        except ray.exceptions.RayError as error:  # its process or node is gone
            return error
    return None
