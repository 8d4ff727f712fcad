"""Layouts differ in how many attention calls they take, and in nothing else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from slim import Architecture, Latency, SlimError, extract
from slim.attention import HeadNorm, SlimAttention
from slim.layout_choice import fastest_layout, use_layout
from slim.layouts import DEFAULT_LAYOUT, LAYOUTS, join_heads, share_out, split_heads
from slim.subnetwork import build_subnetwork
from tests.slim.architectures import NAMED, architectures, uneven
from tests.slim.bars import copy_of
from tests.slim.families import checkpoint, dense, images, spec_of

WIDTHS = (1, 1, 3, 16, 17, 20)


@pytest.mark.parametrize(
    ("layout", "calls"),
    [
        ("per_head", [(1,), (1,), (3,), (16,), (17,), (20,)]),
        ("grouped", [(1, 1), (3,), (16,), (17,), (20,)]),
        ("near", [(1, 1, 3, 16), (17, 20)]),
        ("padded", [(1, 1, 3, 16, 17, 20)]),
    ],
)
def test_a_layout_shares_heads_out_to_calls(layout, calls):
    assert LAYOUTS[layout](WIDTHS) == calls


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_split_is_joined_again(layout):
    calls = LAYOUTS[layout](WIDTHS)
    x = torch.randn(2, 5, sum(WIDTHS))
    heads = share_out(x, calls)
    assert [tuple(h.shape) for h in heads] == [(2, len(c), 5, c[-1]) for c in calls]
    assert torch.equal(join_heads(heads, calls), x)


def test_heads_are_padded_with_zeros_behind():
    padded = split_heads(torch.arange(1.0, 7.0).expand(1, 2, 6), (1, 2, 3))  # (1, heads, 2, 3)
    assert padded[0, :, 0].tolist() == [[1, 0, 0], [2, 3, 0], [4, 5, 6]]


def results(
    layout: str, family: str, architecture: Architecture
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Logits and all gradients in training mode, in float64."""
    vit = extract(checkpoint(family, dtype=torch.float64), architecture).train()
    use_layout(vit, layout)
    logits = vit(images(architecture.spec, torch.float64))
    gradients = torch.autograd.grad(
        logits.square().sum(), list(vit.parameters()), allow_unused=True, materialize_grads=True
    )
    return logits.detach(), gradients


@pytest.mark.parametrize("family", ["vit", "qk_layernorm", "qk_rmsnorm", "no_qkv_bias"])
@settings(max_examples=3)
@given(data=st.data())
def test_all_layouts_give_the_same_logits_and_gradients(family, data):
    architecture = data.draw(architectures(spec_of(family)))
    expected = results("per_head", family, architecture)
    for layout in LAYOUTS:
        torch.testing.assert_close(
            results(layout, family, architecture), expected, rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("case", NAMED)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_they_agree_to_float32_rounding_when_served(layout, case):
    source = checkpoint("qk_layernorm")
    vit = extract(source, NAMED[case](source.spec))
    with torch.no_grad():
        expected = vit(images(source.spec))
        use_layout(vit, layout)
        torch.testing.assert_close(vit(images(source.spec)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["layernorm", "rmsnorm"])
def test_a_qk_norm_takes_its_statistics_over_the_kept_dimensions_of_each_head(kind):
    norm = HeadNorm(dims=[0, 2, 1, 2, 3], widths=(2, 3), kind=kind, eps=1e-6)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    x = torch.randn(2, 5, 5)
    plain = F.layer_norm if kind == "layernorm" else F.rms_norm
    first = plain(x[..., :2], (2,), eps=1e-6) * torch.tensor([1.0, 3.0])
    second = plain(x[..., 2:], (3,), eps=1e-6) * torch.tensor([2.0, 3.0, 4.0])
    torch.testing.assert_close(norm(x), torch.cat([first, second], dim=-1))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_softmax_scale_is_the_dense_one(layout):
    attention = SlimAttention(uneven(spec_of("vit")), 0)  # widths 1, 2, 3 of 4 dimensions
    attention.layout = layout
    x = torch.randn(2, 5, 12)
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    out = []
    for q_head, k_head, v_head in zip(
        *(t.split((1, 2, 3), dim=-1) for t in (q, k, v)), strict=True
    ):
        out.append((q_head @ k_head.mT / 4**0.5).softmax(dim=-1) @ v_head)
    torch.testing.assert_close(attention(x), attention.proj(torch.cat(out, dim=-1)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_changes_nothing_that_is_saved(layout):
    vit = build_subnetwork(uneven(spec_of("qk_layernorm")))
    before = copy_of(vit)
    use_layout(vit, layout)
    assert {n: t.shape for n, t in vit.state_dict().items()} == {
        n: t.shape for n, t in before.items()
    }


@pytest.mark.parametrize("layout", ["per_head", "padded"])
def test_it_is_exported_with_a_dynamic_batch(layout):
    vit = extract(checkpoint("qk_layernorm"), uneven(spec_of("qk_layernorm")))
    use_layout(vit, layout)
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(vit, (images(spec_of("vit")),), dynamic_shapes=batch)
    three = images(spec_of("vit"), batch=3)
    torch.testing.assert_close(program.module()(three), vit(three))


@pytest.mark.parametrize("layout", ["per_head", "padded"])
def test_it_compiles_to_one_graph(layout):
    vit = extract(checkpoint("qk_layernorm"), uneven(spec_of("qk_layernorm")))
    use_layout(vit, layout)
    compiled = torch.compile(vit, backend="aot_eager", fullgraph=True)
    x = images(spec_of("vit"))
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), vit(x))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_runs_under_autocast(layout):
    vit = extract(checkpoint("qk_layernorm"), uneven(spec_of("qk_layernorm")))
    expected = vit(images(spec_of("vit")))
    use_layout(vit, layout)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = vit(images(spec_of("vit")))
    assert logits.dtype == torch.bfloat16
    assert (logits - expected).norm() < 0.05 * expected.norm()


def layouts_of(vit: torch.nn.Module) -> set[str]:
    return {module.layout for module in vit.modules() if isinstance(module, SlimAttention)}


def test_the_fastest_of_all_layouts_is_left_in_place(monkeypatch):
    vit = build_subnetwork(uneven(spec_of("vit")))
    assert layouts_of(vit) == {DEFAULT_LAYOUT}
    medians = {"per_head": 3.0, "grouped": 2.0, "near": 1.0, "padded": 4.0}

    def measured(vit: torch.nn.Module, batch_size: int, **_: int) -> Latency:
        median = medians[layouts_of(vit).pop()]
        return Latency(median, median, median, batch_size, "cpu", 1, 1)

    monkeypatch.setattr("slim.layout_choice.latency", measured)
    assert fastest_layout(vit) == "near"
    assert layouts_of(vit) == {"near"}


def test_layouts_are_measured_on_the_network():
    vit = build_subnetwork(uneven(spec_of("vit"))).eval()
    assert fastest_layout(vit, batch_size=2, runs=2) in LAYOUTS
    assert len(layouts_of(vit)) == 1


def test_a_network_without_such_attention_is_not_measured():
    assert fastest_layout(dense("swin")) == DEFAULT_LAYOUT


def test_an_unknown_layout_is_refused_by_name():
    with pytest.raises(SlimError, match="layout 'ragged' is not one of per_head, grouped"):
        use_layout(build_subnetwork(uneven(spec_of("vit"))), "ragged")
