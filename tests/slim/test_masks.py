"""Masks start as a change of nothing, and end as a removal."""

import math

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from slim import (
    Architecture,
    Budget,
    MaskCheckpoint,
    UnsupportedModelError,
    attach_masks,
    extract,
    load,
    save,
)
from slim.errors import SlimError
from slim.masked_model import SMALLEST_TOKEN_MASK
from slim.spec import read_spec
from tests.slim.architectures import uneven
from tests.slim.families import (
    FAMILIES,
    SWINS,
    VITS,
    checkpoint,
    dense,
    images,
    masked,
    plain,
    spec_of,
    swin,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_masks_do_not_change_the_function(family):
    model = dense(family, dtype=torch.float64)
    x = images(spec_of(family), torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(attach_masks(model)(x), model(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", ["vit", "qk_layernorm", "qk_rmsnorm", SWINS[0]])
def test_a_masked_model_compiles_as_one_graph_with_the_same_gradients(family):
    model, x = masked(family), images(spec_of(family))
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    gradients = []
    for run in (model, compiled):
        model.zero_grad()
        run(x).sin().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) > 10
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)
    torch.compiler.reset()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_given_model_is_left_untouched(family):
    model = dense(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layout = str(model)
    fresh = attach_masks(model)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.fill_(9.0)
    assert str(model) == layout
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_are_named_so_and_everything_else_is_the_dense_model(family):
    model = dense(family)
    fresh = attach_masks(model)
    masks = fresh.mask_parameters()
    assert len(masks) == (3 if family in VITS else 2) * spec_of(family).depth
    assert all("mask" in name for name in masks)
    assert all(bool((mask == 1).all()) for mask in masks.values())
    assert {name for name, _ in fresh.named_parameters() if "mask" in name} == masks.keys()
    state = fresh.dense_state()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], t) for name, t in model.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_that_of_the_given_model(training):
    assert attach_masks(dense("vit").train(training)).training is training


def test_the_given_models_dropout_stays():
    rates = {"drop_rate": 0.1, "attn_drop_rate": 0.2, "proj_drop_rate": 0.3, "drop_path_rate": 0.5}
    fresh = attach_masks(plain(**rates)())
    block = fresh.vit.blocks[-1]
    assert fresh.vit.head_drop.p == 0.1
    assert block.attn.attn_drop.p == 0.2
    assert block.attn.proj_drop.p == block.mlp.drop1.p == 0.3
    assert block.drop_path1.drop_prob == block.drop_path2.drop_prob == 0.5


def test_the_given_swins_dropout_stays():
    rates = {"attn_drop_rate": 0.2, "proj_drop_rate": 0.3, "drop_path_rate": 0.5}
    block = attach_masks(swin(**rates)()).blocks[-1]
    assert block.attn.attn_drop.p == 0.2
    assert block.attn.proj_drop.p == block.mlp.drop1.p == 0.3
    assert block.drop_path1.drop_prob == block.drop_path2.drop_prob == 0.5


@pytest.mark.parametrize("family", SWINS)
def test_masks_of_windows_save_no_activation(family):
    def saved_by(model: nn.Module) -> int:
        """Bytes kept for the backward pass that grow with the batch."""
        sizes = []
        for batch in (1, 2):
            seen: dict[int, int] = {}

            def note(tensor: Tensor, seen: dict[int, int] = seen) -> Tensor:
                seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                out = model(images(spec_of(family), batch=batch))
            sizes.append(sum(seen.values()))
            del out
        return sizes[1] - sizes[0]

    source = checkpoint(family)
    without_masks = extract(source, Architecture.dense(source.spec))
    assert saved_by(masked(family)) == saved_by(without_masks)


def test_a_slimmed_subnetwork_is_refused():
    source = checkpoint("vit")
    with pytest.raises(UnsupportedModelError, match="slimmed subnetwork"):
        attach_masks(extract(source, source.select(Budget(0.5, 0.5, 0.5))))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loaded_dense_model_takes_masks(family, tmp_path):
    model = dense(family)
    loaded = load(save(model, tmp_path / "dense"))
    x = images(spec_of(family))
    with torch.no_grad():
        torch.testing.assert_close(attach_masks(loaded)(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_loaded_dense_model_with_another_classifier_takes_masks(tmp_path):
    loaded = load(save(dense("vit"), tmp_path / "dense"))
    loaded.reset_classifier(2)
    assert attach_masks(loaded).spec.num_classes == 2


def attend(
    attn: nn.Module, x: Tensor, dims: Tensor, tokens: Tensor, kept: Tensor | None = None
) -> Tensor:
    """Masked attention as the paper defines it, with the softmax written out."""
    batch, count, width = x.shape
    qkv = attn.qkv(x).view(batch, count, 3, attn.num_heads, attn.head_dim) * dims
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-2, -1) * attn.head_dim**-0.5).exp() * tokens
    weights = weights / weights.sum(dim=-1, keepdim=True)
    return attn.proj((weights @ v).transpose(1, 2).reshape(batch, count, width))


def test_masks_scale_qkv_softmax_weights_and_units():
    model = masked("vit", dtype=torch.float64)
    original = dense("vit", dtype=torch.float64)
    with torch.no_grad():
        x = original._pos_embed(original.patch_embed(images(spec_of("vit"), torch.float64)))
        ours = x
        for soft, block in zip(model.vit.blocks, original.blocks, strict=True):
            tokens = F.pad(soft.token_mask, (1, 0), value=1.0)
            x = x + attend(block.attn, block.norm1(x), soft.attn.mask, tokens)
            hidden = block.mlp.act(block.mlp.fc1(block.norm2(x))) * soft.mlp.fc2.mask
            x = x + block.mlp.fc2(hidden)
            ours = soft(ours)
    torch.testing.assert_close(ours, x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_mask_gets_a_finite_gradient(family):
    model = masked(family)
    with torch.no_grad():
        for mask in model.live_masks().tokens:
            mask[0] = SMALLEST_TOKEN_MASK
    model(images(model.spec)).square().sum().backward()
    for mask in model.mask_parameters().values():
        assert bool(mask.grad.isfinite().all())
        assert bool((mask.grad != 0).any())


def test_clamping_brings_masks_back_to_where_they_mean_something():
    model = masked("vit")
    with torch.no_grad():
        for mask in model.mask_parameters().values():
            mask[..., 0], mask[..., 1] = -3.0, 3.0
    model.clamp_masks()
    masks = model.masks()
    assert all(float(mask.min()) == pytest.approx(SMALLEST_TOKEN_MASK) for mask in masks.tokens)
    assert all(float(mask.min()) == 0.0 for mask in masks.mhsa + masks.mlp)
    assert all(float(mask.max()) == 1.0 for mask in masks.tokens + masks.mhsa + masks.mlp)


def test_hard_masks_keep_the_value_of_what_is_kept_and_set_kept_tokens_to_1():
    model = masked("vit")
    before = model.masks()
    after = model.harden(uneven(model.spec)).masks()
    for kept, learned in zip(after.mhsa + after.mlp, before.mhsa + before.mlp, strict=True):
        assert torch.equal(kept, learned)
    assert all(bool((mask == 1).all()) for mask in after.tokens)


@pytest.mark.parametrize(
    ("gain", "dtype"), [(1e-3, torch.float64), (1.0, torch.bfloat16), (30.0, torch.float32)]
)
@pytest.mark.parametrize("family", VITS)
def test_nobody_sees_a_dropped_token_however_large_the_scores(family, gain, dtype):
    model = masked(family)
    spec = model.spec
    first, *others = range(spec.num_patches)
    hard = model.harden(
        Architecture(
            spec,
            tokens=(tuple(others),) * spec.depth,
            heads=Architecture.dense(spec).heads,
            units=Architecture.dense(spec).units,
        )
    ).to(dtype)
    x = images(spec, dtype)
    changed = x.clone()
    changed[:, :, : spec.patch_size[0], : spec.patch_size[1]] += 100.0  # the first patch
    with torch.no_grad():
        for block in hard.vit.blocks:
            block.attn.qkv.weight.mul_(gain)
        assert first == 0
        assert torch.equal(hard(changed), hard(x))


def test_a_dropped_token_is_masked_in_half_precision_too():
    model = masked("vit").half().harden(uneven(spec_of("vit")))
    log_mask = model.vit.blocks[0].log_token_mask()
    assert log_mask[1].exp() == 0  # position 0 is dropped, CLS stands before it
    assert log_mask[0].exp() == log_mask[2].exp() == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_soft_masks_train_under_bfloat16_autocast(family):
    model = masked(family).train()
    x = images(model.spec)
    with torch.no_grad():
        exact = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        close = model(x)
    torch.testing.assert_close(close.float(), exact, rtol=0.1, atol=0.1)
    close.float().square().sum().backward()
    norms = [float(mask.grad.norm()) for mask in model.mask_parameters().values()]
    assert all(math.isfinite(norm) for norm in norms)


def test_what_the_checkpoint_takes_is_a_copy():
    model = masked("vit")
    taken = MaskCheckpoint.from_model(model)
    before = taken.masks.mhsa[0].clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(taken.masks.mhsa[0], before)
    assert bool((taken.weights["head.weight"] != 0).any())


def test_a_model_of_any_image_size_is_fixed_to_the_one_it_was_made_for() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=5).eval()
    assert model.dynamic_img_size
    masked = attach_masks(model)
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(masked(images), model(images), atol=1e-5, rtol=0)
    assert not masked.vit.dynamic_img_size


def test_timms_own_optimizer_leaves_masks_without_weight_decay():
    model = masked("vit")
    decayed = {
        id(p)
        for group in create_optimizer_v2(model, weight_decay=0.05).param_groups
        for p in group["params"]
        if group["weight_decay"]
    }
    assert decayed
    assert not decayed & {id(mask) for mask in model.mask_parameters().values()}


@pytest.mark.parametrize("family", ["vit", "qk_layernorm"])
def test_attention_with_a_learned_token_mask_stays_in_the_fused_kernel(family: str) -> None:
    model = masked(family)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # raises where the kernel cannot be used
        model(images(spec_of(family))).sum().backward()
    assert all(block.token_mask.grad is not None for block in model.blocks)


def test_masks_add_next_to_nothing_to_what_is_saved_for_backward() -> None:
    build = plain(img_size=64, embed_dim=128, num_heads=2, mlp_ratio=4.0)
    model = build().train()
    batch = torch.randn(4, 3, 64, 64)
    plain_bytes = saved_bytes(model, batch)
    assert saved_bytes(attach_masks(model), batch) < 1.1 * plain_bytes


def saved_bytes(model: nn.Module, batch: Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass, parameters apart."""
    storages: dict[int, int] = {}
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(batch).sum()
    saved = sum(storages.values())
    loss.backward()
    return saved


def test_a_model_of_any_image_size_keeps_what_is_frozen_and_its_dropout():
    model = plain(dynamic_img_size=True, drop_rate=0.3, attn_drop_rate=0.2, drop_path_rate=0.1)()
    model.blocks[0].requires_grad_(False)
    masked = attach_masks(model)
    assert not masked.vit.blocks[0].attn.qkv.weight.requires_grad
    assert masked.vit.blocks[1].attn.qkv.weight.requires_grad
    assert masked.vit.blocks[0].attn.mask.requires_grad
    assert masked.vit.head_drop.p == 0.3
    assert masked.vit.blocks[1].attn.attn_drop.p == 0.2
    assert masked.vit.blocks[2].drop_path1.drop_prob == pytest.approx(0.1)


@pytest.mark.parametrize("head_dim", [4, 64])
def test_a_hard_masked_model_has_finite_gradients_in_float16(head_dim):
    model = attach_masks(plain(embed_dim=3 * head_dim)())
    model.harden(uneven(model.spec))
    with torch.autocast("cpu", torch.float16):
        loss = model(images(model.spec)).float().square().mean()
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("pool", ["", "avg", "token", "max", "avgmax"])
def test_another_pooling_is_the_masked_models_too(pool):
    model = attach_masks(
        timm.create_model("test_vit", global_pool="avg" if pool != "avg" else "token")
    )
    model.vit.reset_classifier(3, pool)
    x = torch.randn(2, *model.spec.input_size)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), model.vit(x))


def test_an_unknown_kind_of_token_mask_is_refused():
    with pytest.raises(SlimError, match="token_mask 'Tanh' is neither log nor tanh"):
        attach_masks(dense("vit"), "Tanh")


def test_an_architecture_of_another_model_is_refused_before_anything_changes():
    model = attach_masks(timm.create_model("test_vit"))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    others = [
        timm.create_model("test_vit", depth=12),
        timm.create_model("test_vit", num_heads=4),
        timm.create_model("test_vit", img_size=32),
    ]
    for other in others:
        with pytest.raises(SlimError, match="of another model than the masks are on"):
            model.harden(Architecture.dense(read_spec(other)))
    other_head = timm.create_model("test_vit", num_classes=3)
    attach_masks(other_head).harden(Architecture.dense(model.spec))
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
