"""Choosing a subnetwork's run-time layout by name, or by measuring where it will run."""

from torch import nn

from slim.attention import SlimAttention
from slim.errors import SlimError
from slim.latency import latency
from slim.layouts import DEFAULT_LAYOUT, LAYOUTS


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


def fastest_layout(vit: nn.Module, batch_size: int = 1, runs: int = 20) -> str:
    """Measure every layout where the subnetwork is, and leave it in the fastest.

    Args:
        vit: A subnetwork; without attention whose heads differ it is not measured.
        batch_size: Of the batches that it will serve.
        runs: Timed runs of each layout, after some to warm up.

    Returns:
        The name of the layout.
    """
    if not any(isinstance(module, SlimAttention) for module in vit.modules()):
        return DEFAULT_LAYOUT
    medians = {}
    for layout in LAYOUTS:
        use_layout(vit, layout)
        medians[layout] = latency(vit, batch_size, runs=runs, warmup=3).median_ms
    fastest = min(medians, key=medians.__getitem__)
    use_layout(vit, fastest)
    return fastest
