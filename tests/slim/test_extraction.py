"""The extracted network is the hard-masked model, only smaller."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from slim import (
    Architecture,
    Budget,
    MaskCheckpoint,
    ModelSpec,
    SlimError,
    attach_masks,
    extract,
)
from tests.slim.architectures import NAMED, architectures, uneven
from tests.slim.families import (
    FAMILIES,
    SWINS,
    VITS,
    checkpoint,
    classifiers,
    dense,
    images,
    masked,
    spec_of,
)

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
SEEDS = st.integers(0, 2**20)


def distance(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, once the values are of order one."""
    assert ours.shape == theirs.shape
    assert bool(theirs.isfinite().all())
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1.0))


def pair(
    architecture: Architecture, family: str, seed: int, dtype: torch.dtype
) -> tuple[nn.Module, nn.Module]:
    """The subnetwork, and the hard-masked model it must equal."""
    model = masked(family, seed, dtype)
    vit = extract(MaskCheckpoint.from_model(model), architecture)
    return vit, model.harden(architecture)


def gradients(model: nn.Module, classifiers: list[nn.Module], x: Tensor) -> list[Tensor]:
    """Of one scalar of the output, with respect to the images and the classifiers."""
    x = x.clone().requires_grad_()
    out = model(x)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    parameters = [p for head in classifiers for p in head.parameters()]
    return list(torch.autograd.grad((out * weights).sum(), [x, *parameters]))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=4)
@given(data=st.data(), seed=SEEDS)
def test_any_subnetwork_equals_its_hard_masked_model(family, dtype, data, seed):
    architecture = data.draw(architectures(spec_of(family)))
    vit, hard = pair(architecture, family, seed, dtype)
    x = images(vit.architecture.spec, dtype)
    with torch.no_grad():
        assert distance(vit(x), hard(x)) <= TOLERANCE[dtype]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=3)
@given(data=st.data(), seed=SEEDS)
def test_their_gradients_are_equal(family, data, seed):
    vit, hard = pair(data.draw(architectures(spec_of(family))), family, seed, torch.float64)
    x = images(vit.architecture.spec, torch.float64)
    ours = gradients(vit, classifiers(vit), x)
    theirs = gradients(hard, classifiers(hard.vit), x)
    for mine, its in zip(ours, theirs, strict=True):
        assert distance(mine, its) <= 1e-10


@pytest.mark.parametrize("case", [case for case in NAMED if case.startswith("with")])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_pruned_whole_leaves_the_same_function(family, case):
    vit, hard = pair(NAMED[case](spec_of(family)), family, 3, torch.float64)
    x = images(vit.architecture.spec, torch.float64)
    with torch.no_grad():
        assert distance(vit(x), hard(x)) <= 1e-10


@pytest.mark.parametrize("case", ["without_block", "with_fewest_tokens", "uneven"])
@pytest.mark.parametrize("family", [f for f in VITS if not f.startswith("qk_")])
def test_it_equals_timms_model_with_zeroed_weights_and_gathered_tokens(family, case):
    """A second opinion that shares no code with the masks; a qk-norm has other statistics."""
    model = dense(family, dtype=torch.float64)
    architecture = NAMED[case](spec_of(family))
    vit = extract(MaskCheckpoint.from_model(attach_masks(model)), architecture)
    x = images(architecture.spec, torch.float64)
    with torch.no_grad():
        assert distance(vit(x), zeroed_and_gathered(model, architecture, x)) <= 1e-10


def zeroed_and_gathered(model: nn.Module, architecture: Architecture, x: Tensor) -> Tensor:
    spec, model = architecture.spec, copy.deepcopy(model)
    x = model.norm_pre(model._pos_embed(model.patch_embed(x)))
    prefix, left = range(spec.num_prefix_tokens), tuple(range(spec.num_patches))
    for i, block in enumerate(model.blocks):
        zero_what_is_dropped(block, architecture, i)
        places = [left.index(position) for position in architecture.tokens[i]]
        x = x[:, [*prefix, *(len(prefix) + place for place in places)]]
        left = architecture.tokens[i]
        x = block(x)
    return model.forward_head(model.norm(x))


@pytest.mark.parametrize("case", ["without_head", "without_block", "uneven"])
@pytest.mark.parametrize("family", SWINS)
def test_it_equals_timms_swin_with_zeroed_weights(family, case):
    """A second opinion that shares no code with the masks, nor with their windows."""
    model = dense(family, dtype=torch.float64)
    architecture = NAMED[case](spec_of(family))
    vit = extract(MaskCheckpoint.from_model(attach_masks(model)), architecture)
    x = images(architecture.spec, torch.float64)
    blocks = [block for stage in model.layers for block in stage.blocks]
    with torch.no_grad():
        for i, block in enumerate(blocks):
            zero_what_is_dropped(block, architecture, i)
        assert distance(vit(x), model(x)) <= 1e-10


def zero_what_is_dropped(block: nn.Module, architecture: Architecture, index: int) -> None:
    widths = architecture.spec.block(index)
    kept = torch.zeros(3, widths.num_heads, widths.head_dim, dtype=torch.float64)
    for head, dims in enumerate(architecture.heads[index]):
        kept[:, head, list(dims)] = 1
    for parameter in block.attn.qkv.parameters():
        parameter.mul_(kept.flatten() if parameter.ndim == 1 else kept.flatten()[:, None])
    units = torch.zeros(widths.mlp_hidden, dtype=torch.float64)
    units[list(architecture.units[index])] = 1
    block.mlp.fc2.weight.mul_(units)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_budget_gives_the_dense_model_back(family):
    model = dense(family)
    whole = MaskCheckpoint.from_model(attach_masks(model))
    vit = extract(whole, whole.select(Budget()))
    x = images(whole.spec)
    with torch.no_grad():
        assert distance(vit(x), model(x)) <= 1e-5


@pytest.mark.parametrize("family", ["vit", "siglip", "qk_layernorm", "swin"])
def test_under_bfloat16_autocast_it_stays_close(family):
    vit, hard = pair(uneven(spec_of(family)), family, 0, torch.float32)
    x = images(vit.architecture.spec)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert distance(vit(x).float(), hard(x).float()) <= 0.1


def test_the_checkpoint_stays_as_it_is_and_shares_nothing():
    source = checkpoint("deit3")
    before = {name: tensor.clone() for name, tensor in source.weights.items()}
    vit = extract(source, uneven(source.spec))
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.fill_(9.0)
    assert all(torch.equal(source.weights[name], before[name]) for name in before)


def test_the_subnetwork_knows_what_it_is():
    source = checkpoint("vit")
    architecture = source.select(Budget(0.5, 0.5, 0.5))
    vit = extract(source, architecture)
    assert vit.architecture == architecture
    assert vit.input_size == (3, 8, 12)
    assert vit.num_classes == 5
    assert not vit.training


@pytest.mark.parametrize("family", ["dinov2_registers", *SWINS])
def test_it_trains(family):
    vit = extract(checkpoint(family), uneven(spec_of(family))).train()
    vit(images(vit.architecture.spec)).square().sum().backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in vit.parameters())


def test_an_architecture_of_another_model_is_refused():
    other: ModelSpec = spec_of("deit3")
    with pytest.raises(SlimError, match="another spec"):
        extract(checkpoint("vit"), Architecture.dense(other))
