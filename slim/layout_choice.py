"""Choosing a subnetwork's run-time layout by name, or by measuring where it will run."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from slim.attention import SlimAttention
from slim.errors import SlimError
from slim.layouts import LAYOUTS


def use_layout(vit: nn.Module, layout: str) -> None:
    """Let every attention of a subnetwork run in a layout; the function stays the same.

    Args:
        vit: A subnetwork; changed in place. Its parameters stay, and the layout is not saved.
        layout: A name in `slim.layouts.LAYOUTS`.

    Raises:
        SlimError: If there is no such layout.
    """
    if layout not in LAYOUTS:
        raise SlimError(f"layout {layout!r} is not one of {', '.join(LAYOUTS)}")
    for module in vit.modules():
        if isinstance(module, SlimAttention):
            module.layout = layout


def fastest_layout(vit: nn.Module, images: Tensor, seconds: float = 1.0) -> str:
    """Measure every layout where the subnetwork is, and leave it in the fastest.

    Args:
        vit: A subnetwork.
        images: A batch (B, C, H, W) as it will be served, on the same device.
        seconds: How long each layout is measured.

    Returns:
        The name of the layout.
    """
    medians = {}
    for layout in LAYOUTS:
        use_layout(vit, layout)
        medians[layout] = _median_seconds(vit, images, seconds)
    fastest = min(medians, key=medians.__getitem__)
    use_layout(vit, fastest)
    return fastest


def _median_seconds(vit: nn.Module, images: Tensor, seconds: float) -> float:
    """Of one forward pass without gradients; the timer waits for an accelerator."""
    names: dict[str, Any] = {"vit": vit, "images": images}
    timer = Timer("vit(images)", globals=names, num_threads=torch.get_num_threads())
    with torch.no_grad():
        return float(timer.blocked_autorange(min_run_time=seconds).median)
