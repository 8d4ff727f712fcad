"""Putting what every trial reads into Ray's object store: once, one copy on each node."""

from dataclasses import dataclass
from typing import Any

import ray
from torch import nn

from slim import Architecture, MaskCheckpoint, ModelSpec
from slim.checkpoint import tensor_views
from slim.subnetwork import fill_subnetwork
from slim.tasks import Preprocessing, Task


@dataclass(frozen=True)
class Broadcast:
    """References to what was put; small, and sent with each trial.

    Args:
        checkpoint: The mask checkpoint's arrays by name.
        header: The mask checkpoint without its tensors.
        teacher: The dense model's arrays by name.
        task: The source task; its arrays are mapped, not copied.
        preprocessing: What the networks expect of an image.
    """

    checkpoint: ray.ObjectRef
    header: dict[str, Any]
    teacher: ray.ObjectRef
    task: ray.ObjectRef
    preprocessing: Preprocessing


def broadcast(
    checkpoint: MaskCheckpoint, teacher: nn.Module, task: Task, preprocessing: Preprocessing
) -> Broadcast:
    """Put the checkpoint, the dense model and the task into the object store."""
    return Broadcast(
        checkpoint=ray.put(checkpoint.to_arrays()),
        header=checkpoint.header(),
        teacher=ray.put({name: t.numpy() for name, t in teacher.state_dict().items()}),
        task=ray.put(task),
        preprocessing=preprocessing,
    )


def receive_checkpoint(shared: Broadcast) -> MaskCheckpoint:
    """Map the broadcast checkpoint: its tensors are views of the node's one copy."""
    return MaskCheckpoint.from_arrays(ray.get(shared.checkpoint), shared.header)


def receive_teacher(shared: Broadcast) -> nn.Module:
    """The dense model around the broadcast arrays; its weights are views too."""
    spec = ModelSpec.from_json(shared.header["spec"])
    state = tensor_views(ray.get(shared.teacher))
    teacher: nn.Module = fill_subnetwork(Architecture.dense(spec), state)
    return teacher.requires_grad_(False)
