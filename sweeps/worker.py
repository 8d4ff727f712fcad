"""What a worker process sets up before it computes."""

import gc
from functools import cache

import ray
import torch


def prepare_worker() -> None:
    """Give torch the CPUs that Ray gave this worker."""
    _spare_imports()
    given = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    torch.set_num_threads(max(1, int(given)))


@cache
def _spare_imports() -> None:
    """Keep the garbage collector, once, off what is imported.

    Each network that is cut out is thousands of small objects. Their number wakes the collector,
    which then walks all of torch and timm: that takes longer than the cutting.
    """
    gc.collect()
    gc.freeze()


def worker_device() -> str:
    """A GPU if Ray gave this worker one."""
    given = ray.get_runtime_context().get_assigned_resources().get("GPU", 0)
    return "cuda" if given and torch.cuda.is_available() else "cpu"
