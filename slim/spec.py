"""The shape of a timm Vision Transformer as plain data, enough to build it again."""

from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import torch
from timm.layers import GELU, GELUTanh, GluMlp, Mlp, PatchEmbed, QuickGELU, RmsNorm, SwiGLU
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import nn

from slim.errors import FileFormatError, UnsupportedModelError

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
POOLINGS = ("token", "avg", "max", "avgmax", "map")


@dataclass(frozen=True)
class BlockSpec:
    """What one dense block holds.

    Args:
        embed_dim: Width of a token.
        num_heads: Attention heads.
        head_dim: Dimensions of a head.
        mlp_hidden: MLP units, those that enter `fc2`.
        num_patches: Patch tokens that enter the block, prefix tokens not counted.
    """

    embed_dim: int
    num_heads: int
    head_dim: int
    mlp_hidden: int
    num_patches: int


@dataclass(frozen=True)
class ModelSpec:
    """What it takes to build one dense Vision Transformer of timm.

    Sizes are in pixels for `img_size` and `patch_size` (height, width) and in units for the rest;
    `mlp_hidden` counts the units that enter `fc2` (a gated MLP has twice as many outputs in
    `fc1`). `norm_layer`, `act_layer` and `mlp_layer` are the names in NORMS, ACTIVATIONS and MLPS.
    """

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
            num_patches=self.num_patches,
        )

    @property
    def blocks(self) -> tuple[BlockSpec, ...]:
        """All blocks, in order."""
        return tuple(self.block(index) for index in range(self.depth))

    @property
    def input_size(self) -> tuple[int, int, int]:
        """An image's shape (C, H, W)."""
        return (self.in_chans, *self.img_size)

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

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> "ModelSpec":
        """Check and read what `to_json` gave.

        Raises:
            FileFormatError: If a field is missing, unknown, of another type or out of range.
        """
        if not isinstance(values, dict):
            raise FileFormatError(f"model spec is {type(values).__name__}, expected an object")
        names = {field.name for field in fields(cls)}
        if values.keys() != names:
            odd = sorted(values.keys() ^ names)
            raise FileFormatError(f"model spec has missing or unknown fields: {odd}")
        read: dict[str, Any] = {}
        for field in fields(cls):
            read[field.name] = _checked(field.name, field.type, values[field.name])
        spec = cls(**read)
        _check_ranges(spec)
        return spec


def _checked(name: str, kind: Any, value: Any) -> Any:
    """One field's value if its type is right."""
    if kind == tuple[int, int]:
        fits = isinstance(value, list | tuple) and len(value) == 2
        if fits and all(type(v) is int for v in value):
            return tuple(value)
    elif kind is float:
        if type(value) in (int, float) and 0 <= value <= 1:  # which NaN is not
            return float(value)
    elif type(value) is kind:
        return value
    expected = "a float from 0 to 1" if kind is float else f"a {kind}"
    raise FileFormatError(f"model spec field {name}={str(value)[:99]!r} is not {expected}")


def _check_ranges(spec: ModelSpec) -> None:
    """Refuse sizes that no model has, before they allocate memory or divide by zero."""
    largest, deepest = 1 << 20, 1 << 10
    sizes = {
        "img_size": min(spec.img_size),
        "patch_size": min(spec.patch_size),
        "in_chans": spec.in_chans,
        "embed_dim": spec.embed_dim,
        "num_heads": spec.num_heads,
        "mlp_hidden": spec.mlp_hidden,
    }
    for name, size in sizes.items():
        if not 1 <= size <= largest:
            raise FileFormatError(f"model spec field {name}={size} is outside 1 to {largest}")
    if not 1 <= spec.depth <= deepest:
        raise FileFormatError(f"model spec field depth={spec.depth} is outside 1 to {deepest}")
    if not 0 <= spec.num_classes <= largest or not 0 <= spec.reg_tokens <= largest:
        raise FileFormatError("model spec has a negative or huge num_classes or reg_tokens")
    if spec.embed_dim % spec.num_heads or not 1 <= spec.num_patches <= largest:
        raise FileFormatError("model spec is inconsistent: embed_dim/num_heads or img/patch size")
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


