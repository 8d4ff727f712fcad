"""The first stage: the dense model, loaded or trained."""

import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import load_state_dict
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import slim
from slim.evaluation import top1
from slim.processes import Processes
from slim.spec import read_spec
from slim.tasks import Preprocessing, Task
from slim.training import Epoch, Training
from sweeps.config import SweepConfig, dense_epochs
from sweeps.course import course
from sweeps.errors import InputError
from sweeps.pretrained import is_folder, is_pretrained
from sweeps.worker import worker_device


def make_dense(config: SweepConfig, task: Task, weights: bool = True) -> nn.Module:
    """Build or load the dense model for a task.

    Args:
        config: Names the model.
        task: Must fit it, or be trained for.
        weights: Whether pretrained weights are loaded; a plan does without.

    Raises:
        InputError: If the model is unknown, cannot be slimmed, or does not fit.
    """
    try:
        if config.model == "vit":
            model = _fresh(config, task)
        elif is_folder(config.model):
            if not Path(config.model).is_dir():
                raise InputError(
                    f"model folder {config.model} does not exist; give a saved network"
                )
            model = slim.masks.as_timm(slim.load(config.model)).float()
            _check_fits(config, model, task)
        else:
            model = slim.masks.as_timm(_named(config, task, weights))
        read_spec(model)
    except slim.SlimError as error:
        raise InputError(f"model {config.model}: {error}") from error
    return model


def has_other_images(folder: Path, task: Task) -> bool:
    """Whether a task's images are not those that the dense model in a folder was made for.

    Raises:
        FileFormatError: If the model is damaged.
    """
    seen = slim.serving.load_about(folder).get("data")
    return bool(seen != json.loads(json.dumps(task.fingerprint())))


def preprocessing_for(config: SweepConfig, model: nn.Module, task: Task) -> Preprocessing:
    """What the model expects of an image: its own convention, else the task's statistics."""
    spec = read_spec(model)
    if is_folder(config.model):
        about = slim.serving.load_about(config.model)
        if "preprocessing" in about:
            return Preprocessing.from_json(about["preprocessing"])
    if config.model == "vit" or is_folder(config.model) or spec.in_chans != 3:
        mean, std = task.statistics()
        return Preprocessing(spec.input_size, mean, std)
    data = resolve_model_data_config(model)
    return Preprocessing(
        input_size=spec.input_size,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation=data["interpolation"],
        crop_pct=data["crop_pct"],
        crop_mode=data["crop_mode"],
    )


def saved_preprocessing(folder: Path) -> Preprocessing:
    """What a saved network expects of an image."""
    return Preprocessing.from_json(slim.serving.load_about(folder)["preprocessing"])


def train_dense(config: SweepConfig, task: Task, folder: Path, state: Path) -> Iterator[Epoch]:
    """Load or train the dense model and save it, with an `Epoch` after each epoch.

    Args:
        config: The experiment.
        task: The source task.
        folder: Where the model is saved.
        state: File of the training's state, for resuming.
    """
    device, processes = worker_device(), Processes.current()
    torch.manual_seed(config.seed)
    model = make_dense(config, task)
    preprocessing = preprocessing_for(config, model, task)
    recipe = replace(config.dense, epochs=dense_epochs(config)).recipe(processes.world_size)
    if recipe.epochs:
        training = Training(model, task, preprocessing, recipe, seed=config.seed, device=device)
        yield from course(training, state)
        model, accuracy = training.evaluated, training.history[-1].val_top1
    else:
        seen = (task, "val", preprocessing)
        accuracy = top1(
            model.to(device), *seen, device=device, processes=processes, amp=recipe.amp
        )
    about: dict[str, Any] = {
        "preprocessing": preprocessing.to_json(),
        "data": task.fingerprint(),
        "class_names": list(task.classes),
    }
    if processes.rank == 0:
        slim.save(model, folder, about | {"val_top1": accuracy})
    if not recipe.epochs:
        yield Epoch(0, float("nan"), accuracy, 0.0)


