"""The physically smaller network: timm's model with blocks of their own widths."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from slim.architecture import Architecture
from slim.families import family_of
from slim.spec import read_spec


def build_subnetwork(architecture: Architecture) -> nn.Module:
    """Build the subnetwork with fresh weights, on torch's current default device.

    Returns:
        A timm model that also knows its `architecture` and its `input_size`
        (C, H, W).
    """
    spec = architecture.spec
    vit: Any = spec.build()
    slim_block = family_of(spec).slim_block
    for index, name in enumerate(spec.block_names):
        vit.set_submodule(name, slim_block(architecture, index))
    vit.architecture = architecture
    vit.input_size = spec.input_size
    network: nn.Module = vit
    return network


def architecture_of(vit: Any) -> Architecture:
    """The architecture of a subnetwork or of a dense timm model, with the classifier it has now.

    Raises:
        UnsupportedModelError: If a dense model has a feature that is not covered.
    """
    architecture: Architecture | None = getattr(vit, "architecture", None)
    if architecture is None:
        return Architecture.dense(read_spec(vit))
    if architecture.spec.num_classes == vit.num_classes:
        return architecture
    return replace(architecture, spec=architecture.spec.with_classes(vit.num_classes))


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
