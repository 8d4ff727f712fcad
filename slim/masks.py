"""Where a dense model gets its masks."""

import copy
from typing import Any, get_args

import torch
from timm.layers import DropPath
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from slim.data_config import known_preprocessing, tell_preprocessing
from slim.errors import SlimError, UnsupportedModelError
from slim.families import family_of
from slim.masked_model import MaskedModel, TokenMask
from slim.network import SlimNetwork
from slim.spec import ModelSpec, read_spec
from slim.subnetwork import architecture_of


def attach_masks(model: nn.Module, token_mask: TokenMask = "log") -> MaskedModel:
    """Put soft masks, all 1, on a copy of a dense timm Vision Transformer or Swin.

    Args:
        model: A `timm` VisionTransformer or SwinTransformer, or a dense model that `slim.load`
            gave.
        token_mask: How a soft token mask acts. `log`: its logarithm is added to the scores of the
            softmax, so that a token fades out of attention as it will leave it. `tanh`: the
            paper's, tanh of a parameter that starts at 3 multiplies what enters both branches.

    Returns:
        The masked model; until its masks change it computes the same function (with `tanh`, one
        whose patch tokens are scaled by 0.995).

    Raises:
        UnsupportedModelError: If the model has a feature that is not covered, or is slim already.
        SlimError: If the kind of token masks is unknown.
    """
    if token_mask not in get_args(TokenMask):
        raise SlimError(f"token_mask {token_mask!r} is neither log nor tanh")
    dense = as_timm(model)
    spec = read_spec(dense)
    training = model.training
    return family_of(spec).masked(copy.deepcopy(dense), spec, token_mask).train(training)


def as_timm(model: Any) -> nn.Module:
    """A plain timm model of one image size that computes the model's function.

    That is the model itself, but for a dense subnetwork that `slim.load` gave and for a model
    with `dynamic_img_size`, which is fixed to the image size it was made for.

    Raises:
        UnsupportedModelError: If it is a subnetwork from which something was cut, or has a
            feature that is not covered.
    """
    given: nn.Module = model
    if not isinstance(model, SlimNetwork):
        return _rebuilt(read_spec(given), given) if _is_dynamic(given) else given
    architecture = architecture_of(model)
    if not architecture.is_dense:
        raise UnsupportedModelError(
            "this model is a slimmed subnetwork; masks go on the dense model it was cut from"
        )
    return _rebuilt(architecture.spec, given)


def _is_dynamic(model: Any) -> bool:
    """Whether the model resamples its position embedding to any image size."""
    return isinstance(model, VisionTransformer) and bool(model.dynamic_img_size)


def _rebuilt(spec: ModelSpec, model: nn.Module) -> nn.Module:
    """The spec's model around the given one's tensors."""
    with torch.random.fork_rng(devices=[]):  # its fresh weights are thrown away
        dense = spec.build()
    dense.load_state_dict(model.state_dict(), assign=True, strict=True)
    for name, parameter in model.named_parameters():
        dense.get_parameter(name).requires_grad_(parameter.requires_grad)
    ours = dict(dense.named_modules())
    for name, module in model.named_modules():
        if name in ours and isinstance(module, nn.Dropout | DropPath):
            dense.set_submodule(name, copy.deepcopy(module))
    tell_preprocessing(dense, known_preprocessing(model, spec.input_size))
    device = next(model.parameters()).device
    return dense.to(device).train(model.training)
