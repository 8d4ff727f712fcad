"""Fitting what a Swin Transformer knows of positions to windows of another size."""

from typing import Any

from timm.layers import resize_rel_pos_bias_table
from torch import Tensor

from slim.architecture import Architecture


def resample(state: dict[str, Tensor], old: Architecture, new: Architecture) -> None:
    """Resample the relative position tables in place, as timm does; a column is a kept head.

    Args:
        state: Parameters by name.
        old: The network that they are of.
        new: The one that they are for.
    """
    before: Any = old.spec
    now: Any = new.spec
    for index, block in enumerate(now.block_names):
        name = f"{block}.attn.relative_position_bias_table"
        was, windows = before.windows(index), now.windows(index)
        if name in state and was.size != windows.size:
            state[name] = resize_rel_pos_bias_table(
                state[name],
                new_window_size=windows.size,
                new_bias_shape=(windows.table_rows, state[name].shape[1]),
                old_window_size=was.size,
            )
