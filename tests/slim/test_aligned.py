"""A linear layer with aligned output rows is torch's linear layer, and faster where it can be."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from slim import count
from slim.aligned import FEWEST_ROWS, AlignedLinear
from slim.subnetwork import build_subnetwork
from tests.slim.architectures import uneven
from tests.slim.families import images, spec_of


def layer(inputs: int = 8, outputs: int = 19, bias: bool = True) -> AlignedLinear:
    torch.manual_seed(0)
    return AlignedLinear(inputs, outputs, bias=bias)


def plenty(linear: nn.Linear) -> torch.Tensor:
    """(2, rows, features), of as many rows as it takes to be worth aligning."""
    random = torch.Generator().manual_seed(1)
    return torch.randn(2, FEWEST_ROWS // 2, linear.in_features, generator=random)


@given(inputs=st.integers(1, 40), outputs=st.integers(1, 40), bias=st.booleans())
def test_it_is_a_linear_layer(inputs, outputs, bias):
    linear = layer(inputs, outputs, bias)
    x = plenty(linear)
    with torch.no_grad():
        torch.testing.assert_close(linear(x), F.linear(x, linear.weight, linear.bias))


@pytest.mark.parametrize("outputs", [1, 15, 16, 17, 48])
def test_every_row_of_its_output_starts_on_a_cache_line(outputs):
    linear = layer(outputs=outputs)
    with torch.no_grad():
        out = linear(plenty(linear))
    assert out.shape == (2, FEWEST_ROWS // 2, outputs)
    assert out.stride(1) == -(-outputs // 16) * 16
    assert out.stride(0) == out.stride(1) * out.shape[1]


def test_it_follows_its_weights():
    linear = layer()
    x = plenty(linear)
    with torch.no_grad():
        before = linear(x)
        linear.weight.mul_(2)
        linear.bias.mul_(2)
        torch.testing.assert_close(linear(x), 2 * before)


def test_with_gradients_it_is_torchs_own():
    linear = layer()
    x = plenty(linear).requires_grad_()
    out = linear(x)
    assert out.is_contiguous()
    ours = torch.autograd.grad(out.square().sum(), (x, linear.weight, linear.bias))
    plain = F.linear(x, linear.weight, linear.bias)
    theirs = torch.autograd.grad(plain.square().sum(), (x, linear.weight, linear.bias))
    torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def test_so_it_is_under_autocast_and_in_other_types():
    linear = layer()
    x = plenty(linear)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x).dtype == torch.bfloat16
    assert torch.equal(linear.double()(x.double()), F.linear(x.double(), *linear.parameters()))


@torch.no_grad()
def test_it_is_exported_as_a_linear_layer():
    linear = layer()
    program = torch.export.export(linear, (plenty(linear),))
    called = [n.target for n in program.graph.nodes if n.op == "call_function"]
    assert called == [torch.ops.aten.linear.default]


def test_aligned_rows_take_no_mac_more(monkeypatch):
    monkeypatch.setattr("slim.aligned.FEWEST_ROWS", 1)
    architecture = uneven(spec_of("swiglu"))
    vit = build_subnetwork(architecture).eval()
    sdpa = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with torch.no_grad(), sdpa, FlopCounterMode(display=False) as counter:
        vit(images(architecture.spec, batch=1))
    assert counter.get_total_flops() == 2 * count(architecture).macs
