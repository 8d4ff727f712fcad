"""What is left of a branch that is pruned whole."""

import torch
from torch import Tensor, nn


class ConstantBranch(nn.Module):
    """The output bias of a branch pruned whole (LayerScale folded in)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return the bias for every token of x (..., D): stochastic depth drops samples."""
        return self.bias.expand_as(x).clone()  # a view of a parameter upsets counters of FLOPs
