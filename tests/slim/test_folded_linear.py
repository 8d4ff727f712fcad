"""Linear layers by folded weights: what autograd gives, without what autograd keeps."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from slim.folded_linear import folded_linear

WIDE, LONG = 5, 7


def fold(weight: Tensor, bias: Tensor | None, mask: Tensor) -> tuple[Tensor, Tensor | None]:
    """A mask on the outputs, and one spare output at the end."""
    weight = F.pad(weight * mask[:, None], (0, 0, 0, 1))
    return weight, None if bias is None else F.pad(bias * mask, (0, 1))


def parameters(with_bias: bool) -> list[Any]:
    """Fresh ones, in float64."""
    torch.manual_seed(0)
    weight = torch.randn(LONG, WIDE, dtype=torch.float64)
    bias = torch.randn(LONG, dtype=torch.float64) if with_bias else None
    return [weight, bias, torch.rand(LONG, dtype=torch.float64)]


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("trained", ["x weight bias mask", "x", "mask", "bias", "weight mask"])
def test_outputs_and_gradients_are_those_of_autograd(with_bias: bool, trained: str) -> None:
    if trained == "bias" and not with_bias:
        trained = "weight"
    results = []
    for linear in (lambda x, *p: F.linear(x, *fold(*p)), lambda x, *p: folded_linear(x, fold, *p)):
        tensors = [torch.linspace(-1, 1, 2 * 3 * WIDE).double().view(2, 3, WIDE)]
        tensors += parameters(with_bias)
        named = dict(zip(("x", "weight", "bias", "mask"), tensors, strict=True))
        for name in trained.split():
            if named[name] is not None:
                named[name].requires_grad_()
        out = linear(*tensors)
        out.sin().sum().backward()
        results.append([out, *(None if t is None else t.grad for t in tensors)])
    for expected, found in zip(*results, strict=True):
        assert (expected is None) == (found is None)
        if expected is not None:
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_autocast_multiplies_in_its_dtype_and_gradients_keep_theirs() -> None:
    weight, bias, mask = (p.float().requires_grad_() for p in parameters(with_bias=True))
    x = torch.randn(2, 3, WIDE, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.linear(x, *fold(weight, bias, mask))
        out = folded_linear(x, fold, weight, bias, mask)
    assert out.dtype == expected.dtype == torch.bfloat16
    assert torch.equal(out, expected)
    inputs = (x, weight, bias, mask)
    of_plain = torch.autograd.grad(expected.float().sin().sum(), inputs)
    of_folded = torch.autograd.grad(out.float().sin().sum(), inputs)
    for plain, folded in zip(of_plain, of_folded, strict=True):
        assert folded.dtype == torch.float32
        torch.testing.assert_close(folded, plain, rtol=0.02, atol=0.02)


def test_nothing_but_the_input_and_the_parameters_is_kept_for_the_backward_pass() -> None:
    weight, bias, mask = (p.requires_grad_() for p in parameters(with_bias=True))
    x = torch.randn(2, 3, WIDE, dtype=torch.float64, requires_grad=True)
    kept: set[int] = set()

    def keep(tensor: Tensor) -> Tensor:
        kept.add(tensor.data_ptr())
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        folded_linear(x, fold, weight, bias, mask)
    assert kept == {tensor.data_ptr() for tensor in (x, weight, bias, mask)}


def test_in_place_changes_of_the_output_reach_the_gradients() -> None:
    weight, bias, mask = (p.requires_grad_() for p in parameters(with_bias=True))
    added = torch.ones(LONG + 1, dtype=torch.float64, requires_grad=True)
    out = folded_linear(torch.ones(2, 3, WIDE, dtype=torch.float64), fold, weight, bias, mask)
    out[:, 1] += added
    out.sum().backward()
    torch.testing.assert_close(added.grad, torch.full_like(added, 2.0))
    torch.testing.assert_close(bias.grad, 6.0 * mask.detach())
