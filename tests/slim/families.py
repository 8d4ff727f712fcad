"""One tiny model of every supported family, built with timm, with weights that leave no zero."""

import copy
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import timm
import torch
from timm.layers import RmsNorm, SwiGLU
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from slim import MaskCheckpoint, MaskedModel, ModelSpec, attach_masks
from slim.spec import read_spec

# 6 patches of a rectangular image, 3 heads of 4 dimensions, 12 units.
SIZES: dict[str, Any] = {
    "img_size": (8, 12),
    "patch_size": 4,
    "embed_dim": 12,
    "depth": 3,
    "num_heads": 3,
    "mlp_ratio": 1.0,
    "num_classes": 5,
}


def named(name: str, **changes: Any) -> Callable[[], nn.Module]:
    """A model of timm's registry, made tiny."""
    return partial(timm.create_model, name, **(SIZES | changes))


def plain(**changes: Any) -> Callable[[], nn.Module]:
    """timm's VisionTransformer, tiny, with its options changed."""
    return partial(VisionTransformer, **(SIZES | changes))


# Two stages of 24 and 6 tokens: windows that are padded, shifted, and one that covers all.
SWIN_SIZES: dict[str, Any] = {
    "img_size": (8, 12),
    "patch_size": 2,
    "embed_dim": 12,
    "depths": (2, 1),
    "num_heads": (3, 6),
    "window_size": 3,
    "mlp_ratio": 1.0,
    "num_classes": 5,
    "drop_path_rate": 0.0,
}


def swin(**changes: Any) -> Callable[[], nn.Module]:
    """timm's SwinTransformer, tiny, with its options changed."""
    return partial(SwinTransformer, **(SWIN_SIZES | changes))


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "vit": named("vit_tiny_patch16_224"),
    "deit_distilled": named("deit_tiny_distilled_patch16_224"),
    "deit3": named("deit3_small_patch16_224"),
    "dinov2": named("vit_small_patch14_dinov2"),
    "dinov2_registers": named("vit_small_patch14_reg4_dinov2"),
    "dinov2_giant": named("vit_giant_patch14_reg4_dinov2", mlp_ratio=2.0),
    "clip": named("vit_base_patch32_clip_quickgelu_224"),
    "siglip": named("vit_base_patch16_siglip_224"),
    "siglip_prefix": plain(global_pool="map", pool_include_prefix=True, reg_tokens=1),
    "qk_layernorm": plain(qk_norm=True),
    "qk_rmsnorm": plain(qk_norm=True, norm_layer=RmsNorm),
    "avg": plain(global_pool="avg"),
    "avg_prefix": plain(global_pool="avg", pool_include_prefix=True),
    "avg_no_class_token": plain(global_pool="avg", class_token=False),
    "max": plain(global_pool="max"),
    "avgmax": plain(global_pool="avgmax", reg_tokens=2),
    "no_qkv_bias": plain(qkv_bias=False),
    "no_proj_bias": plain(proj_bias=False, init_values=0.1),
    "swiglu": plain(mlp_layer=SwiGLU, act_layer=nn.SiLU),
    "gelu_tanh": plain(act_layer="gelu_tanh", mlp_ratio=1.3),
    "no_pos_embed": plain(pos_embed="none"),
    "no_final_norm": plain(final_norm=False),
    "no_classifier": plain(num_classes=0),
    "square_grey": plain(img_size=8, in_chans=1),
    "swin": swin(),
    "swin_odd": swin(  # 5 x 7 tokens merge to 3 x 4
        img_size=(10, 14),
        window_size=(2, 4),
        num_heads=(3, 3),
        mlp_ratio=(1.0, 0.5),
        qkv_bias=False,
        global_pool="avgmax",
    ),
    "swin_always_partition": swin(
        depths=(1, 2),
        head_dim=4,
        window_size=((3, 3), (4, 2)),
        always_partition=True,
        in_chans=1,
        global_pool="max",
    ),
}


@cache
def _pristine(family: str) -> nn.Module:
    return BUILDERS[family]().eval()


@cache
def spec_of(family: str) -> Any:
    return read_spec(_pristine(family))


FAMILIES = tuple(BUILDERS)
# Families that can drop tokens, and those that need them all.
VITS = tuple(family for family in FAMILIES if spec_of(family).drops_tokens)
SWINS = tuple(family for family in FAMILIES if family not in VITS)


def classifiers(model: Any) -> list[nn.Module]:
    """The last layers of a model: one, or two of a distilled one."""
    heads = model.get_classifier()
    return list(heads) if isinstance(heads, tuple) else [heads]


def dense(family: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A family's model in eval mode; every parameter is random, norms and LayerScale too."""
    model = copy.deepcopy(_pristine(family))
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_values(name, parameter, random))
    return model.to(dtype)


def masked(family: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> MaskedModel:
    """A masked model as a search may leave it: random weights, masks between 0.2 and 1."""
    model = attach_masks(dense(family, seed, dtype))
    random = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for mask in model.mask_parameters().values():
            mask.copy_(0.2 + 0.8 * torch.rand(mask.shape, generator=random))
    return model


def checkpoint(family: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> MaskCheckpoint:
    return MaskCheckpoint.from_model(masked(family, seed, dtype))


def images(spec: ModelSpec, dtype: torch.dtype = torch.float32, batch: int = 2) -> Tensor:
    random = torch.Generator().manual_seed(7)
    return torch.randn(batch, *spec.input_size, generator=random).to(dtype)


def _values(name: str, like: Tensor, random: torch.Generator) -> Tensor:
    """Weights of unit gain; norm weights and LayerScale around 1, everything else around 0."""
    noise = torch.randn(like.shape, generator=random)
    if name.endswith("gamma") or ("norm" in name and name.endswith("weight")):
        return 1 + 0.3 * noise
    if name.endswith("weight"):
        return noise / like[0].numel() ** 0.5
    return 0.5 * noise
