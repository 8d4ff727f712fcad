"""What a user may spend: the fraction of tokens, MHSA dimensions and MLP units to keep."""

import math
from dataclasses import dataclass, fields
from numbers import Real

from slim.errors import BudgetError


@dataclass(frozen=True)
class Budget:
    """The fraction of each dimension to keep, over all blocks together.

    Args:
        tokens: Share of the patch-token slots (blocks x patches), in (0, 1]. Prefix tokens (CLS,
            distillation, registers) are not counted and never dropped. Models whose windows need
            every token (Swin) take 1.
        mhsa: Share of the attention dimensions (blocks x heads x head dimensions), in (0, 1].
        mlp: Share of the MLP hidden units (blocks x units), in (0, 1].

    Raises:
        BudgetError: If a fraction is not a number in (0, 1].
    """

    tokens: float = 1.0
    mhsa: float = 1.0
    mlp: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value) or not 0 < value <= 1:
                raise BudgetError(
                    f"budget {field.name}={value!r} is outside (0, 1]; "
                    "give the fraction to keep, 1 for all"
                )
            if not isinstance(value, int | float):  # numpy's, which JSON does not take
                object.__setattr__(self, field.name, float(value))
