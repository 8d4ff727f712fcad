"""The unit of cost: multiply-accumulates and parameters."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates (MACs) for one image, and parameters; whole numbers."""

    macs: int
    params: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.macs + other.macs, self.params + other.params)
