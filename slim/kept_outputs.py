"""Outputs of a model that many trainings follow: computed once for each batch that they show."""

import hashlib
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from slim.files import write_bytes_atomic

SPARE_BYTES = 10**9  # what is left free on the disk for what a run cannot do without
_CHUNK = 32  # images whose bits are multiplied at a time: 64-bit copies of them are large
_CHECKSUM = 16  # bytes after a file's values
_ENDINGS = {torch.float16: ".float16", torch.bfloat16: ".bfloat16"}  # of files, by autocast
_BLOCK = 4096  # bytes that the disk gives a file at a time


class KeptOutputs(nn.Module):
    """A model whose outputs are kept in files, by the content of the images.

    Trainings that show the same batches, one after the other or side by side on machines that see
    the same folder, then have its outputs without running it (as in Shen and Xing, "A Fast
    Knowledge Distillation Framework for Visual Recognition", arXiv 2112.01528). What is read is
    what the model gave in the same precision (`torch.autocast`), to the bit. A file that is
    missing or damaged costs one more run of the model; none is written where less than
    `SPARE_BYTES` would stay free.

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
        kind = images.device.type
        amp = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        path = self.folder / f"{content_key(images)}{_ENDINGS.get(amp, '')}"
        kept = _read(path, len(images))
        if kept is not None:
            return torch.from_numpy(kept).to(images.device)
        logits: Tensor = self.model(images).float()
        with suppress(OSError):  # the training's own state tells of a disk that is full or broken
            self.folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self.folder).free > SPARE_BYTES:
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


def kept_bytes(images: int, classes: int, together: int) -> int:
    """Room on a disk for the outputs of so many images, of which a file holds so many."""
    files = -(-images // together)
    return files * -(-_file_bytes(together, classes) // _BLOCK) * _BLOCK


def _file_bytes(images: int, classes: int) -> int:
    return 4 * images * classes + _CHECKSUM


def _read(path: Path, images: int) -> np.ndarray | None:
    """Kept outputs (images, classes), None where there are none that are whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    size = len(content) - _CHECKSUM
    if size < 0 or size % (4 * images) or content[size:] != _checksum(content[:size]):
        return None
    return np.frombuffer(content[:size], "<f4").astype(np.float32).reshape(images, -1)


def _write(path: Path, logits: np.ndarray) -> None:
    """The values and their checksum; no need to last, as a damaged file is noticed."""
    content = logits.astype("<f4").tobytes()
    write_bytes_atomic(path, content + _checksum(content), sync=False)


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECKSUM).digest()
