"""The processes that train one network together, each on its share of every batch."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """This process's place among those that train together.

    Every method is a meeting: all processes must call it, in the same order.

    Args:
        rank: Of this process, from 0.
        world_size: How many there are.
    """

    rank: int = 0
    world_size: int = 1

    @classmethod
    def current(cls) -> "Processes":
        """Those of `torch.distributed` if it is initialised, else this process alone."""
        if not distributed.is_available() or not distributed.is_initialized():
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def meet(self) -> None:
        """Wait for all."""
        if self.world_size > 1:
            distributed.barrier()

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model itself, or one that starts from rank 0's weights and averages gradients."""
        if self.world_size == 1:
            return model
        return DistributedDataParallel(model, broadcast_buffers=False)

    def sums(self, values: Sequence[float], device: torch.device | str) -> list[float]:
        """Each value summed over the processes."""
        if self.world_size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=device)
        distributed.all_reduce(total)
        summed: list[float] = total.tolist()
        return summed

    def mean(self, value: Tensor) -> float:
        """A scalar's mean over the processes; NaN if it is NaN in one of them."""
        if self.world_size == 1:
            return float(value)
        return self.sums([float(value)], value.device)[0] / self.world_size

    def any(self, flag: bool, device: torch.device | str) -> bool:
        """Whether the flag is up in any of them."""
        return self.sums([float(flag)], device)[0] > 0

    def agree(self, value: int, device: torch.device | str) -> bool:
        """Whether the value is the same in all of them."""
        total = self.sums([float(value)], device)[0]
        return not self.any(total != value * self.world_size, device)


def without_averaging(model: nn.Module) -> AbstractContextManager[None]:
    """In it a wrapped model's gradients stay in this process, to be averaged with later ones."""
    if isinstance(model, DistributedDataParallel):
        averaging: AbstractContextManager[None] = model.no_sync()
        return averaging
    return nullcontext()
