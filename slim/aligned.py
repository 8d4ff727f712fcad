"""A linear layer whose output rows start where the processor likes them to."""

import torch
from torch import Tensor, nn

FLOATS = 16
"""A cache line of 64 bytes."""
FEWEST_ROWS = 256
"""Below, the product is too short for its rows' alignment to show."""


class AlignedLinear(nn.Linear):
    """`nn.Linear` for output widths that are no multiple of 16; the same function and parameters.

    Where a matrix product's output rows start off a cache line, MKL runs it at two thirds of its
    speed once there are a few hundred rows or more. Without gradients on a CPU, the product is
    therefore written into a buffer of wider rows, of which the output is a view: no weight is
    padded or copied, and not a MAC is added. Elsewhere it is `nn.Linear`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        if not self.out_features % FLOATS or not self._can_write_into(x):
            return super().forward(x)
        rows = x.flatten(0, -2)
        wide = x.new_empty(len(rows), self.out_features + -self.out_features % FLOATS)
        out = wide[:, : self.out_features]
        if self.bias is None:
            torch.mm(rows, self.weight.t(), out=out)
        else:
            torch.addmm(self.bias, rows, self.weight.t(), out=out)
        return out.unflatten(0, x.shape[:-1])

    def _can_write_into(self, x: Tensor) -> bool:
        """Whether an `out=` product is possible here and pays: eager, on the CPU, no autocast."""
        return (
            not torch.compiler.is_compiling()  # first: the last line would bind an export's batch
            and not torch.jit.is_tracing()
            and x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and x.numel() >= FEWEST_ROWS * self.in_features
        )


def with_aligned_rows(mlp: nn.Module) -> nn.Module:
    """An MLP of timm whose first layers become `AlignedLinear`, parameters and all; in place."""
    for name, layer in mlp.named_children():
        if name.startswith("fc1") and type(layer) is nn.Linear:
            layer.__class__ = AlignedLinear
    return mlp
