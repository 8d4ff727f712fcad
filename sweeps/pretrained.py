"""What pretrained weights are trained by, where nothing else is given.

The defaults suit a small ViT from fresh weights; they would undo a pretraining. In their place
come AdamW and rates that are usual where a pretrained ViT is fine-tuned in batches of 64; no sweep
has measured them here.
"""

from collections.abc import Set
from dataclasses import replace
from typing import Any

import timm

from sweeps.config import SweepConfig

_USUAL: dict[str, dict[str, Any]] = {
    "dense": {"opt": "adamw", "lr": 1e-4},
    "search": {"lr": 5e-5},
    "share": {"lr": 1e-4},
    "finetune": {"opt": "adamw", "lr": 1e-4},
    "transfer": {"lr": 1e-4},
}


def suited(config: SweepConfig, given: Set[str]) -> SweepConfig:
    """The experiment with optimizers and learning rates that suit its model.

    Args:
        config: The experiment.
        given: Dotted names of the values that the user gave, which stay.
    """
    if not is_pretrained(config):
        return config
    changes = {}
    for stage, usual in _USUAL.items():
        missing = {name: value for name, value in usual.items() if f"{stage}.{name}" not in given}
        changes[stage] = replace(getattr(config, stage), **missing)
    return replace(config, **changes)


def is_folder(model: str) -> bool:
    """Whether a model is a saved network, named by its folder's absolute path."""
    return "/" in model


def is_pretrained(config: SweepConfig) -> bool:
    """Whether it names one of timm's models whose weights are loaded, from a file or the hub."""
    if config.model == "vit" or is_folder(config.model):
        return False
    return config.weights is not None or (
        config.pretrained and timm.is_model_pretrained(config.model)
    )
