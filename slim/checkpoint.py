"""The mask checkpoint: what one search leaves, and every budget reads."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slim.architecture import Architecture
from slim.budget import Budget
from slim.errors import FileFormatError
from slim.families import family_of
from slim.files import check_tensors, naming, read_tensors, write_tensors
from slim.masked_model import MaskedModel
from slim.ranking import Scores, select
from slim.spec import ModelSpec

KIND = "vit-slim mask checkpoint"
MASKS = ("tokens", "mhsa", "mlp")


@dataclass(frozen=True)
class MaskCheckpoint:
    """Weights and masks of a searched model.

    Args:
        spec: The dense model's spec.
        weights: Its weights under timm's names.
        masks: The learned masks, which extraction folds into the weights and which rank.
        data: Fingerprint of the data searched on (JSON values).
        metrics: What was measured at the end of the search (JSON values).
    """

    spec: ModelSpec
    weights: dict[str, Tensor]
    masks: Scores
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_model(
        cls,
        masked: MaskedModel,
        data: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
    ) -> "MaskCheckpoint":
        """Take a masked model as it stands; tensors are copied to the CPU."""
        weights = {k: t.detach().cpu().clone() for k, t in masked.dense_state().items()}
        return cls(
            spec=masked.spec,
            weights=weights,
            masks=masked.masks().map(Tensor.cpu),
            data=data or {},
            metrics=metrics or {},
        )

    def select(self, budget: Budget) -> Architecture:
        """Read a budget's architecture off the masks: the largest are kept.

        Raises:
            BudgetError: If no architecture of this model can meet the budget.
        """
        return select(self.spec, self.masks, budget)

    def masked_model(self) -> MaskedModel:
        """The searched model with its soft masks, rebuilt, in eval mode; tensors are copied."""
        dense = self.spec.build()
        dense.load_state_dict(self.weights)
        masked = family_of(self.spec).masked(dense, self.spec)
        masked.set_masks(self.masks)
        return masked.eval()

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Weights and masks as numpy arrays by name, not copied: what is broadcast."""
        return {name: tensor.numpy() for name, tensor in self._tensors().items()}

    @classmethod
    def from_arrays(
        cls, arrays: dict[str, np.ndarray], header: dict[str, Any]
    ) -> "MaskCheckpoint":
        """View arrays (read-only ones too) as a checkpoint, without a copy.

        Args:
            arrays: What `to_arrays` gave.
            header: What `header` gave.
        """
        return cls._assemble({name: tensor_view(array) for name, array in arrays.items()}, header)

    def header(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON values."""
        return {"spec": self.spec.to_json(), "data": self.data, "metrics": self.metrics}

    def save(self, folder: str | Path) -> Path:
        """Write `checkpoint.safetensors` and `checkpoint.json`; returns the folder."""
        return write_tensors(folder, "checkpoint", KIND, self._tensors(), self.header())

    @classmethod
    def load(cls, folder: str | Path) -> "MaskCheckpoint":
        """Read and check a checkpoint.

        Raises:
            FileFormatError: If a file is missing, damaged, foreign or of another version.
        """
        tensors, header = read_tensors(folder, "checkpoint", KIND)
        folder = Path(folder)
        with naming(folder / "checkpoint.json"):
            spec = _read_header(header)
        check_tensors(folder / "checkpoint.safetensors", tensors, _expected_shapes(spec))
        return cls._assemble(tensors, header)

    def _tensors(self) -> dict[str, Tensor]:
        weights = {f"weight.{name}": tensor for name, tensor in self.weights.items()}
        return weights | _by_name(self.masks)

    @classmethod
    def _assemble(cls, tensors: dict[str, Tensor], header: dict[str, Any]) -> "MaskCheckpoint":
        prefix, spec = "weight.", ModelSpec.from_json(header["spec"])
        return cls(
            spec=spec,
            weights={
                k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)
            },
            masks=_from_names(spec, tensors),
            data=header["data"],
            metrics=header["metrics"],
        )


def _read_header(header: dict[str, Any]) -> ModelSpec:
    for name in ("spec", "data", "metrics"):
        if not isinstance(header.get(name), dict):
            raise FileFormatError(f"{name} is missing or not an object")
    return ModelSpec.from_json(header["spec"])


def _expected_shapes(spec: ModelSpec) -> dict[str, torch.Size]:
    with torch.device("meta"):
        dense = spec.build()
        masks = _by_name(Scores.fill(spec, torch.empty))
    weights = {f"weight.{name}": t.shape for name, t in dense.state_dict().items()}
    return weights | {name: mask.shape for name, mask in masks.items()}


def _by_name(masks: Scores) -> dict[str, Tensor]:
    """Masks under the names they have in a file: `mask.mhsa.3` is that of block 3."""
    return {
        f"mask.{dimension}.{block}": mask
        for dimension in MASKS
        for block, mask in enumerate(getattr(masks, dimension))
    }


def _from_names(spec: ModelSpec, tensors: dict[str, Tensor]) -> Scores:
    """What `_by_name` named."""

    def part(dimension: str) -> tuple[Tensor, ...]:
        return tuple(tensors[f"mask.{dimension}.{block}"] for block in range(spec.depth))

    return Scores(part("tokens") if spec.drops_tokens else (), part("mhsa"), part("mlp"))


def tensor_view(array: np.ndarray) -> Tensor:
    """A tensor over the array's memory; extraction copies, so read-only memory is not written."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
