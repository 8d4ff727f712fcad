"""How good a network is on a split."""

import torch
from torch import nn

from slim.tasks import Preprocessing, Task


@torch.no_grad()
def top1(
    model: nn.Module,
    task: Task,
    split: str,
    preprocessing: Preprocessing,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> float:
    """Top-1 accuracy in percent, 0 to 100; the model is left in the mode it came in."""
    was_training = model.training
    model.eval()
    right = total = 0
    for images, labels in task.eval_batches(split, preprocessing, batch_size):
        predicted = model(images.to(device)).argmax(dim=-1).cpu()
        right += int((predicted == labels).sum())
        total += len(labels)
    model.train(was_training)
    return 100.0 * right / total
