"""The shape of a dense model as plain data: what is asked of every family's spec."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self, get_args, get_origin

import torch
from torch import nn

from slim.errors import FileFormatError, UnsupportedModelError


@dataclass(frozen=True)
class BlockSpec:
    """What one dense block holds.

    Args:
        embed_dim: Width of a token.
        num_heads: Attention heads.
        head_dim: Dimensions of a head.
        mlp_hidden: MLP units, those that enter `fc2`.
        grid_size: Patch tokens (rows, columns) that enter the block.
    """

    embed_dim: int
    num_heads: int
    head_dim: int
    mlp_hidden: int
    grid_size: tuple[int, int]

    @property
    def num_patches(self) -> int:
        """Patch tokens that enter the block, prefix tokens not counted."""
        return self.grid_size[0] * self.grid_size[1]


class ModelSpec(ABC):
    """What it takes to build one dense model of timm.

    A family is a subclass: a frozen dataclass of JSON values, named by `family`. How it is masked,
    slimmed and counted stands in `slim.families`.
    """

    families: ClassVar[dict[str, type["ModelSpec"]]] = {}
    family: ClassVar[str]
    drops_tokens: ClassVar[bool]  # whether blocks work without some of their patch tokens
    img_size: tuple[int, int]
    in_chans: int
    num_classes: int
    global_pool: str
    depth: int

    def __init_subclass__(cls, family: str) -> None:
        super().__init_subclass__()
        cls.family = family
        ModelSpec.families[family] = cls

    @classmethod
    @abstractmethod
    def describes(cls, model: Any) -> bool:
        """Whether a model is of this family."""

    @classmethod
    @abstractmethod
    def read(cls, model: Any) -> Self:
        """Read the spec off a dense model of this family.

        Raises:
            UnsupportedModelError: If the model has a feature that is not covered; names it.
        """

    @abstractmethod
    def build(self) -> nn.Module:
        """Build the dense model with fresh weights (on torch's current default device)."""

    @abstractmethod
    def check(self) -> None:
        """Refuse sizes that no model has, before they allocate memory or divide by zero.

        Raises:
            FileFormatError: Names the field.
        """

    @abstractmethod
    def block(self, index: int) -> BlockSpec:
        """One block."""

    @property
    @abstractmethod
    def block_names(self) -> tuple[str, ...]:
        """The blocks' places in the model, in order."""

    @property
    @abstractmethod
    def num_prefix_tokens(self) -> int:
        """CLS, distillation and register tokens; never dropped."""

    @property
    @abstractmethod
    def needs_patches(self) -> bool:
        """Whether pooling reads patch tokens alone, so that each block must keep at least one."""

    @property
    def blocks(self) -> tuple[BlockSpec, ...]:
        """All blocks, in order."""
        return tuple(self.block(index) for index in range(self.depth))

    @property
    def input_size(self) -> tuple[int, int, int]:
        """An image's shape (C, H, W)."""
        return (self.in_chans, *self.img_size)

    def with_head_of(self, model: Any) -> Self:
        """The same model with the classifier and the pooling that a network of it has now.

        Raises:
            UnsupportedModelError: If it pools in a way that is not covered.
        """
        head = {"num_classes": model.num_classes, "global_pool": model.global_pool}
        changed: Self = replace(self, **head)  # type: ignore[type-var]
        try:
            changed.check()
        except FileFormatError as error:
            raise UnsupportedModelError(f"the network's head cannot be kept: {error}") from error
        return changed

    def with_input(self, input_size: tuple[int, int, int]) -> Self:
        """The same model for images (C, H, W) of a size that its patches divide."""
        in_chans, height, width = input_size
        return replace(self, in_chans=in_chans, img_size=(height, width))  # type: ignore[type-var]

    def to_json(self) -> dict[str, Any]:
        """The family and the fields as JSON values."""
        return {"family": self.family, **asdict(self)}  # type: ignore[call-overload]

    @staticmethod
    def from_json(values: Any) -> "ModelSpec":
        """Check and read what `to_json` gave, whatever the family.

        Raises:
            FileFormatError: If the family is unknown, or a field is missing, unknown, of another
                type or out of range.
        """
        if not isinstance(values, dict):
            raise FileFormatError(f"model spec is {type(values).__name__}, expected an object")
        family = values.get("family")
        if not isinstance(family, str) or family not in ModelSpec.families:
            raise FileFormatError(
                f"model spec field family={str(family)[:99]!r} is not one of "
                f"{', '.join(ModelSpec.families)}"
            )
        kind: Any = ModelSpec.families[family]
        types = {field.name: field.type for field in fields(kind)}
        odd = sorted(values.keys() ^ (types.keys() | {"family"}))
        if odd:
            raise FileFormatError(f"model spec has missing or unknown fields: {odd}")
        spec: ModelSpec = kind(**{n: _checked(n, types[n], values[n]) for n in types})
        spec.check()
        return spec


def read_spec(model: Any) -> ModelSpec:
    """Read the spec off a dense timm model and check that it builds the same layout.

    Args:
        model: A model of one of the families.

    Raises:
        UnsupportedModelError: If the model has a feature that is not covered; names it.
    """
    for family in ModelSpec.families.values():
        if family.describes(model):
            spec = family.read(model)
            _check_same_layout(spec, model)
            return spec
    raise UnsupportedModelError(
        f"a model of class {type(model).__name__} cannot be slimmed; use timm's VisionTransformer "
        "or SwinTransformer"
    )


def refuse(feature: str) -> UnsupportedModelError:
    """The error that names a feature."""
    return UnsupportedModelError(
        f"this model has {feature}, which cannot be slimmed; use a model without it"
    )


def check_range(name: str, size: int, low: int, high: int) -> None:
    """Refuse a field that is out of range.

    Raises:
        FileFormatError: Names the field.
    """
    if not low <= size <= high:
        raise FileFormatError(f"model spec field {name}={size} is outside {low} to {high}")


def check_sides(name: str, sides: tuple[int, int], high: int) -> None:
    """Refuse a field of two sides of which one is out of range.

    Raises:
        FileFormatError: Names the field.
    """
    for side in sides:
        check_range(name, side, 1, high)


def _checked(name: str, kind: Any, value: Any) -> Any:
    """One field's value if its type is right."""
    fits, read = _read(kind, value)
    if fits:
        return read
    expected = "a float from 0 to 1" if kind is float else f"a {kind}"
    raise FileFormatError(f"model spec field {name}={str(value)[:99]!r} is not {expected}")


def _read(kind: Any, value: Any) -> tuple[bool, Any]:
    """Whether a JSON value is of a field's type, and what it is then."""
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        if not isinstance(value, list | tuple):
            return False, None
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
        if len(kinds) != len(value):
            return False, None
        parts = [_read(part, one) for part, one in zip(kinds, value, strict=True)]
        return all(fits for fits, _ in parts), tuple(read for _, read in parts)
    if kind is float:
        fits = type(value) in (int, float) and 0 <= value <= 1  # which NaN is not
        return fits, float(value) if fits else None
    return type(value) is kind, value


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
        raise refuse(f"a layout this package does not know (first at {odd[0]})")
    for mine, its in zip(rebuilt.modules(), model.modules(), strict=False):
        if hasattr(mine, "eps") and mine.eps != getattr(its, "eps", mine.eps):
            raise refuse("norm layers with different eps")
