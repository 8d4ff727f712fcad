"""What a subnetwork adds to timm's model of its family."""

from dataclasses import replace
from typing import Any

from torch import nn

from slim.architecture import Architecture
from slim.errors import UnsupportedModelError


class SlimNetwork:
    """A mix-in before timm's class: it knows its architecture, and refuses what timm's methods
    would get wrong without a word on a network of fewer tokens."""

    input_size: tuple[int, int, int]
    _built: Architecture

    @property
    def architecture(self) -> Architecture:
        """Its architecture, with the classifier and the pooling that it has now.

        Raises:
            UnsupportedModelError: If a new head pools in a way that is not covered.
        """
        model: Any = self
        spec = self._built.spec
        if (spec.num_classes, spec.global_pool) == (model.num_classes, model.global_pool):
            return self._built
        return replace(self._built, spec=spec.with_head_of(model))

    def set_input_size(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: the positions that blocks keep are those of the grid they were cut for.

        Raises:
            UnsupportedModelError: Names what adapts a subnetwork.
        """
        raise UnsupportedModelError(
            "a subnetwork keeps positions of its own grid, which set_input_size does not move; "
            "use slim.adapt(vit, (C, H, W))"
        )


def as_network(vit: nn.Module, kind: Any, architecture: Architecture) -> nn.Module:
    """timm's model, its blocks replaced, as a network that knows its architecture; in place.

    Args:
        vit: The model.
        kind: `SlimNetwork` with the model's class.
        architecture: Its own.
    """
    network: Any = vit
    network.__class__ = kind
    network._built, network.input_size = architecture, architecture.spec.input_size
    return vit


def eager(model: nn.Module) -> nn.Module:
    """The module itself of one that `torch.compile` wrapped, whose tensors have other names."""
    inner: nn.Module = getattr(model, "_orig_mod", model)
    return inner