def _fresh(config: SweepConfig, task: Task) -> nn.Module:
    vit = config.vit
    if vit.img_size % vit.patch_size or vit.embed_dim % vit.num_heads:
        raise InputError(
            f"--vit.patch_size {vit.patch_size} must divide --vit.img_size {vit.img_size}, and "
            f"--vit.num_heads {vit.num_heads} must divide --vit.embed_dim {vit.embed_dim}"
        )
    return VisionTransformer(
        img_size=vit.img_size,
        patch_size=vit.patch_size,
        in_chans=task.channels,
        num_classes=task.num_classes,
        embed_dim=vit.embed_dim,
        depth=vit.depth,
        num_heads=vit.num_heads,
        mlp_ratio=vit.mlp_ratio,
        class_token=vit.class_token,
        global_pool="token" if vit.class_token else "avg",
    )


def _named(config: SweepConfig, task: Task, weights: bool) -> nn.Module:
    """A model of timm by name, with weights from its hub or a local file."""
    name = config.model
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise InputError(
            f"unknown model {name!r}, expected `vit`, a timm ViT or Swin, or a folder{hint}"
        )
    if config.weights is not None and not Path(config.weights).is_file():
        raise InputError(f"weights file {config.weights} does not exist; check --weights")
    overlay = None
    try:
        with torch.device("meta"):
            read_spec(timm.create_model(name))  # can be slimmed, whatever its classes
        has_weights = is_pretrained(config)
        classes = timm.get_pretrained_cfg(name).num_classes
        if config.weights is not None:
            classes = _classes_of(config.weights) or task.num_classes
            overlay = {"file": config.weights, "num_classes": classes}
        if not dense_epochs(config):
            _check_loadable(config, task, has_weights, classes)
        model: nn.Module = timm.create_model(
            name,
            pretrained=has_weights and (weights or config.weights is not None),
            num_classes=task.num_classes,
            pretrained_cfg_overlay=overlay,
        )
    except (InputError, slim.SlimError):
        raise
    except Exception as error:  # hub, network, file and architecture errors of many kinds
        line = textwrap.shorten(str(error), 200, placeholder=" ...")
        if config.weights is not None:
            raise InputError(
                f"weights file {config.weights} cannot be loaded into model {name}: "
                f"{_why_unreadable(line)}"
            ) from error
        raise InputError(
            f"model {name} cannot be loaded: {line}; give its weights by --weights FILE"
        ) from error
    return model


def _why_unreadable(line: str) -> str:
    """What is wrong with a file of weights, given what torch or timm says, and what to do."""
    if "weights_only" in line:
        return "it holds more than tensors; give safetensors or a state dict"
    if re.search(r"Missing key|Unexpected key|size mismatch|is invalid for input of size", line):
        return f"it is of another architecture ({line}); give the weights of this model"
    return f"{line or 'it is empty'}; give safetensors or a state dict"


def _classes_of(weights: str) -> int | None:
    """How many classes the head in a file of weights has; None if it has no head."""
    state = load_state_dict(weights, weights_only=True)
    heads = [state[name] for name in ("head.weight", "head.fc.weight") if name in state]
    return len(heads[0]) if heads else None


def _check_loadable(config: SweepConfig, task: Task, has_weights: bool, classes: int) -> None:
    """A model that is only loaded needs weights, and a head for the task's classes."""
    if not has_weights:
        raise InputError(
            f"model {config.model} has no pretrained weights to load; give --weights FILE, or "
            "--dense.epochs to train it"
        )
    if classes != task.num_classes:
        raise InputError(
            f"model {config.model} has {classes} classes but data {task.name} has "
            f"{task.num_classes}; give --dense.epochs to train a new head on it"
        )


def _check_fits(config: SweepConfig, model: nn.Module, task: Task) -> None:
    """A saved network must have the task's classes and channels."""
    spec = read_spec(model)
    if spec.num_classes != task.num_classes:
        raise InputError(
            f"model {config.model} has {spec.num_classes} classes but data {task.name} has "
            f"{task.num_classes}; give a network saved for this data"
        )
    if spec.in_chans != task.channels:
        raise InputError(
            f"model {config.model} takes {spec.in_chans} channels but data {task.name} has "
            f"{task.channels}; give a network saved for this data"
        )
