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
from slim.data_config import known_preprocessing, readable, tell_preprocessing
from slim.errors import FileFormatError
from slim.families import family_of
from slim.files import check_tensors, naming, read_tensors, write_tensors
from slim.masked_model import MaskedModel
from slim.ranking import Scores, select
from slim.spec import ModelSpec
from slim.tasks.task import Preprocessing

KIND = "vit-slim mask checkpoint"
DIMENSIONS = ("tokens", "mhsa", "mlp")


@dataclass(frozen=True)
class MaskCheckpoint:
    """Weights and masks of a searched model.

    Args:
        spec: The dense model's spec.
        weights: Its weights under timm's names.
        masks: The learned masks, which extraction folds into the weights.
        scores: What ranks, where it is not the masks themselves (see `slim.importance`).
        data: Fingerprint of the data searched on (JSON values).
        metrics: What was measured at the end of the search (JSON values).
        preprocessing: What the dense model expects of an image, where timm's `pretrained_cfg` said
            so; its networks are told.
    """

    spec: ModelSpec
    weights: dict[str, Tensor]
    masks: Scores
    scores: Scores | None = None
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None

    @classmethod
    def from_model(
        cls,
        masked: MaskedModel,
        data: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
        scores: Scores | None = None,
    ) -> "MaskCheckpoint":
        """Take a masked model as it stands; tensors are copied to the CPU.

        Scores are rounded to the precision of the weights, where close ones may tie.
        """
        weights = {k: t.detach().cpu().clone() for k, t in masked.dense_state().items()}
        dtype = next(iter(weights.values())).dtype

        def copied(tensor: Tensor) -> Tensor:
            return tensor.detach().to("cpu", dtype, copy=True)

        return cls(
            spec=masked.spec.with_head_of(masked.vit),
            weights=weights,
            masks=masked.masks().map(copied),
            scores=None if scores is None else scores.map(copied),
            data=data or {},
            metrics=metrics or {},
            preprocessing=known_preprocessing(masked.vit, masked.spec.input_size),
        )

    @property
    def ranking(self) -> Scores:
        """What decides which positions a budget keeps: the scores, or else the masks."""
        return self.masks if self.scores is None else self.scores

    def select(self, budget: Budget) -> Architecture:
        """Read a budget's architecture off the ranking: the best are kept.

        Raises:
            BudgetError: If no architecture of this model can meet the budget.
        """
        return select(self.spec, self.ranking, budget)

    def masked_model(self) -> MaskedModel:
        """The searched model with its soft masks, rebuilt, in eval mode; tensors are copied.

        Token masks are of the kind `log`, whatever they were in the search.
        """
        dense = self.spec.build()
        dense.load_state_dict(self.weights)
        masked = family_of(self.spec).masked(dense, self.spec)
        tell_preprocessing(dense, self.preprocessing)
        masked.set_masks(self.masks)
        return masked.eval()

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Weights and masks as numpy arrays by name, not copied: what is broadcast.

        NumPy has no bfloat16: its bits are given as int16.
        """
        return {name: _bits(tensor).numpy() for name, tensor in self._tensors().items()}

    @classmethod
    def from_arrays(
        cls, arrays: dict[str, np.ndarray], header: dict[str, Any]
    ) -> "MaskCheckpoint":
        """View arrays (read-only ones too) as a checkpoint, without a copy.

        Args:
            arrays: What `to_arrays` gave.
            header: What `header` gave.
        """
        return cls._assemble(
            {
                name: tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor
                for name, tensor in tensor_views(arrays).items()
            },
            header,
        )

    def header(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON values."""
        return {
            "spec": self.spec.to_json(),
            "scored": self.scores is not None,
            "data": self.data,
            "metrics": self.metrics,
            "preprocessing": self.preprocessing and self.preprocessing.to_json(),
        }

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
        expected = _expected_shapes(spec, header["scored"])
        check_tensors(folder / "checkpoint.safetensors", tensors, expected)
        return cls._assemble(tensors, header)

    def _tensors(self) -> dict[str, Tensor]:
        weights = {f"weight.{name}": tensor for name, tensor in self.weights.items()}
        scores = {} if self.scores is None else _by_name("score", self.scores)
        return weights | _by_name("mask", self.masks) | scores

    @classmethod
    def _assemble(cls, tensors: dict[str, Tensor], header: dict[str, Any]) -> "MaskCheckpoint":
        prefix, spec = "weight.", ModelSpec.from_json(header["spec"])
        return cls(
            spec=spec,
            weights={
                k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)
            },
            masks=_from_names("mask", spec, tensors),
            scores=_from_names("score", spec, tensors) if header["scored"] else None,
            data=header["data"],
            metrics=header["metrics"],
            preprocessing=readable(header.get("preprocessing")),
        )


def _read_header(header: dict[str, Any]) -> ModelSpec:
    for name in ("spec", "data", "metrics"):
        if not isinstance(header.get(name), dict):
            raise FileFormatError(f"{name} is missing or not an object")
    if not isinstance(header.get("scored"), bool):
        raise FileFormatError("scored is missing or neither true nor false")
    return ModelSpec.from_json(header["spec"])


def _expected_shapes(spec: ModelSpec, scored: bool) -> dict[str, torch.Size]:
    with torch.device("meta"):
        dense = spec.build()
        like = Scores.fill(spec, torch.empty)
    tensors = {f"weight.{name}": t for name, t in dense.state_dict().items()}
    tensors |= _by_name("mask", like) | (_by_name("score", like) if scored else {})
    return {name: tensor.shape for name, tensor in tensors.items()}


def _by_name(kind: str, scores: Scores) -> dict[str, Tensor]:
    """Tensors under the names they have in a file: `mask.mhsa.3` is that of block 3."""
    return {
        f"{kind}.{dimension}.{block}": tensor
        for dimension in DIMENSIONS
        for block, tensor in enumerate(getattr(scores, dimension))
    }


def _from_names(kind: str, spec: ModelSpec, tensors: dict[str, Tensor]) -> Scores:
    """What `_by_name` named."""

    def part(dimension: str) -> tuple[Tensor, ...]:
        return tuple(tensors[f"{kind}.{dimension}.{block}"] for block in range(spec.depth))

    return Scores(part("tokens") if spec.drops_tokens else (), part("mhsa"), part("mlp"))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor


def tensor_views(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Tensors over the arrays' memory; extraction copies, so read-only memory is not written."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
