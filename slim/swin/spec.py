"""The spec of the family of timm's SwinTransformer (Swin, version 1)."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from timm.layers import GELU, Mlp, PatchEmbed
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, WindowAttention
from torch import nn

from slim.errors import FileFormatError
from slim.spec import BlockSpec, ModelSpec, check_range, check_sides, refuse
from slim.swin.windows import Windows

LARGEST, DEEPEST = 1 << 20, 1 << 10
POOLINGS = ("avg", "max", "avgmax")


# Tokens of a window; its relative positions take the square of it in memory.
LARGEST_WINDOW = 1 << 12


@dataclass(frozen=True)
class SwinSpec(ModelSpec, family="swin"):
    """What it takes to build one dense Swin Transformer of timm.

    Sizes are in pixels for `img_size` and `patch_size` (height, width). `embed_dim` is the first
    stage's width, which doubles with each stage; the fields from `depths` to `window_size` have
    one value per stage, a window's (rows, columns) being at most the stage's grid unless windows
    are always cut (`always_partition`).
    """

    drops_tokens: ClassVar[bool] = False

    img_size: tuple[int, int]
    patch_size: tuple[int, int]
    in_chans: int
    num_classes: int
    global_pool: str
    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    head_dims: tuple[int, ...]
    mlp_hidden: tuple[int, ...]
    window_size: tuple[tuple[int, int], ...]
    always_partition: bool
    qkv_bias: bool
    norm_eps: float

    @property
    def depth(self) -> int:  # type: ignore[override]
        """Blocks of all stages."""
        return sum(self.depths)

    @property
    def num_prefix_tokens(self) -> int:
        """There are none."""
        return 0

    @property
    def needs_patches(self) -> bool:
        """Pooling reads patch tokens, there are no others."""
        return True

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Stage and place in the stage of each block."""
        return tuple((stage, i) for stage, depth in enumerate(self.depths) for i in range(depth))

    @property
    def block_names(self) -> tuple[str, ...]:
        """Blocks lie in their stages."""
        return tuple(f"layers.{stage}.blocks.{place}" for stage, place in self.places)

    def width(self, stage: int) -> int:
        """Width of a token in a stage."""
        return self.embed_dim * 2**stage

    def grid(self, stage: int) -> tuple[int, int]:
        """Tokens (rows, columns) of a stage."""
        rows = self.img_size[0] // self.patch_size[0]
        columns = self.img_size[1] // self.patch_size[1]
        for _ in range(stage):
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
        return rows, columns

    def block(self, index: int) -> BlockSpec:
        """One block; those of a stage are alike."""
        stage, _ = self.places[index]
        return BlockSpec(
            embed_dim=self.width(stage),
            num_heads=self.num_heads[stage],
            head_dim=self.head_dims[stage],
            mlp_hidden=self.mlp_hidden[stage],
            grid_size=self.grid(stage),
        )

    def windows(self, index: int) -> Windows:
        """How one block cuts its tokens; every other block of a stage shifts by half a window."""
        stage, place = self.places[index]
        grid, size = self.grid(stage), self.window_size[stage]
        shift = (
            self._shift(grid[0], size[0]) * (place % 2),
            self._shift(grid[1], size[1]) * (place % 2),
        )
        return Windows(grid, size, shift)

    def _shift(self, tokens: int, size: int) -> int:
        """There is nothing to shift where one window covers all."""
        return size // 2 if self.always_partition or size < tokens else 0

    def build(self) -> SwinTransformer:
        """Build the dense model with fresh weights (on torch's current default device)."""
        widths = [self.width(stage) for stage in range(len(self.depths))]
        return SwinTransformer(
            img_size=self.img_size,
            patch_size=self.patch_size,
            in_chans=self.in_chans,
            num_classes=self.num_classes,
            global_pool=self.global_pool,
            embed_dim=self.embed_dim,
            depths=self.depths,
            num_heads=self.num_heads,
            head_dim=self.head_dims,
            window_size=self.window_size,
            always_partition=self.always_partition,
            # timm rounds the product down
            mlp_ratio=tuple(
                (hidden + 0.5) / width
                for hidden, width in zip(self.mlp_hidden, widths, strict=True)
            ),
            qkv_bias=self.qkv_bias,
            drop_path_rate=0.0,
            norm_layer=partial(nn.LayerNorm, eps=self.norm_eps),
        )

    @classmethod
    def describes(cls, model: Any) -> bool:
        """Whether a model is timm's SwinTransformer."""
        return type(model) is SwinTransformer

    @classmethod
    def read(cls, model: Any) -> "SwinSpec":
        """Read the spec off a SwinTransformer."""
        _check_supported(model)
        firsts = [stage.blocks[0] for stage in model.layers]
        heads = [(block.attn.num_heads, block.attn.qkv.out_features // 3) for block in firsts]
        height, width = model.patch_embed.img_size
        spec = cls(
            img_size=(int(height), int(width)),
            patch_size=(
                int(model.patch_embed.patch_size[0]),
                int(model.patch_embed.patch_size[1]),
            ),
            in_chans=model.patch_embed.proj.in_channels,
            num_classes=model.num_classes,
            global_pool=model.global_pool,
            embed_dim=model.embed_dim,
            depths=tuple(len(stage.blocks) for stage in model.layers),
            num_heads=tuple(count for count, _ in heads),
            head_dims=tuple(dims // count for count, dims in heads),
            mlp_hidden=tuple(block.mlp.fc2.in_features for block in firsts),
            window_size=tuple((block.window_size[0], block.window_size[1]) for block in firsts),
            always_partition=bool(firsts[0].always_partition),
            qkv_bias=firsts[0].attn.qkv.bias is not None,
            norm_eps=float(model.norm.eps),
        )
        for index, name in enumerate(spec.block_names):
            block, windows = model.get_submodule(name), spec.windows(index)
            if (windows.size, windows.shift) != (block.window_size, tuple(block.shift_size)):
                raise refuse(f"windows of another size or shift in {name}")
        return spec

    def with_input(self, input_size: tuple[int, int, int]) -> "SwinSpec":
        """See `ModelSpec.with_input`; windows grow with the grid, as timm has it.

        A window that timm cut down to a small grid is taken as given; timm itself may make it
        larger.
        """
        spec = super().with_input(input_size)
        if spec.img_size == self.img_size:
            return spec
        windows = []
        for stage, size in enumerate(self.window_size):
            scales = zip(size, spec.grid(0), self.grid(0), strict=True)
            rows, columns = (max(1, side * now // before) for side, now, before in scales)
            if not self.always_partition:
                rows, columns = min(rows, spec.grid(stage)[0]), min(columns, spec.grid(stage)[1])
            windows.append((rows, columns))
        return replace(spec, window_size=tuple(windows))

    def check(self) -> None:
        """Refuse sizes that no model has."""
        for name in ("img_size", "patch_size"):
            check_sides(name, getattr(self, name), LARGEST)
        sizes = {"in_chans": self.in_chans, "embed_dim": self.embed_dim}
        for name, size in sizes.items():
            check_range(name, size, 1, LARGEST)
        check_range("num_classes", self.num_classes, 0, LARGEST)
        check_range("depths", len(self.depths), 1, 10)  # stages, each of which doubles the width
        per_stage = (self.depths, self.num_heads, self.head_dims, self.mlp_hidden)
        if any(len(values) != len(self.depths) for values in (*per_stage, self.window_size)):
            raise FileFormatError("model spec is inconsistent: its stages are not counted alike")
        names = ("depths", "num_heads", "head_dims", "mlp_hidden")
        for name, values in zip(names, per_stage, strict=True):
            check_range(name, min(values), 1, LARGEST)
            check_range(name, max(values), 1, DEEPEST if name == "depths" else LARGEST)
        self._check_windows()
        if self.global_pool not in POOLINGS:
            raise FileFormatError(
                f"model spec field global_pool={self.global_pool!r} is not one of "
                f"{', '.join(POOLINGS)}"
            )

    def _check_windows(self) -> None:
        """Refuse a grid without tokens, and windows that are larger than it or huge."""
        rows, columns = self.grid(0)
        if not 1 <= rows * columns <= LARGEST:
            raise FileFormatError("model spec is inconsistent: img/patch size")
        for stage, size in enumerate(self.window_size):
            grid = self.grid(stage)
            widest = (1 << 8, 1 << 8) if self.always_partition else grid
            fits = 1 <= size[0] <= widest[0] and 1 <= size[1] <= widest[1]
            if not fits or size[0] * size[1] > LARGEST_WINDOW:
                raise FileFormatError(
                    f"model spec field window_size={size} of stage {stage} does not fit its grid"
                )


def _check_supported(model: Any) -> None:
    """Name the first feature that stands in the way."""
    if model.dynamic_img_size:
        raise refuse("dynamic_img_size=True (images of any size)")
    if model.global_pool not in POOLINGS:
        raise refuse(f"global_pool={model.global_pool!r}")
    if type(model.patch_embed) is not PatchEmbed:
        raise refuse(f"the patch embedding {type(model.patch_embed).__name__}")
    if type(model.norm) is not nn.LayerNorm:
        raise refuse(f"the norm layer {type(model.norm).__name__}")
    for stage in model.layers:
        if not len(stage.blocks):
            raise refuse("a stage without blocks")
        for block in stage.blocks:
            _check_block(block)


def _check_block(block: Any) -> None:
    if type(block) is not SwinTransformerBlock:
        raise refuse(f"blocks of class {type(block).__name__}")
    if type(block.attn) is not WindowAttention:
        raise refuse(f"attention of class {type(block.attn).__name__}")
    if type(block.mlp) is not Mlp:
        raise refuse(f"the MLP layer {type(block.mlp).__name__}")
    if not isinstance(block.mlp.act, nn.GELU | GELU) or (
        getattr(block.mlp.act, "approximate", "none") != "none"
    ):
        raise refuse(f"the activation {type(block.mlp.act).__name__}")
