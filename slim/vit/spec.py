"""The spec of the family of timm's VisionTransformer: ViT, DeiT, DINOv2, CLIP, SigLIP."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from timm.layers import (
    GELU,
    AttentionPoolLatent,
    GELUTanh,
    GluMlp,
    Mlp,
    PatchEmbed,
    QuickGELU,
    RmsNorm,
    SwiGLU,
)
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import nn

from slim.errors import FileFormatError
from slim.spec import BlockSpec, ModelSpec, check_range, check_sides, refuse

NORMS: dict[str, type[nn.Module]] = {"layernorm": nn.LayerNorm, "rmsnorm": RmsNorm}
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": GELUTanh,
    "quick_gelu": QuickGELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}
MLPS: dict[str, Any] = {
    "mlp": Mlp,
    "glu_gate_first": partial(GluMlp, gate_last=False),
    "glu_gate_last": partial(GluMlp, gate_last=True),
    "swiglu": SwiGLU,
}
LARGEST, DEEPEST = 1 << 20, 1 << 10
POOLINGS = ("token", "avg", "max", "avgmax", "map")


@dataclass(frozen=True)
class VitSpec(ModelSpec, family="vit"):
    """What it takes to build one dense Vision Transformer of timm.

    Sizes are in pixels for `img_size` and `patch_size` (height, width) and in units for the rest;
    `mlp_hidden` counts the units that enter `fc2` (a gated MLP has twice as many outputs in
    `fc1`). `norm_layer`, `act_layer` and `mlp_layer` are the names in NORMS, ACTIVATIONS and MLPS.
    """

    drops_tokens: ClassVar[bool] = True

    img_size: tuple[int, int]
    patch_size: tuple[int, int]
    in_chans: int
    num_classes: int
    global_pool: str
    embed_dim: int
    depth: int
    num_heads: int
    mlp_hidden: int
    qkv_bias: bool
    proj_bias: bool
    qk_norm: bool
    layer_scale: bool
    class_token: bool
    distilled: bool
    reg_tokens: int
    pos_embed: bool
    no_embed_class: bool
    pre_norm: bool
    final_norm: bool
    fc_norm: bool
    pool_include_prefix: bool
    norm_layer: str
    norm_eps: float
    act_layer: str
    mlp_layer: str

    @property
    def grid_size(self) -> tuple[int, int]:
        """Patches (rows, columns) of an image."""
        return self.img_size[0] // self.patch_size[0], self.img_size[1] // self.patch_size[1]

    @property
    def num_patches(self) -> int:
        """Patch tokens of an image, prefix tokens not counted."""
        return self.grid_size[0] * self.grid_size[1]

    @property
    def num_prefix_tokens(self) -> int:
        """CLS, distillation and register tokens; never dropped."""
        return int(self.class_token) + int(self.distilled) + self.reg_tokens

    @property
    def needs_patches(self) -> bool:
        """Whether pooling reads patch tokens alone, so that each block must keep at least one."""
        reads_prefix = self.global_pool == "token" or self.pool_include_prefix
        return not (self.num_prefix_tokens and reads_prefix)

    def block(self, index: int) -> BlockSpec:
        """One block; here they are all alike."""
        del index
        return BlockSpec(
            embed_dim=self.embed_dim,
            num_heads=self.num_heads,
            head_dim=self.embed_dim // self.num_heads,
            mlp_hidden=self.mlp_hidden,
            grid_size=self.grid_size,
        )

    @property
    def block_names(self) -> tuple[str, ...]:
        """Blocks lie in one sequence."""
        return tuple(f"blocks.{index}" for index in range(self.depth))

    @property
    def gated(self) -> bool:
        """Whether the MLP multiplies a gate, so that each unit has two rows in its first layer."""
        return self.mlp_layer != "mlp"

    @property
    def mlp_width(self) -> int:
        """The width timm derives from `mlp_ratio`: a packed gated MLP splits it in two."""
        return self.mlp_hidden * (2 if self.mlp_layer.startswith("glu") else 1)

    def build(self) -> VisionTransformer:
        """Build the dense model with fresh weights (on torch's current default device)."""
        kwargs: dict[str, Any] = {
            "img_size": self.img_size,
            "patch_size": self.patch_size,
            "in_chans": self.in_chans,
            "num_classes": self.num_classes,
            "global_pool": self.global_pool,
            "embed_dim": self.embed_dim,
            "depth": self.depth,
            "num_heads": self.num_heads,
            "mlp_ratio": (self.mlp_width + 0.5) / self.embed_dim,  # timm rounds the product down
            "qkv_bias": self.qkv_bias,
            "proj_bias": self.proj_bias,
            "qk_norm": self.qk_norm,
            "init_values": 1e-5 if self.layer_scale else None,
            "class_token": self.class_token,
            "reg_tokens": self.reg_tokens,
            "pos_embed": "learn" if self.pos_embed else "none",
            "no_embed_class": self.no_embed_class,
            "pre_norm": self.pre_norm,
            "final_norm": self.final_norm,
            "fc_norm": self.fc_norm,
            "pool_include_prefix": self.pool_include_prefix,
            "norm_layer": partial(NORMS[self.norm_layer], eps=self.norm_eps),
            "act_layer": ACTIVATIONS[self.act_layer],
            "mlp_layer": MLPS[self.mlp_layer],
        }
        if torch.get_default_device().type == "meta":
            kwargs["weight_init"] = "skip"  # slow, and there are no weights to initialise
        return (VisionTransformerDistilled if self.distilled else VisionTransformer)(**kwargs)

    @classmethod
    def describes(cls, model: Any) -> bool:
        """Whether a model is timm's VisionTransformer, or its distilled subclass."""
        return type(model) in (VisionTransformer, VisionTransformerDistilled)

    @classmethod
    def read(cls, model: Any) -> "VitSpec":
        """Read the spec off a VisionTransformer."""
        _check_supported(model)
        return _read(model)

    def check(self) -> None:
        """Refuse sizes that no model has."""
        sizes = {
            "in_chans": self.in_chans,
            "embed_dim": self.embed_dim,
            "num_heads": self.num_heads,
            "mlp_hidden": self.mlp_hidden,
        }
        for name, size in sizes.items():
            check_range(name, size, 1, LARGEST)
        for name in ("img_size", "patch_size"):
            check_sides(name, getattr(self, name), LARGEST)
        check_range("depth", self.depth, 1, DEEPEST)
        check_range("num_classes", self.num_classes, 0, LARGEST)
        check_range("reg_tokens", self.reg_tokens, 0, LARGEST)
        if self.embed_dim % self.num_heads or not 1 <= self.num_patches <= LARGEST:
            raise FileFormatError(
                "model spec is inconsistent: embed_dim/num_heads or img/patch size"
            )
        _check_choices(self)


def _check_choices(spec: VitSpec) -> None:
    """Refuse names and combinations that timm does not build."""
    choices = (
        ("global_pool", spec.global_pool, POOLINGS),
        ("norm_layer", spec.norm_layer, NORMS),
        ("act_layer", spec.act_layer, ACTIVATIONS),
        ("mlp_layer", spec.mlp_layer, MLPS),
    )
    for name, value, allowed in choices:
        if value not in allowed:
            raise FileFormatError(
                f"model spec field {name}={value!r} is not one of {', '.join(allowed)}"
            )
    if spec.global_pool == "token" and not spec.class_token:
        raise FileFormatError("model spec is inconsistent: token pooling without a class token")
    if spec.distilled and (
        spec.global_pool != "token" or spec.reg_tokens or spec.no_embed_class or not spec.pos_embed
    ):
        raise FileFormatError("model spec is inconsistent: a distilled model of another layout")


def _norm_name(norm: nn.Module) -> str:
    for name, kind in NORMS.items():
        if isinstance(norm, kind):
            return name
    raise refuse(f"the norm layer {type(norm).__name__}")


def _act_name(act: nn.Module) -> str:
    if isinstance(act, nn.GELU) and act.approximate == "tanh":
        return "gelu_tanh"
    for name, kind in ACTIVATIONS.items():
        if type(act) is kind or (name == "gelu" and isinstance(act, nn.GELU | GELU)):
            return name
    raise refuse(f"the activation {type(act).__name__}")


def _mlp_name(mlp: nn.Module) -> str:
    if not isinstance(mlp, Mlp | GluMlp | SwiGLU):
        raise refuse(f"the MLP layer {type(mlp).__name__}")
    if not isinstance(mlp.norm, nn.Identity):
        raise refuse("a norm inside the MLP (scale_mlp_norm)")
    if isinstance(mlp, GluMlp):
        return "glu_gate_last" if mlp.gate_last else "glu_gate_first"
    return "swiglu" if isinstance(mlp, SwiGLU) else "mlp"


def _check_supported(model: Any) -> None:
    """Name the first feature that stands in the way."""
    if model.patch_embed.dynamic_img_pad:
        raise refuse("dynamic_img_pad=True (padded images)")
    if model.global_pool not in POOLINGS:
        raise refuse(f"global_pool={model.global_pool!r}")
    if not isinstance(model.patch_drop, nn.Identity):
        raise refuse("patch dropout (patch_drop_rate)")
    if isinstance(model, VisionTransformerDistilled) and model.num_reg_tokens:
        raise refuse("a distillation token and registers, of which timm drops the registers")
    if type(model.patch_embed) is not PatchEmbed:
        raise refuse(f"the patch embedding {type(model.patch_embed).__name__}")
    if not isinstance(model.patch_embed.norm, nn.Identity):
        raise refuse("a norm in the patch embedding")
    for block in model.blocks:
        if type(block) is not Block:
            raise refuse(f"blocks of class {type(block).__name__}")
        if type(block.attn) is not Attention:
            raise refuse(f"attention of class {type(block.attn).__name__}")
        if not isinstance(block.attn.norm, nn.Identity):
            raise refuse("a norm after attention (scale_attn_norm)")
        if block.attn.gate is not None:
            raise refuse("gated attention")
    mlps = [block.mlp for block in model.blocks]
    if isinstance(model.attn_pool, AttentionPoolLatent):
        mlps.append(model.attn_pool.mlp)
    if len({_act_name(mlp.act) for mlp in mlps}) > 1:
        raise refuse("activations that differ from block to block")


def _read(model: Any) -> VitSpec:
    block = model.blocks[0]
    norm = block.norm1
    fc2 = block.mlp.fc2
    height, width = model.patch_embed.img_size
    return VitSpec(
        img_size=(int(height), int(width)),
        patch_size=(int(model.patch_embed.patch_size[0]), int(model.patch_embed.patch_size[1])),
        in_chans=model.patch_embed.proj.in_channels,
        num_classes=model.num_classes,
        global_pool=model.global_pool,
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=block.attn.num_heads,
        mlp_hidden=fc2.in_features,
        qkv_bias=block.attn.qkv.bias is not None,
        proj_bias=block.attn.proj.bias is not None,
        qk_norm=not isinstance(block.attn.q_norm, nn.Identity),
        layer_scale=not isinstance(block.ls1, nn.Identity),
        class_token=model.cls_token is not None,
        distilled=isinstance(model, VisionTransformerDistilled),
        reg_tokens=model.num_reg_tokens,
        pos_embed=model.pos_embed is not None,
        no_embed_class=bool(model.no_embed_class),
        pre_norm=not isinstance(model.norm_pre, nn.Identity),
        final_norm=not (
            isinstance(model.norm, nn.Identity) and isinstance(model.fc_norm, nn.Identity)
        ),
        fc_norm=not isinstance(model.fc_norm, nn.Identity),
        pool_include_prefix=bool(model.pool_include_prefix),
        norm_layer=_norm_name(norm),
        norm_eps=float(norm.eps),
        act_layer=_act_name(block.mlp.act),
        mlp_layer=_mlp_name(block.mlp),
    )
