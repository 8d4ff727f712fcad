"""Cutting a grid of tokens into windows, shifted and padded as timm does it."""

from dataclasses import dataclass

import torch
from timm.models.swin_transformer import get_relative_position_index
from torch import Tensor
from torch.nn import functional as F

# What timm adds to the scores of two tokens that the cyclic shift brought into one window.
APART = -100.0


@dataclass(frozen=True)
class Windows:
    """The windows of one block.

    Args:
        grid: Tokens (rows, columns) of the block.
        size: Tokens (rows, columns) of a window.
        shift: By how many (rows, columns) the grid is rolled before it is cut.
    """

    grid: tuple[int, int]
    size: tuple[int, int]
    shift: tuple[int, int]

    @property
    def across(self) -> tuple[int, int]:
        """Windows (rows, columns); the grid is padded with zeros to fill them."""
        return -(-self.grid[0] // self.size[0]), -(-self.grid[1] // self.size[1])

    @property
    def count(self) -> int:
        """Windows in all."""
        return self.across[0] * self.across[1]

    @property
    def area(self) -> int:
        """Tokens of a window."""
        return self.size[0] * self.size[1]

    @property
    def table_rows(self) -> int:
        """Relative positions of two tokens in a window."""
        return (2 * self.size[0] - 1) * (2 * self.size[1] - 1)

    def partition(self, x: Tensor) -> Tensor:
        """(B, rows, columns, D) to (B, windows, area, D)."""
        if any(self.shift):
            x = x.roll((-self.shift[0], -self.shift[1]), dims=(1, 2))
        (rows, columns), (height, width) = self.across, self.size
        right, below = columns * width - self.grid[1], rows * height - self.grid[0]
        if right or below:
            x = F.pad(x, (0, 0, 0, right, 0, below))
        x = x.unflatten(2, (columns, width)).unflatten(1, (rows, height))
        return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def merge(self, windows: Tensor) -> Tensor:
        """(B, windows, area, D) back to (B, rows, columns, D); padding is left out."""
        x = windows.unflatten(1, self.across).unflatten(3, self.size)
        x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        x = x[:, : self.grid[0], : self.grid[1]]
        return x.roll(self.shift, dims=(1, 2)) if any(self.shift) else x

    def position_index(self) -> Tensor:
        """Which row of a relative position table two tokens of a window take: (area * area,)."""
        return get_relative_position_index(*self.size, device=torch.device("cpu")).flatten()

    def apart(self) -> Tensor | None:
        """What keeps tokens apart that the shift brought together: (windows, area, area).

        None where nothing is shifted.
        """
        if not any(self.shift):
            return None
        regions = 3 * self._regions(0)[:, None] + self._regions(1)  # (padded rows, columns)
        (rows, columns), (height, width) = self.across, self.size
        cut = regions.view(rows, height, columns, width).transpose(1, 2).flatten(2).flatten(0, 1)
        return APART * (cut[:, None, :] != cut[:, :, None]).float()

    def _regions(self, axis: int) -> Tensor:
        """Which part of the unrolled grid each place of an axis comes from."""
        size, shift = self.size[axis], self.shift[axis]
        length = self.across[axis] * size
        place = torch.arange(length, device="cpu")
        if not shift:
            return torch.zeros_like(place)
        return (place >= length - size).int() + (place >= length - shift).int()
