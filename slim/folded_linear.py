"""Linear layers whose weights are folded from parameters in each step, at no cost of memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Fold = Callable[..., tuple[Tensor, Tensor | None]]


def folded_linear(x: Tensor, fold: Fold, *parameters: Tensor | None) -> Tensor:
    """`F.linear` by a weight and a bias that `fold` makes of parameters.

    Autograd would keep the folded weights of every layer from its forward to its backward pass,
    once more the memory of the weights themselves; here the backward pass folds them anew. Where
    there is none, and under `torch.compile`, which decides itself what is kept, it is `F.linear`.

    Args:
        x: (..., in), of two dimensions or more.
        fold: Of the parameters, the weight (out, in) and the bias (out,) or None. It is called
            twice and must give the same.
        parameters: What gradients flow to; whatever else `fold` needs takes no gradient.

    Returns:
        (..., out), in the dtype of autocast where it is on. Differentiable once.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return F.linear(x, *fold(*parameters))
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    out: Tensor = _FoldedLinear.apply(x.flatten(0, -2), fold, *parameters)
    return out.unflatten(0, x.shape[:-1])


class _FoldedLinear(torch.autograd.Function):
    """`folded_linear` of rows (R, in), in their dtype."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, fold: Fold, *parameters: Tensor | None) -> Tensor:
        """Multiply by the folded weight: (R, out)."""
        ctx.fold = fold
        ctx.save_for_backward(x, *parameters)
        weight, bias = fold(*parameters)
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the rows and of the parameters, from that of the output (R, out)."""
        x, *parameters = ctx.saved_tensors
        of_x, _, *needed = ctx.needs_input_grad
        with torch.enable_grad():
            leaves = [
                None if p is None else p.detach().requires_grad_(need)
                for p, need in zip(parameters, needed, strict=True)
            ]
            weight, bias = ctx.fold(*leaves)
        grads = {}
        if weight.requires_grad:
            grads[weight] = (grad.T @ x).to(weight.dtype)
        if bias is not None and bias.requires_grad:
            grads[bias] = grad.sum(0).to(bias.dtype)
        torch.autograd.backward(list(grads), list(grads.values()))
        of_parameters = (None if leaf is None else leaf.grad for leaf in leaves)
        return (grad @ weight.to(grad.dtype) if of_x else None, None, *of_parameters)
