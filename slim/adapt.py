"""Carrying a network to images of another size or number of channels, and to other classes."""

from dataclasses import replace
from numbers import Integral
from typing import Any

from numpy import iterable
from timm.models import adapt_input_conv
from torch import Tensor, nn

from slim.architecture import Architecture
from slim.data_config import known_preprocessing, tell_preprocessing
from slim.errors import UnsupportedModelError
from slim.families import family_of
from slim.heads import with_new_head
from slim.network import eager
from slim.spec import ModelSpec
from slim.subnetwork import architecture_of, fill_subnetwork

Indices = tuple[int, ...]


def adapt(
    vit: nn.Module,
    input_size: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
) -> nn.Module:
    """A network with the weights of another, for other images and classes, as timm adapts one.

    The patch embedding's channels are repeated or summed, position embeddings resampled to the
    new grid (a Swin's windows grow with it, and their relative positions are resampled), and a
    position of the new grid is kept in a block where the position of the old grid that it lies in
    was. So heads, units and depth stay, and cost changes with the grid.

    Args:
        vit: A subnetwork, or a dense timm model of a family; left as it is.
        input_size: Of the new images (C, H, W); None for no change.
        num_classes: For a fresh classifier, also if there are as many as before; None for the
            classifier that is there.

    Returns:
        A network of its own that knows its `architecture` and `input_size`, in the mode (eval or
        training) of `vit`.

    Raises:
        UnsupportedModelError: If the patch size does not divide the new image size.
    """
    vit = eager(vit)
    old = architecture_of(vit)
    new = resized(old, input_size or old.spec.input_size)
    state = {name: tensor.detach().clone() for name, tensor in vit.state_dict().items()}
    _adapt_channels(state, old.spec.in_chans, new.spec.in_chans)
    family_of(new.spec).resample(state, old, new)
    device = next(iter(state.values())).device
    network = fill_subnetwork(new, state).to(device).train(vit.training)
    tell_preprocessing(network, known_preprocessing(vit, new.spec.input_size))
    return network if num_classes is None else with_new_head(network, num_classes)


def resized(architecture: Architecture, input_size: tuple[int, int, int]) -> Architecture:
    """The architecture for images (C, H, W): heads and units stay, tokens follow the grid.

    Raises:
        UnsupportedModelError: If the patch size does not divide the new image size.
    """
    spec: Any = architecture.spec
    sides = [isinstance(side, Integral) for side in input_size] if iterable(input_size) else []
    if sides != [True] * 3:
        raise UnsupportedModelError(f"input size {input_size!r} is not (C, H, W)")
    channels, *size = input_size
    if (channels, *size) == spec.input_size:
        return architecture
    divided = not any(s % p for s, p in zip(size, spec.patch_size, strict=True))
    if min(input_size) < 1 or not (divided or tuple(size) == spec.img_size):
        raise UnsupportedModelError(
            f"images of {size[0]} x {size[1]} are not cut into patches of {spec.patch_size[0]} x "
            f"{spec.patch_size[1]}; give multiples of these"
        )
    new = spec.with_input(input_size)
    tokens = Architecture.dense(new).tokens
    if spec.drops_tokens:
        tokens = _kept_on(new, architecture)
    return replace(architecture, spec=new, tokens=tokens)


def _kept_on(new: ModelSpec, old: Architecture) -> tuple[Indices, ...]:
    """Per block, the positions of the new grid whose place on the old one was kept.

    Where the new grid is so coarse that none is, though some were, the nearest one stays.
    """
    old_grid, grid = old.spec.block(0).grid_size, new.block(0).grid_size
    place = _places(grid, old_grid)
    entering: Indices = tuple(range(len(place)))
    tokens = []
    for kept in old.tokens:
        stays = set(kept)
        chosen = tuple(position for position in entering if place[position] in stays)
        if kept and not chosen:
            chosen = (_nearest(entering, kept, grid, old_grid),)
        tokens.append(chosen)
        entering = chosen
    return tuple(tokens)


def _places(grid: tuple[int, int], old_grid: tuple[int, int]) -> list[int]:
    """For each position of a grid, the position of the old grid in which its centre lies."""
    rows, columns = (
        [(2 * index + 1) * before // (2 * now) for index in range(now)]
        for now, before in zip(grid, old_grid, strict=True)
    )
    return [row * old_grid[1] + column for row in rows for column in columns]


def _nearest(
    among: Indices, kept: Indices, grid: tuple[int, int], old_grid: tuple[int, int]
) -> int:
    """The position of the new grid whose centre is nearest to that of any kept old one."""

    def apart(position: int, old: int) -> float:
        new_centre = [(p + 0.5) / n for p, n in zip(divmod(position, grid[1]), grid, strict=True)]
        centre = [(p + 0.5) / n for p, n in zip(divmod(old, old_grid[1]), old_grid, strict=True)]
        return sum((a - b) ** 2 for a, b in zip(new_centre, centre, strict=True))

    return min(among, key=lambda position: min(apart(position, old) for old in kept))


def _adapt_channels(state: dict[str, Tensor], before: int, now: int) -> None:
    """Sum the patch embedding's channels, or repeat them in their total strength."""
    name = "patch_embed.proj.weight"
    state[name] = adapt_input_conv(now, state[name], base_chans=before)
