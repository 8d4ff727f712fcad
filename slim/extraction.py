"""Cutting a physically smaller network out of a mask checkpoint."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slim.architecture import Architecture
from slim.attention import head_order
from slim.checkpoint import MaskCheckpoint
from slim.data_config import tell_preprocessing
from slim.errors import SlimError
from slim.subnetwork import fill_subnetwork


def extract(checkpoint: MaskCheckpoint, architecture: Architecture) -> nn.Module:
    """Cut a subnetwork out; its output is that of the hard-masked model.

    Masks are folded into the weights: MHSA masks into `qkv`, MLP masks into `fc2`. Tensors are
    copied, so the checkpoint (and memory it shares) stays as it is.

    Args:
        checkpoint: The searched model.
        architecture: What to keep; from `checkpoint.select` or made by hand.

    Returns:
        A timm model in eval mode that knows its `architecture`, its `input_size`
        (C, H, W) and `num_classes`.

    Raises:
        SlimError: If the architecture is of another model.
    """
    if architecture.spec != checkpoint.spec:
        raise SlimError("the architecture was selected from a model with another spec")
    vit = fill_subnetwork(architecture, cut(checkpoint, architecture))
    return tell_preprocessing(vit, checkpoint.preprocessing)


def cut(checkpoint: MaskCheckpoint, architecture: Architecture) -> dict[str, Tensor]:
    """Every parameter of the subnetwork by its name."""
    weights = checkpoint.weights
    prefixes = tuple(f"{name}." for name in checkpoint.spec.block_names)
    state = {k: t.clone() for k, t in weights.items() if not k.startswith(prefixes)}
    for block, prefix in enumerate(prefixes):
        dense = {k.removeprefix(prefix): t for k, t in weights.items() if k.startswith(prefix)}
        cut = _cut_attention(checkpoint, architecture, block, dense)
        cut |= _cut_mlp(checkpoint, architecture, block, dense)
        state |= {prefix + name: tensor for name, tensor in cut.items()}
    return state


def _cut_attention(
    checkpoint: MaskCheckpoint, architecture: Architecture, block: int, dense: dict[str, Tensor]
) -> dict[str, Tensor]:
    order = head_order(architecture, block)
    if not order.rows:
        return _constant("attn", dense.get("attn.proj.bias"), dense.get("ls1.gamma"))
    cut = _copied(dense, "norm1.", "ls1.", "attn.proj.bias")
    rows = _index(order.rows, dense["attn.proj.weight"])
    fold = checkpoint.masks.mhsa[block].flatten()[rows]
    qkv = dense["attn.qkv.weight"].unflatten(0, (3, -1)).index_select(1, rows)  # (3, S, D)
    cut["attn.qkv.weight"] = qkv.mul_(fold[:, None]).flatten(0, 1)  # in place: no second copy
    if "attn.qkv.bias" in dense:
        bias = dense["attn.qkv.bias"].unflatten(0, (3, -1)).index_select(1, rows)
        cut["attn.qkv.bias"] = bias.mul_(fold).flatten()
    cut["attn.proj.weight"] = dense["attn.proj.weight"].index_select(1, rows)
    used = sorted({row % checkpoint.spec.block(block).head_dim for row in order.rows})
    for name in dense:
        if name.startswith(("attn.q_norm.", "attn.k_norm.")):
            cut[name] = dense[name][used]
        if name == "attn.relative_position_bias_table":
            cut[name] = dense[name][:, order.heads]
    return cut


def _cut_mlp(
    checkpoint: MaskCheckpoint, architecture: Architecture, block: int, dense: dict[str, Tensor]
) -> dict[str, Tensor]:
    if not architecture.units[block]:
        return _constant("mlp", dense.get("mlp.fc2.bias"), dense.get("ls2.gamma"))
    cut = _copied(dense, "norm2.", "ls2.", "mlp.fc2.bias")
    units = _index(architecture.units[block], dense["mlp.fc2.weight"])
    hidden = checkpoint.spec.block(block).mlp_hidden
    for name in dense:
        if name.startswith("mlp.fc1"):
            cut[name] = dense[name].index_select(0, _fc1_rows(dense[name], hidden, units))
    fc2 = dense["mlp.fc2.weight"].index_select(1, units)
    cut["mlp.fc2.weight"] = fc2.mul_(checkpoint.masks.mlp[block][units])
    return cut


def _fc1_rows(layer: Tensor, hidden: int, units: Tensor) -> Tensor:
    """The rows of a first layer that make the units: a packed gate lies in its other half."""
    return torch.cat([start + units for start in range(0, len(layer), hidden)])


def _index(positions: Sequence[int], like: Tensor) -> Tensor:
    """Positions beside the weights they are of, converted once."""
    return torch.tensor(positions, device=like.device)


def _constant(branch: str, bias: Tensor | None, gamma: Tensor | None) -> dict[str, Tensor]:
    """A branch pruned whole still adds its output bias, scaled."""
    if bias is None:
        return {}
    return {f"{branch}.bias": bias.clone() if gamma is None else bias * gamma}


def _copied(dense: dict[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in dense.items() if name.startswith(prefixes)}
