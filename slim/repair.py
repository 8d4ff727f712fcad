"""The closed-form correction of a fresh subnetwork from a few batches: no gradient, no labels."""

from typing import Any

import torch
from torch import Tensor, nn

from slim.calibration import BRANCHES, Batches, Calibration, classifiers, seen_by
from slim.constant_branch import ConstantBranch
from slim.errors import SlimError
from slim.families import family_of
from slim.spec import ModelSpec
from slim.subnetwork import architecture_of


@torch.no_grad()
def repair(
    vit: Any, reference: Any, images: Batches, ridge: float = 1e-2, memory: float = 0.5
) -> None:
    """Refit the output layer of every branch by least squares, block after block, then the head.

    In each block `proj`, then `fc2`, is refitted so that the residual stream after it is, on the
    calibration images, as near as possible to the reference's at the same token positions. Later
    blocks see the repaired stream. A branch pruned whole gets the mean of what is missing. At
    the end the classifier is refitted to the reference's logits. The ridge pulls towards the
    weights that extraction gave, not towards zero. Each batch's products are computed in the
    network's precision, at least float32, as few GPUs are quick in float64; they are summed and
    solved in float64.

    Args:
        vit: A subnetwork; changed in place.
        reference: What it should compute: a dense model of the same spec, or the masked model
            (`MaskCheckpoint.masked_model`).
        images: Batches (B, C, H, W), a few hundred images in all, normalised; or tuples of such a
            batch and its labels, which are not used.
        ridge: Strength of the pull, relative to the mean square of a feature.
        memory: Share of the stream's accumulated error that a branch corrects, 0 to 1; with 0 a
            branch is fitted to the reference branch alone.

    Raises:
        SlimError: If the reference is another model, or there are no images.
    """
    repair_towards(vit, Calibration(reference, images), ridge, memory)


@torch.no_grad()
def repair_towards(
    vit: Any, calibration: Calibration, ridge: float = 1e-2, memory: float = 0.5
) -> None:
    """`repair` towards a reference on images that may serve many subnetworks.

    Args:
        vit: A subnetwork, on the calibration's device; changed in place.
        calibration: The reference and the images.
        ridge: As in `repair`.
        memory: As in `repair`.

    Raises:
        SlimError: If the reference is another model.
    """
    vit.eval()
    spec = architecture_of(vit).spec
    if calibration.spec != spec:
        raise SlimError(
            f"the reference of a repair is another model than the subnetwork was cut from "
            f"({_difference(calibration.spec, spec)}); give that model"
        )
    with torch.autocast(next(vit.parameters()).device.type, enabled=False):
        _refit_all(vit, spec, calibration, ridge, memory)


def _difference(theirs: ModelSpec, ours: ModelSpec) -> str:
    """The first field of two specs that differs, with both values."""
    before, now = theirs.to_json(), ours.to_json()
    name = next(n for n in before | now if before.get(n) != now.get(n))
    return f"{name}: {before.get(name)!r}, not {now.get(name)!r}"


def _refit_all(
    vit: Any, spec: ModelSpec, calibration: Calibration, ridge: float, memory: float
) -> None:
    """Refit every branch in its turn, then the classifiers."""
    family, walk = family_of(spec), calibration.walk()
    streams = [family.embed(vit, batch) for batch in calibration.batches]
    positions: Tensor | slice = slice(None)  # what the subnetwork still has of the reference's
    for name in spec.block_names:
        block, before = vit.get_submodule(name), next(walk)
        streams = [family.enter(vit, name, x) for x in streams]
        keep = getattr(block, "keep", None)
        if keep is not None:
            positions = keep if isinstance(positions, slice) else positions[keep]
            streams = [x[:, keep] for x in streams]
        for branch in BRANCHES:
            after = next(walk)
            targets = []
            for was, becomes, x in zip(before, after, streams, strict=True):
                was, becomes = was[:, positions], becomes[:, positions]
                targets.append(becomes - was + memory * (was - x))
            streams = _refit_branch(block, branch, streams, targets, ridge)
            before = after
    for layer in classifiers(vit):
        features = [seen_by(layer, vit, vit.norm(x))[0] for x in streams]
        _refit(layer, features, next(walk), None, ridge)


def _refit_branch(
    block: Any, branch: str, streams: list[Tensor], targets: list[Tensor], ridge: float
) -> list[Tensor]:
    """Refit what one branch of a block adds to the streams.

    Returns:
        The streams behind it.
    """
    module = getattr(block, branch)
    if module is None:
        return streams
    if isinstance(module, ConstantBranch):
        module.bias.copy_(torch.cat([t.flatten(0, -2) for t in targets]).double().mean(dim=0))
        return [x + module.bias for x in streams]
    layer = module.proj if branch == "attn" else module.fc2
    scale = getattr(block, "ls1" if branch == "attn" else "ls2", nn.Identity())
    features = [_features(block, branch, x) for x in streams]
    _refit(layer, features, targets, getattr(scale, "gamma", None), ridge)
    return [x + scale(layer(entering)) for x, entering in zip(streams, features, strict=True)]


def _features(block: Any, branch: str, x: Tensor) -> Tensor:
    """What enters the output layer of a branch, token by token as in the stream: (B, ..., S)."""
    module, norm = (block.attn, block.norm1) if branch == "attn" else (block.mlp, block.norm2)
    name = "proj" if branch == "attn" else "fc2"
    layer = getattr(module, name)
    setattr(module, name, nn.Identity())
    try:
        features: Tensor = module(norm(x))
    finally:
        setattr(module, name, layer)
    return features


def _refit(
    layer: nn.Linear,
    features: list[Tensor],
    targets: list[Tensor],
    gamma: Tensor | None,
    ridge: float,
) -> None:
    """Move weights and bias to the ridge solution around where they are."""
    width = layer.in_features + (layer.bias is not None)
    gram = torch.zeros(width, width, dtype=torch.float64, device=layer.weight.device)
    cross = torch.zeros(width, layer.out_features, dtype=torch.float64, device=gram.device)
    count = 0
    for x, target in zip(features, targets, strict=True):
        wanted = target if gamma is None else target / gamma
        precision = torch.promote_types(x.dtype, torch.float32)
        missing = (wanted - layer(x)).flatten(0, -2).to(precision)
        if gamma is not None:  # what a scale of 0 hides is out of reach
            missing = missing.masked_fill(gamma == 0, 0.0)
        x = x.flatten(0, -2).to(precision)
        if layer.bias is not None:
            x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
        gram += x.T @ x
        cross += x.T @ missing
        count += len(x)
    if not count or not bool(cross.isfinite().all()):
        return
    pull = gram.diagonal()[: layer.in_features].mean() * ridge
    penalty = torch.full((width,), float(pull), dtype=torch.float64, device=gram.device)
    if layer.bias is not None:
        penalty[-1] = 1e-9 * count  # the bias is free
    change = torch.linalg.solve(gram + penalty.clamp_min(1e-12 * count).diag(), cross)
    layer.weight.add_(change[: layer.in_features].T)
    if layer.bias is not None:
        layer.bias.add_(change[-1])
