"""What a budget selects from a checkpoint: the indices kept in each block."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from slim.errors import FileFormatError
from slim.spec import ModelSpec


@dataclass(frozen=True)
class Architecture:
    """A smaller network as indices into its dense model.

    Args:
        spec: The dense model.
        tokens: Per block, the patch positions (0 to num_patches - 1) that enter it, ascending;
            each block's positions are among those of the block before. All of them for a model
            that cannot drop tokens, whose blocks may have grids of their own.
        heads: Per block and dense head, the head dimensions kept, ascending; may be empty.
        units: Per block, the MLP hidden units kept, ascending; may be empty.
    """

    spec: ModelSpec
    tokens: tuple[tuple[int, ...], ...]
    heads: tuple[tuple[tuple[int, ...], ...], ...]
    units: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        spec = self.spec
        if not len(self.tokens) == len(self.heads) == len(self.units) == spec.depth:
            raise FileFormatError(f"architecture does not have {spec.depth} blocks")
        entering = set(range(spec.block(0).num_patches))
        for block, dense in enumerate(spec.blocks):
            _check_indices(f"tokens of block {block}", self.tokens[block], dense.num_patches)
            if not spec.drops_tokens and len(self.tokens[block]) < dense.num_patches:
                raise FileFormatError(f"block {block} drops tokens, but this model needs them all")
            if spec.drops_tokens and not entering.issuperset(self.tokens[block]):
                raise FileFormatError(f"block {block} keeps a token that was dropped before it")
            entering = set(self.tokens[block])
            if not entering and spec.needs_patches:
                raise FileFormatError(f"block {block} keeps no patch token for the pooling")
            if len(self.heads[block]) != dense.num_heads:
                raise FileFormatError(f"block {block} does not name {dense.num_heads} heads")
            for head, dims in enumerate(self.heads[block]):
                _check_indices(f"head {head} of block {block}", dims, dense.head_dim)
            _check_indices(f"units of block {block}", self.units[block], dense.mlp_hidden)

    @classmethod
    def dense(cls, spec: ModelSpec) -> "Architecture":
        """Everything kept."""
        blocks = spec.blocks
        return cls(
            spec=spec,
            tokens=tuple(tuple(range(block.num_patches)) for block in blocks),
            heads=tuple((tuple(range(block.head_dim)),) * block.num_heads for block in blocks),
            units=tuple(tuple(range(block.mlp_hidden)) for block in blocks),
        )

    @property
    def is_dense(self) -> bool:
        """Whether everything is kept."""
        return self == Architecture.dense(self.spec)

    def tokens_in(self, block: int) -> int:
        """Tokens that enter a block, prefix tokens counted."""
        return self.spec.num_prefix_tokens + len(self.tokens[block])

    def dims_in(self, block: int) -> int:
        """Attention dimensions kept in a block, over its heads."""
        return sum(len(dims) for dims in self.heads[block])

    def kept(self) -> dict[str, int]:
        """How many token slots, attention dimensions and MLP units are kept in all."""
        return {
            "tokens": sum(len(kept) for kept in self.tokens),
            "mhsa": sum(self.dims_in(block) for block in range(self.spec.depth)),
            "mlp": sum(len(kept) for kept in self.units),
        }

    def to_json(self) -> dict[str, Any]:
        """The indices and the spec as JSON values."""
        return {
            "spec": self.spec.to_json(),
            "tokens": [list(kept) for kept in self.tokens],
            "heads": [[list(dims) for dims in heads] for heads in self.heads],
            "units": [list(kept) for kept in self.units],
        }

    @classmethod
    def from_json(cls, values: Any) -> "Architecture":
        """Check and read what `to_json` gave.

        Raises:
            FileFormatError: If a part is missing, of the wrong type or out of range.
        """
        if not isinstance(values, dict) or values.keys() != {"spec", "tokens", "heads", "units"}:
            raise FileFormatError("architecture is not an object of spec, tokens, heads and units")
        heads = _read_list("heads", values["heads"])
        return cls(
            spec=ModelSpec.from_json(values["spec"]),
            tokens=_read_lists("tokens", values["tokens"]),
            heads=tuple(_read_lists("heads", block) for block in heads),
            units=_read_lists("units", values["units"]),
        )


def _read_list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise FileFormatError(f"architecture {name} holds {type(value).__name__}, expected a list")
    return value


def _read_lists(name: str, value: Any) -> tuple[tuple[Any, ...], ...]:
    return tuple(tuple(_read_list(name, part)) for part in _read_list(name, value))


def _check_indices(what: str, indices: tuple[int, ...], total: int) -> None:
    """Integers, ascending, each once, in range."""
    if any(type(index) is not int for index in indices):
        raise FileFormatError(f"{what} are not integers")
    ascending = all(a < b for a, b in pairwise(indices))
    if not ascending or (indices and not 0 <= indices[0] <= indices[-1] < total):
        raise FileFormatError(f"{what} are not ascending indices below {total}")
