"""Which parameters share a learning rate and a weight decay."""

from typing import Any

from timm.optim._param_groups import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from slim.network import eager


def weight_groups(
    model: Any, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """timm's groups: matrices with weight decay; norms, biases and embeddings without.

    What a model itself names as embeddings, such as Swin's tables of relative positions, is no
    matrix for Muon.

    Args:
        model: Dense, masked or slim; parameters without gradient are in no group.
        weight_decay: Of matrices.
        layer_decay: Factor of the learning rate from the classifier down to each earlier block
            (BEiT, arXiv 2106.08254); 1 for one learning rate.
    """
    network = timm_model(model)
    skip = network.no_weight_decay() if hasattr(network, "no_weight_decay") else ()
    groups: list[dict[str, Any]]
    if layer_decay == 1:
        groups = param_groups_weight_decay(
            network, weight_decay, no_weight_decay_list=skip, fallback_no_weight_decay=True
        )
    else:
        groups = param_groups_layer_decay(
            network,
            weight_decay,
            no_weight_decay_list=skip,
            fallback_no_weight_decay=True,
            layer_decay=layer_decay,
        )
    return groups


def timm_model(model: nn.Module) -> Any:
    """timm's model itself, or the one that a masked model is made around."""
    model = eager(model)
    inner = [child for child in model.children() if hasattr(child, "group_matcher")]
    return eager(inner[0]) if inner and not hasattr(model, "group_matcher") else model
