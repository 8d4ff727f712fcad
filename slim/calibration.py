"""What repair works towards: the residual streams of a dense model on calibration images."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slim.errors import SlimError
from slim.families import family_of
from slim.masked_model import MaskedModel
from slim.subnetwork import architecture_of

Batches = Iterable[Tensor] | Iterable[Sequence[Tensor]]
BRANCHES = ("attn", "mlp")


class Calibration:
    """A dense model on a few hundred images, seen step by step.

    Where many subnetworks are repaired towards the same model, its streams may be kept, so that
    it runs once for all of them.

    Args:
        reference: A dense model, or the masked one (`MaskCheckpoint.masked_model`); set to
            evaluation.
        images: Batches (B, C, H, W), normalised, or tuples of such a batch and what goes with it;
            moved to the reference's device.
        keep_bytes: What the model computes is kept if that and the images take no more than this.

    Raises:
        SlimError: If there are no images, or the reference is slimmed itself.
    """

    def __init__(self, reference: Any, images: Batches, keep_bytes: int = 0) -> None:
        masked = isinstance(reference, MaskedModel)
        architecture = None if masked else architecture_of(reference)
        if architecture and not architecture.is_dense:
            raise SlimError("the reference of a repair is slimmed itself; give the dense model")
        self.spec = reference.spec if architecture is None else architecture.spec
        self.reference: Any = reference.eval()
        self.model: Any = reference.vit if masked else reference
        device = next(self.model.parameters()).device
        batches = (one if isinstance(one, Tensor) else one[0] for one in images)
        self.batches = [batch.to(device) for batch in batches]
        if not sum(map(len, self.batches)):
            raise SlimError(
                "there are no images to repair with; give some, anew for each network where they "
                "come from a generator"
            )
        self._kept = self._keepable(keep_bytes)

    @property
    def kept_bytes(self) -> int:
        """Of what the model computes, with the images; 0 if nothing is kept."""
        return _held([self.batches, *self._kept]) if self._kept else 0

    def walk(self) -> Iterator[list[Tensor]]:
        """What the model computes, a tensor for each batch.

        Yields:
            For each block the stream that enters it, and the stream after each of `BRANCHES`; at
            the end the logits of each linear classifier (two of a distilled DeiT). Streams are
            (B, N, D), those of a Swin (B, rows, columns, D).
        """
        return self._computed() if self._kept is None else iter(self._kept)

    def _keepable(self, keep_bytes: int) -> list[list[Tensor]] | None:
        """All that a walk yields, None if it takes more."""
        kept: list[list[Tensor]] = []
        for tensors in self._computed() if keep_bytes else ():
            kept.append(tensors)
            if _held([self.batches, *kept]) > keep_bytes:
                return None
        return kept or None

    @torch.no_grad()
    def _computed(self) -> Iterator[list[Tensor]]:
        model, family = self.model, family_of(self.spec)
        streams = [family.embed(model, batch) for batch in self.batches]
        for name in self.spec.block_names:
            block = model.get_submodule(name)
            streams = [family.enter(model, name, x) for x in streams]
            yield streams
            for branch in BRANCHES:
                streams = [x + family.branch(block, branch, x) for x in streams]
                yield streams
        for layer in classifiers(model):
            yield [seen_by(layer, self.reference, model.norm(x))[1] for x in streams]


def _held(lists: list[list[Tensor]]) -> int:
    """Bytes of tensors, each once: a stream leaves one block and enters the next."""
    return sum({id(tensor): tensor.nbytes for one in lists for tensor in one}.values())


def classifiers(model: Any) -> list[nn.Linear]:
    """The layers that give logits; none of a model without classes."""
    heads = model.get_classifier()
    return [
        h for h in (heads if isinstance(heads, tuple) else (heads,)) if isinstance(h, nn.Linear)
    ]


def seen_by(layer: nn.Linear, model: Any, features: Tensor) -> tuple[Tensor, Tensor]:
    """What enters and what leaves a classifier when features have left a model's final norm."""
    seen: list[tuple[Tensor, Tensor]] = []
    hook = layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    try:
        model.forward_head(features)
    finally:
        hook.remove()
    return seen[0]
