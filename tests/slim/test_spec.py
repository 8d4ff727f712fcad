"""A spec is enough to build its model again, and says what it does not cover."""

import json
from dataclasses import fields, replace

import pytest
import timm
import torch
from timm.layers import PatchEmbed, RmsNorm
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Attention, ParallelScalingBlock, ResPostBlock
from torch import nn

from slim import FileFormatError, ModelSpec, UnsupportedModelError, attach_masks
from slim.spec import BlockSpec, read_spec
from tests.slim.families import FAMILIES, SIZES, dense, images, named, plain, spec_of, swin


@pytest.mark.parametrize("family", FAMILIES)
def test_a_spec_builds_a_model_of_the_same_spec(family):
    assert read_spec(spec_of(family).build()) == spec_of(family)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_built_model_computes_the_same_function(family):
    model = dense(family)
    again = spec_of(family).build().eval()
    again.load_state_dict(model.state_dict())
    x = images(spec_of(family))
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


@pytest.mark.parametrize("family", FAMILIES)
def test_it_survives_a_trip_through_json(family):
    spec = spec_of(family)
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    "name",
    [
        "deit_base_distilled_patch16_224",
        "deit3_large_patch16_384",
        "vit_giant_patch14_reg4_dinov2",
        "vit_so400m_patch14_siglip_384",
        "vit_base_patch16_clip_quickgelu_224",
        "vit_betwixt_patch16_reg4_gap_256",
        "vit_little_patch16_reg1_gap_256",
        "swin_tiny_patch4_window7_224",
        "swin_base_patch4_window12_384",
        "swin_s3_tiny_224",
    ],
)
def test_real_sizes_are_read_and_rebuilt(name):
    with torch.device("meta"):
        model = timm.create_model(name)
        spec = read_spec(model)
        shapes = {key: tensor.shape for key, tensor in spec.build().state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in model.state_dict().items()}


def test_it_tells_the_sizes_of_a_model():
    spec = spec_of("dinov2_giant")
    assert spec.input_size == (3, 8, 12)
    assert spec.grid_size == (2, 3)
    assert spec.num_patches == 6
    assert spec.num_prefix_tokens == 5  # CLS and four registers
    assert spec.block(2) == BlockSpec(
        embed_dim=12, num_heads=3, head_dim=4, mlp_hidden=12, grid_size=(2, 3)
    )
    assert spec.blocks == (spec.block(0),) * 3
    assert (spec.mlp_hidden, spec.mlp_width, spec.gated) == (12, 24, True)


def test_it_tells_the_sizes_of_each_stage_of_a_swin():
    spec = spec_of("swin_odd")
    first = BlockSpec(embed_dim=12, num_heads=3, head_dim=4, mlp_hidden=12, grid_size=(5, 7))
    last = BlockSpec(embed_dim=24, num_heads=3, head_dim=8, mlp_hidden=12, grid_size=(3, 4))
    assert spec.blocks == (first, first, last)
    assert spec.input_size == (3, 10, 14)
    assert spec.block_names == ("layers.0.blocks.0", "layers.0.blocks.1", "layers.1.blocks.0")
    assert [spec.windows(block).shift for block in range(3)] == [(0, 0), (1, 2), (0, 0)]


@pytest.mark.filterwarnings("ignore::UserWarning:timm")
def test_a_swin_of_another_image_size_is_read_as_it_stands():
    model = swin()()
    model.set_input_size((16, 12))
    assert read_spec(model).img_size == (16, 12)
    assert read_spec(read_spec(model).build()) == read_spec(model)


@pytest.mark.parametrize("act", ["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"])
def test_timms_names_of_activations_are_known(act):
    assert read_spec(plain(act_layer=act)()).act_layer == act


def gated() -> nn.Module:
    model = plain()()
    model.blocks[1].attn = Attention(12, num_heads=3, qkv_bias=True, gated=True)
    return model


def mixed_eps() -> nn.Module:
    model = plain()()
    model.blocks[1].norm2.eps = 0.1
    return model


def unshifted() -> nn.Module:
    model = swin()()
    model.layers[0].blocks[1].shift_size = (0, 0)
    return model


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name)


class OtherPatchEmbed(PatchEmbed):
    """A stem of its own."""


UNSUPPORTED = {
    "dynamic_img_pad": plain(dynamic_img_pad=True),
    "ResPostBlock": plain(block_fn=ResPostBlock),
    "ParallelScalingBlock": plain(block_fn=ParallelScalingBlock),
    "DiffAttention": plain(attn_layer="diff", num_heads=2),
    "scale_attn_norm": plain(scale_attn_norm=True),
    "scale_mlp_norm": plain(scale_mlp_norm=True),
    "patch_drop_rate": plain(patch_drop_rate=0.5),
    "SwinTransformerV2": lambda: on_meta("swinv2_tiny_window8_256"),
    "dynamic_img_size": swin(dynamic_img_size=True),
    "global_pool='catavgmax'": swin(global_pool="catavgmax"),
    "norm layer RmsNorm": swin(norm_layer=RmsNorm),
    "patch embedding OtherPatchEmbed": swin(embed_layer=OtherPatchEmbed),
    "windows of another size or shift in layers.0.blocks.1": unshifted,
    "ResNet": lambda: on_meta("resnet18"),
    "Eva": lambda: on_meta("eva02_tiny_patch14_224"),
    "HybridEmbed": lambda: on_meta("vit_tiny_r_s16_p8_224"),
    "OtherPatchEmbed": plain(embed_layer=OtherPatchEmbed),
    "norm in the patch embedding": plain(embed_norm_layer=RmsNorm),
    "gated attention": gated,
    "global_pool='prr'": plain(global_pool="prr"),
    "global_pool=''": plain(global_pool=""),
    "activation Tanh": plain(act_layer=nn.Tanh),
    "norm layer RMSNorm": plain(norm_layer=nn.RMSNorm),
    "different eps": mixed_eps,
    "drops the registers": lambda: VisionTransformerDistilled(**(SIZES | {"reg_tokens": 2})),
    "Linear": lambda: nn.Linear(2, 2),
}


