"""Undistorted images that a process keeps once decoded, so that none is decoded again."""

import uuid
from collections import OrderedDict
from collections.abc import Hashable

from torch import Tensor

Batch = tuple[Tensor, Tensor]
"""Images (B, C, H, W) uint8 and labels (B,) int64."""

_kept: OrderedDict[tuple[Hashable, ...], list[Batch]] = OrderedDict()
"""Of this process, those asked for last at the end."""


class KeptImages:
    """Where a task's copies, in whatever process, find what that process has kept of its images.

    Args:
        limit: Bytes of images that a process keeps, of all tasks together.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.name = limit, uuid.uuid4().hex

    def batches(self, *key: Hashable) -> list[Batch]:
        """The first batches of what the key says, as far as they are kept; `add` lengthens it."""
        place = (self.name, *key)
        batches = _kept.setdefault(place, [])
        _kept.move_to_end(place)
        return batches

    def add(self, batches: list[Batch], images: Tensor, labels: Tensor) -> None:
        """Keep the next batch, if there is room: what was asked for longest ago makes it."""
        if not any(known is batches for known in _kept.values()):  # it made room itself
            return
        while _bytes() + images.nbytes > self.limit and next(iter(_kept.values())) is not batches:
            _kept.popitem(last=False)
        if _bytes() + images.nbytes <= self.limit:
            batches.append((images.clone(), labels.clone()))  # a loader's are shared or pinned


def _bytes() -> int:
    return sum(images.nbytes for batches in _kept.values() for images, _ in batches)
