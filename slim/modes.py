"""A network in eval mode, or computing in fewer bits, for a while."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn


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
