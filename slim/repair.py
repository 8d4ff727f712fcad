"""The closed-form correction of a fresh subnetwork from a few batches: no gradient, no labels."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from slim.masks import MaskedBlock
from slim.subnetwork import ConstantBranch


@torch.no_grad()
def repair(
    vit: Any, reference: Any, images: Iterable[Tensor], ridge: float = 1e-2, memory: float = 1.0
) -> None:
    """Refit the output layer of every branch by least squares, block after block.

    In each block `proj`, then `fc2`, is refitted so that the residual stream after it is, on the
    calibration images, as near as possible to the reference's at the same token positions. Later
    blocks see the repaired stream. A branch pruned whole gets the mean of what is missing. The
    ridge pulls towards the weights that extraction gave, not towards zero, and sums run in
    float64.

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
    dense = getattr(reference, "vit", reference)
    streams = [_Streams(_embed(vit, batch), _embed(dense, batch)) for batch in batches]
    positions = torch.arange(streams[0].dense.shape[1], device=device)
    for block, dense_block in zip(vit.blocks, dense.blocks, strict=True):
        if block.keep is not None:
            positions = positions[block.keep]
            for stream in streams:
                stream.slim = stream.slim[:, block.keep]
        _refit_branch(block, "attn", dense_block, streams, positions, ridge, memory)
        _refit_branch(block, "mlp", dense_block, streams, positions, ridge, memory)


class _Streams:
    """A batch's residual streams: the subnetwork's (B, N kept, D), the reference's (B, N, D)."""

    def __init__(self, slim: Tensor, dense: Tensor) -> None:
        self.slim, self.dense = slim, dense


def _embed(vit: Any, images: Tensor) -> Tensor:
    """The tokens that enter the first block."""
    tokens: Tensor = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))
    return tokens


def _refit_branch(
    block: Any,
    branch: str,
    dense_block: Any,
    streams: list[_Streams],
    positions: Tensor,
    ridge: float,
    memory: float,
) -> None:
    """Refit one branch of a block, and move both streams behind it."""
    targets, features = [], []
    for stream in streams:
        before = stream.dense[:, positions]
        stream.dense = stream.dense + _branch(dense_block, branch, stream.dense)
        added = stream.dense[:, positions] - before
        targets.append(added + memory * (before - stream.slim))
    module = getattr(block, branch)
    if isinstance(module, ConstantBranch):
        module.bias.copy_(torch.cat([t.flatten(0, 1) for t in targets]).double().mean(dim=0))
    elif module is not None:
        layer = module.proj if branch == "attn" else module.fc2
        for stream in streams:
            features.append(_inputs_of(layer, block, branch, stream.slim))
        gamma = getattr(block.ls1 if branch == "attn" else block.ls2, "gamma", None)
        _refit(layer, features, targets, gamma, ridge)
    if module is not None:
        for stream in streams:
            stream.slim = stream.slim + _branch(block, branch, stream.slim)


def _branch(block: Any, branch: str, x: Tensor) -> Tensor:
    """What a block's branch adds to the stream."""
    if branch == "mlp":
        out: Tensor = block.ls2(block.mlp(block.norm2(x)))
    elif isinstance(block, MaskedBlock):
        out = block.ls1(block.attn(block.norm1(x), block.log_token_mask()))
    else:
        out = block.ls1(block.attn(block.norm1(x)))
    return out


def _inputs_of(layer: nn.Module, block: Any, branch: str, x: Tensor) -> Tensor:
    """What enters the output layer of a branch: (B, N, features)."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    _branch(block, branch, x)
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
        missing = (wanted - layer(x)).flatten(0, 1).double()
        x = x.flatten(0, 1).double()
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
