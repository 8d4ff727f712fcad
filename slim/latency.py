"""How long a network takes on the machine it runs on."""

import copy
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slim.errors import SlimError
from slim.modes import evaluating
from slim.subnetwork import architecture_of


@dataclass(frozen=True)
class Latency:
    """The time of one forward pass, and what it was measured with.

    Args:
        median_ms: Milliseconds for one batch, the median of the runs.
        low_ms: The 5 % quantile.
        high_ms: The 95 % quantile.
        batch_size: Images in the batch.
        device: Where it ran.
        threads: Of torch on the CPU, within one operation.
        runs: How many were timed.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    batch_size: int
    device: str
    threads: int
    runs: int


def latency(
    vit: nn.Module,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    runs: int = 50,
    warmup: int = 10,
) -> Latency:
    """Time forward passes of random images, in eval and inference mode, after a warm-up.

    Each run is timed by itself, and on an accelerator from one synchronisation to the next. Set
    `torch.set_num_threads` before; two networks are compared best in turns, on an idle machine.

    Args:
        vit: A subnetwork, a dense timm model of a family, or one of them from `torch.compile`;
            left in the mode and on the device it came in.
        batch_size: Images in the batch.
        device: Where to measure; None for where the network is. Elsewhere a copy is measured.
        runs: How many to time.
        warmup: How many to run before.

    Raises:
        SlimError: If `batch_size` or `runs` is below 1, or `warmup` below 0.
        UnsupportedModelError: If a dense model has a feature that is not covered.
    """
    _check("batch_size", batch_size, 1)
    _check("runs", runs, 1)
    _check("warmup", warmup, 0)
    home = next(vit.parameters()).device
    place = home if device is None else torch.device(device)
    measured = vit if place == home else copy.deepcopy(vit).to(place)
    images = _images(measured, batch_size)
    with evaluating(measured), torch.inference_mode():
        for _ in range(warmup):
            measured(images)
        times = [_run_ms(measured, images) for _ in range(runs)]
    low, high = _quantile(times, 0.05), _quantile(times, 0.95)
    threads = torch.get_num_threads()
    return Latency(statistics.median(times), low, high, batch_size, str(place), threads, runs)


def _check(name: str, value: int, least: int) -> None:
    if value < least:
        raise SlimError(f"{name}={value} is not a number of at least {least}")


def _images(vit: Any, batch_size: int) -> Tensor:
    """Random images (B, C, H, W) where the network is and of its type."""
    like = next(vit.parameters())
    size = architecture_of(getattr(vit, "_orig_mod", vit)).spec.input_size  # torch.compile wraps
    return torch.randn(batch_size, *size, device=like.device, dtype=like.dtype)


def _run_ms(vit: nn.Module, images: Tensor) -> float:
    _wait_for(images.device)
    start = time.perf_counter()
    vit(images)
    _wait_for(images.device)
    return 1e3 * (time.perf_counter() - start)


def _wait_for(device: torch.device) -> None:
    """Let an accelerator finish what was queued; the CPU has finished when a call returns."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _quantile(times: list[float], share: float) -> float:
    return float(torch.quantile(torch.tensor(times, dtype=torch.float64), share))
