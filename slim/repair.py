"""The closed-form correction of a fresh subnetwork from a few batches: no gradient, no labels."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from slim.constant_branch import ConstantBranch
from slim.families import Family, family_of
from slim.masked_model import MaskedModel
from slim.subnetwork import architecture_of


@torch.no_grad()
def repair(
    vit: Any, reference: Any, images: Iterable[Tensor], ridge: float = 1e-2, memory: float = 0.5
) -> None:
    """Refit the output layer of every branch by least squares, block after block, then the head.

    In each block `proj`, then `fc2`, is refitted so that the residual stream after it is, on the
    calibration images, as near as possible to the reference's at the same token positions. Later
    blocks see the repaired stream. A branch pruned whole gets the mean of what is missing. At
    the end the classifier is refitted to the reference's logits. The ridge pulls towards the
    weights that extraction gave, not towards zero, and sums run in float64.

    Args:
        vit: A subnetwork; changed in place.
        reference: What it should compute: a dense model of the same spec, or the masked model
            (`MaskCheckpoint.masked_model`).
        images: Batches (B, C, H, W), a few hundred images in all, normalised.
        ridge: Strength of the pull, relative to the mean square of a feature.
        memory: Share of the stream's accumulated error that a branch corrects, 0 to 1; with 0 a
            branch is fitted to the reference branch alone.
    """
    vit.eval()
    reference.eval()
    device = next(vit.parameters()).device
    batches = [batch.to(device) for batch in images]
    dense = reference.vit if isinstance(reference, MaskedModel) else reference
    spec = architecture_of(vit).spec
    family = family_of(spec)
    streams = [_Streams(family.embed(vit, b), family.embed(dense, b)) for b in batches]
    positions: Tensor | slice = slice(None)  # what the subnetwork still has of the reference's
    for name in spec.block_names:
        block, dense_block = vit.get_submodule(name), dense.get_submodule(name)
        for stream in streams:
            stream.slim = family.enter(vit, name, stream.slim)
            stream.dense = family.enter(dense, name, stream.dense)
        keep = getattr(block, "keep", None)
        if keep is not None:
            positions = keep if isinstance(positions, slice) else positions[keep]
            for stream in streams:
                stream.slim = stream.slim[:, keep]
        for branch in ("attn", "mlp"):
            _refit_branch(family, block, branch, dense_block, streams, positions, ridge, memory)
    _refit_classifiers(vit, dense, batches, ridge)


class _Streams:
    """A batch's residual streams: the subnetwork's (B, ..., D) and the reference's.

    For a ViT (B, N, D), of which the subnetwork has fewer tokens; for Swin (B, rows, columns, D).
    """

    def __init__(self, slim: Tensor, dense: Tensor) -> None:
        self.slim, self.dense = slim, dense


def _refit_branch(
    family: Family,
    block: Any,
    branch: str,
    dense_block: Any,
    streams: list[_Streams],
    positions: Tensor | slice,
    ridge: float,
    memory: float,
) -> None:
    """Refit one branch of a block, and move both streams behind it."""
    targets, features = [], []
    for stream in streams:
        before = stream.dense[:, positions]
        stream.dense = stream.dense + family.branch(dense_block, branch, stream.dense)
        added = stream.dense[:, positions] - before
        targets.append(added + memory * (before - stream.slim))
    module = getattr(block, branch)
    if isinstance(module, ConstantBranch):
        module.bias.copy_(torch.cat([t.flatten(0, -2) for t in targets]).double().mean(dim=0))
    elif module is not None:
        layer = module.proj if branch == "attn" else module.fc2
        for stream in streams:
            features.append(_features(block, branch, stream.slim))
        scale = getattr(block, "ls1" if branch == "attn" else "ls2", None)
        gamma = getattr(scale, "gamma", None)
        _refit(layer, features, targets, gamma, ridge)
    if module is not None:
        for stream in streams:
            stream.slim = stream.slim + family.branch(block, branch, stream.slim)


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


def _refit_classifiers(vit: Any, dense: Any, batches: list[Tensor], ridge: float) -> None:
    """Refit the linear heads (two in a distilled DeiT) to the logits of the reference's."""
    for layer, wanted in zip(_classifiers(vit), _classifiers(dense), strict=True):
        features, targets = [], []
        for batch in batches:
            features.append(_seen_by(layer, vit, batch)[0])
            targets.append(_seen_by(wanted, dense, batch)[1])
        _refit(layer, features, targets, None, ridge)


def _classifiers(model: Any) -> list[nn.Linear]:
    """The layers that give logits; none of a model without classes."""
    heads = model.get_classifier()
    return [
        h for h in (heads if isinstance(heads, tuple) else (heads,)) if isinstance(h, nn.Linear)
    ]


def _seen_by(layer: nn.Linear, model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """What enters and what leaves a layer when a model sees images."""
    seen: list[tuple[Tensor, Tensor]] = []
    hook = layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    try:
        model(images)
    finally:
        hook.remove()
    return seen[0]


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
        missing = (wanted - layer(x)).flatten(0, -2).double()
        x = x.flatten(0, -2).double()
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