@pytest.mark.parametrize("feature", UNSUPPORTED)
def test_what_is_not_covered_is_refused_by_name(feature):
    with pytest.raises(UnsupportedModelError) as refused:
        attach_masks(UNSUPPORTED[feature]())
    assert feature in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_module_that_the_spec_does_not_know_is_refused_by_its_place():
    model = named("vit_tiny_patch16_224")()
    model.blocks[0].extra = nn.Linear(2, 2)
    with pytest.raises(UnsupportedModelError, match=r"blocks\.0\.extra\.bias"):
        read_spec(model)


def test_a_spec_with_a_field_missing_or_unknown_is_refused_by_name():
    values = spec_of("vit").to_json()
    with pytest.raises(FileFormatError, match="depth"):
        ModelSpec.from_json({k: v for k, v in values.items() if k != "depth"})
    with pytest.raises(FileFormatError, match="colour"):
        ModelSpec.from_json(values | {"colour": "red", "line\nbreak": 1})


@pytest.mark.parametrize(
    ("family", "field"),
    [(family, field.name) for family in ("vit", "swin") for field in fields(spec_of(family))],
)
@pytest.mark.parametrize("value", [None, "3", [1, "2"], {}, 2.5, [1, 2.0, 3]])
def test_an_ill_typed_field_is_refused_by_name(family, field, value):
    values = spec_of(family).to_json()
    with pytest.raises(FileFormatError, match=field) as refused:
        ModelSpec.from_json(values | {field: value})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("img_size", [0, 8]),
        ("img_size", [8, 2]),  # smaller than a patch
        ("img_size", [1 << 20, 1 << 20]),  # more patches than memory
        ("patch_size", [-4, 4]),
        ("in_chans", 0),
        ("num_classes", -1),
        ("num_classes", True),
        ("embed_dim", 1 << 40),
        ("depth", 0),
        ("depth", 1 << 19),
        ("num_heads", 0),
        ("num_heads", 5),  # does not divide 12
        ("mlp_hidden", 0),
        ("reg_tokens", -1),
        ("norm_eps", -1.0),
        ("norm_eps", float("nan")),
        ("norm_eps", float("inf")),
        ("norm_eps", 10**400),
        ("qkv_bias", 1),
        ("global_pool", "prr"),
        ("norm_layer", "batchnorm"),
        ("act_layer", "eval"),
        ("mlp_layer", ""),
        ("class_token", False),  # which token pooling reads
    ],
)
def test_a_field_out_of_range_is_refused(field, value):
    values = json.loads(json.dumps(spec_of("vit").to_json() | {field: value}))
    with pytest.raises(FileFormatError) as refused:
        ModelSpec.from_json(values)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("img_size", [0, 8]),
        ("img_size", [8, 1]),  # smaller than a patch
        ("img_size", [1 << 20, 1 << 20]),
        ("patch_size", [-2, 2]),
        ("in_chans", 0),
        ("num_classes", -1),
        ("embed_dim", 0),
        ("depths", []),
        ("depths", [2, 0]),
        ("depths", [2, 1 << 19]),
        ("depths", [2]),  # of two stages
        ("depths", [1] * 40),  # whose width would double forty times
        ("num_heads", [3, -6]),
        ("head_dims", [4, 0]),
        ("mlp_hidden", [1 << 40, 1]),
        ("window_size", [[3, 3]]),
        ("window_size", [[3, 3], [0, 3]]),
        ("window_size", [[5, 3], [2, 3]]),  # larger than the grid
        ("norm_eps", -1.0),
        ("global_pool", "token"),
        ("family", "resnet"),
        ("family", "vit"),
        ("family", None),
    ],
)
def test_a_field_of_a_swin_out_of_range_is_refused(field, value):
    values = json.loads(json.dumps(spec_of("swin").to_json() | {field: value}))
    with pytest.raises(FileFormatError) as refused:
        ModelSpec.from_json(values)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("values", [None, 3, "spec", [], {}])
def test_what_is_no_object_of_fields_is_no_spec(values):
    with pytest.raises(FileFormatError, match="spec"):
        ModelSpec.from_json(values)


@pytest.mark.parametrize(
    "changes", [{"global_pool": "avg"}, {"reg_tokens": 1}, {"pos_embed": False}]
)
def test_a_distilled_model_that_timm_cannot_build_is_refused(changes):
    values = replace(spec_of("deit_distilled"), **changes).to_json()
    with pytest.raises(FileFormatError, match="distilled"):
        ModelSpec.from_json(values)


def test_activations_that_differ_between_blocks_are_refused():
    model = dense("vit")
    model.blocks[1].mlp.act = nn.ReLU()
    with pytest.raises(UnsupportedModelError, match="activations that differ"):
        read_spec(model)
    pooled = dense("siglip")
    pooled.attn_pool.mlp.act = nn.ReLU()
    with pytest.raises(UnsupportedModelError, match="activations that differ"):
        read_spec(pooled)