def _refuse(feature: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"this model has {feature}, which cannot be slimmed; "
        "use a timm VisionTransformer without it"
    )


def _norm_name(norm: nn.Module) -> str:
    for name, kind in NORMS.items():
        if isinstance(norm, kind):
            return name
    raise _refuse(f"the norm layer {type(norm).__name__}")


def _act_name(act: nn.Module) -> str:
    if isinstance(act, nn.GELU) and act.approximate == "tanh":
        return "gelu_tanh"
    for name, kind in ACTIVATIONS.items():
        if type(act) is kind or (name == "gelu" and isinstance(act, nn.GELU | GELU)):
            return name
    raise _refuse(f"the activation {type(act).__name__}")


def _mlp_name(mlp: nn.Module) -> str:
    if not isinstance(mlp, Mlp | GluMlp | SwiGLU):
        raise _refuse(f"the MLP layer {type(mlp).__name__}")
    if not isinstance(mlp.norm, nn.Identity):
        raise _refuse("a norm inside the MLP (scale_mlp_norm)")
    if isinstance(mlp, GluMlp):
        return "glu_gate_last" if mlp.gate_last else "glu_gate_first"
    return "swiglu" if isinstance(mlp, SwiGLU) else "mlp"


def _check_supported(model: Any) -> None:
    """Name the first feature that stands in the way."""
    if type(model) not in (VisionTransformer, VisionTransformerDistilled):
        raise _refuse(f"the class {type(model).__name__} instead of timm's VisionTransformer")
    if model.patch_embed.dynamic_img_pad:
        raise _refuse("dynamic_img_pad=True (padded images)")
    if model.global_pool not in POOLINGS:
        raise _refuse(f"global_pool={model.global_pool!r}")
    if not isinstance(model.patch_drop, nn.Identity):
        raise _refuse("patch dropout (patch_drop_rate)")
    if isinstance(model, VisionTransformerDistilled) and model.num_reg_tokens:
        raise _refuse("a distillation token and registers, of which timm drops the registers")
    if type(model.patch_embed) is not PatchEmbed:
        raise _refuse(f"the patch embedding {type(model.patch_embed).__name__}")
    if not isinstance(model.patch_embed.norm, nn.Identity):
        raise _refuse("a norm in the patch embedding")
    for block in model.blocks:
        if type(block) is not Block:
            raise _refuse(f"blocks of class {type(block).__name__}")
        if type(block.attn) is not Attention:
            raise _refuse(f"attention of class {type(block.attn).__name__}")
        if not isinstance(block.attn.norm, nn.Identity):
            raise _refuse("a norm after attention (scale_attn_norm)")
        if block.attn.gate is not None:
            raise _refuse("gated attention")


def read_spec(model: Any) -> ModelSpec:
    """Read the spec off a dense timm model and check that it builds the same layout.

    Args:
        model: A `timm.models.vision_transformer.VisionTransformer` (or its distilled subclass).

    Raises:
        UnsupportedModelError: If the model has a feature that is not covered; names it.
    """
    _check_supported(model)
    block = model.blocks[0]
    norm = block.norm1
    fc2 = block.mlp.fc2
    height, width = model.patch_embed.img_size
    spec = ModelSpec(
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
    _check_same_layout(spec, model)
    return spec


def _check_same_layout(spec: ModelSpec, model: nn.Module) -> None:
    """A feature that the spec misses shows as a tensor too many, too few or of another shape."""
    with torch.device("meta"):
        rebuilt = spec.build()
    ours = {name: tuple(t.shape) for name, t in rebuilt.state_dict().items()}
    theirs = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    odd = sorted(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    )
    if odd:
        raise _refuse(f"a layout this package does not know (first at {odd[0]})")
    for mine, its in zip(rebuilt.modules(), model.modules(), strict=False):
        if isinstance(its, nn.LayerNorm | RmsNorm) and mine.eps != its.eps:
            raise _refuse("norm layers with different eps")
