"""The physically smaller network: timm's model with blocks of their own widths."""

import copy
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from slim.architecture import Architecture
from slim.families import family_of
from slim.network import SlimNetwork, as_network, eager
from slim.spec import ModelSpec, read_spec


def build_subnetwork(architecture: Architecture) -> nn.Module:
    """Build the subnetwork with fresh weights, on torch's current default device.

    Returns:
        A timm model that also knows its `architecture` and its `input_size`
        (C, H, W).
    """
    spec = architecture.spec
    on_meta = torch.get_default_device().type == "meta"
    vit: Any = _copied(_frame(spec)) if on_meta else spec.build()
    slim_block = family_of(spec).slim_block
    with _Uninitialised() if on_meta else nullcontext():
        for index, name in enumerate(spec.block_names):
            vit.set_submodule(name, slim_block(architecture, index))
    return as_network(vit, family_of(spec).networks[type(vit)], architecture)


def architecture_of(vit: Any) -> Architecture:
    """The architecture of a subnetwork or of a dense timm model, with the classifier and the
    pooling that it has now.

    Raises:
        UnsupportedModelError: If a dense model, or a new head, has a feature that is not covered.
    """
    network = eager(vit)
    if isinstance(network, SlimNetwork):
        return network.architecture
    return Architecture.dense(read_spec(network))


def fill_subnetwork(architecture: Architecture, state: dict[str, Tensor]) -> nn.Module:
    """Build the subnetwork around given tensors, without initialising any.

    Args:
        architecture: The layout.
        state: Every parameter by its name; taken over, not copied.
    """
    with torch.device("meta"):
        vit = build_subnetwork(architecture)
    vit.load_state_dict(state, assign=True, strict=True)
    return vit.eval()


def _copied(module: nn.Module) -> nn.Module:
    """A deep copy of modules but for what a network never changes, in a fifth of its time."""
    copied = type(module).__new__(type(module))
    copied.__dict__ = {name: _own(value) for name, value in module.__dict__.items()}
    for name, parameter in module.named_parameters(recurse=False):
        copied._parameters[name] = nn.Parameter(parameter.detach())
    for name, child in module._modules.items():
        copied._modules[name] = None if child is None else _copied(child)
    return copied


def _own(value: Any) -> Any:
    """A module's attribute for its copy: dictionaries and collections are not shared."""
    if isinstance(value, dict):
        return value.copy()
    return copy.deepcopy(value) if isinstance(value, (list, set)) else value


@lru_cache(maxsize=8)
def _frame(spec: ModelSpec) -> nn.Module:
    """The dense model without blocks and without memory, for copies that get blocks of their own.

    Hundreds of subnetworks are judged in a row, and building dense blocks for each takes longer
    than cutting it out.
    """
    with torch.device("meta"), _Uninitialised():
        vit = spec.build()
    for name in spec.block_names:
        vit.set_submodule(name, nn.Identity())
    return vit


class _Uninitialised(TorchFunctionMode):
    """In it `torch.nn.init` does nothing: tensors without memory have nothing to initialise."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)
