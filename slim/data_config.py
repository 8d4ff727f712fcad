"""What timm's `resolve_model_data_config` is told of a network, kept from the dense model on."""

from typing import Any

from torch import nn

from slim.errors import FileFormatError
from slim.tasks.task import Preprocessing


def known_preprocessing(model: Any, input_size: tuple[int, int, int]) -> Preprocessing | None:
    """What a timm model's `pretrained_cfg` says that it expects of an image.

    Args:
        model: Dense or slim.
        input_size: Of its images (C, H, W), whatever it was trained on.

    Returns:
        None where the model has no such configuration, or one that does not suit its channels.
    """
    told = getattr(model, "pretrained_cfg", None)
    if not told:
        return None
    names = ("mean", "std", "interpolation", "crop_pct")
    values = {name: told.get(name) for name in names}
    mode = told.get("crop_mode") or "center"
    return readable(values | {"crop_mode": mode, "input_size": input_size})


def readable(values: Any) -> Preprocessing | None:
    """Preprocessing from JSON values; None where they are something else."""
    try:
        return Preprocessing.from_json(values)
    except FileFormatError:
        return None


def tell_preprocessing(vit: nn.Module, preprocessing: Preprocessing | None) -> nn.Module:
    """Give a network the configuration in which timm looks for it; the same network."""
    network: Any = vit
    if preprocessing is not None:
        network.pretrained_cfg = vars(preprocessing).copy()
    return vit
