"""Outputs of a model that many trainings follow: computed once for each batch that they show."""

import hashlib
import io
import uuid
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

_CHUNK = 32  # images whose bits are multiplied at a time: 64-bit copies of them are large


class KeptOutputs(nn.Module):
    """A model whose outputs are kept in files, by the content of the images.

    Trainings that show the same batches, one after the other or side by side on machines that see
    the same folder, then have its outputs without running it (as in Shen and Xing, "A Fast
    Knowledge Distillation Framework for Visual Recognition", arXiv 2112.01528). What is read is
    what the model gave, to the bit. A file that is missing, damaged or cannot be written costs
    one more run of the model.

    Args:
        model: Called without gradient; its weights must not change.
        folder: Of this model's outputs alone, made if need be.
    """

    def __init__(self, model: nn.Module, folder: str | Path) -> None:
        super().__init__()
        self.model, self.folder = model, Path(folder)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) float32 of images (B, C, H, W)."""
        path = self.folder / f"{content_key(images)}.npy"
        kept = _read(path, len(images))
        if kept is not None:
            return torch.from_numpy(kept).to(images.device)
        logits: Tensor = self.model(images).float()
        with suppress(OSError):  # the training's own state tells of a full disk
            _write(path, logits.cpu().numpy())
        return logits


def content_key(images: Tensor) -> str:
    """A key of a batch's values and their places, alike on every device: 32 hexadecimal digits.

    Each image is a sum of its bits times odd random 64-bit numbers, which wraps around: no
    rounding, so the order of summation does not matter.

    Args:
        images: (B, C, H, W) float32.
    """
    bits = images.detach().float().contiguous().flatten(1).view(torch.int32)
    generator = torch.Generator().manual_seed(0)
    lowest, highest = -(2**63), 2**63 - 1
    factors = torch.randint(lowest, highest, bits.shape[1:], generator=generator) | 1
    factors = factors.to(images.device)
    sums = torch.cat([(part.long() * factors).sum(dim=1) for part in bits.split(_CHUNK)])
    digest = hashlib.blake2b(repr(tuple(images.shape)).encode(), digest_size=16)
    digest.update(sums.cpu().numpy().tobytes())
    return digest.hexdigest()


def kept_bytes(images: int, classes: int) -> int:
    """Size of the outputs of so many images, float32."""
    return 4 * images * classes


def _read(path: Path, images: int) -> np.ndarray | None:
    """Kept outputs (images, classes), None where there are none that are whole."""
    try:
        kept = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = kept.ndim == 2 and len(kept) == images and kept.dtype == np.float32
    return kept if whole else None


def _write(path: Path, logits: np.ndarray) -> None:
    """In one step, as several trainings may write the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    content = io.BytesIO()
    np.save(content, logits, allow_pickle=False)
    try:
        draft.write_bytes(content.getvalue())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
