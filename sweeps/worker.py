"""What a worker process sets up before it computes."""

import ray
import torch


def prepare_worker() -> None:
    """Give torch the CPUs that Ray gave this worker."""
    given = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    torch.set_num_threads(max(1, int(given)))


def worker_device() -> str:
    """A GPU if Ray gave this worker one."""
    given = ray.get_runtime_context().get_assigned_resources().get("GPU", 0)
    return "cuda" if given and torch.cuda.is_available() else "cpu"
