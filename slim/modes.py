"""How a network computes: in eval mode, in fewer bits, block by block again, on dropped paths."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from timm.layers import DropPath, calculate_drop_path_rates
from torch import nn

from slim.parameter_groups import timm_model


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode; afterwards each of its modules is in the mode it came in."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def autocast(device: torch.device | str, amp: str) -> AbstractContextManager[object]:
    """In it a device computes in `amp`, `bfloat16` or `float16`, where that is safe; or `none`."""
    if amp == "none":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=getattr(torch, amp))


@contextmanager
def recomputed_blocks(model: nn.Module) -> Iterator[None]:
    """In it a model keeps its blocks' inputs only, and computes blocks again for gradients."""
    network = timm_model(model)
    network.set_grad_checkpointing(True)
    try:
        yield
    finally:
        network.set_grad_checkpointing(False)


def set_drop_path(model: nn.Module, rate: float) -> None:
    """Set stochastic depth, rising linearly from 0 in the first block to `rate` in the last."""
    blocks = [module for module in model.modules() if hasattr(module, "drop_path1")]
    for block, prob in zip(blocks, calculate_drop_path_rates(rate, len(blocks)), strict=True):
        for name in ("drop_path1", "drop_path2"):  # timm has no DropPath where the rate was 0
            setattr(block, name, DropPath(prob).train(block.training))
