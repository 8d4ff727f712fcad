"""How good a network is on a split."""

import torch
from torch import nn

from slim.modes import autocast, evaluating
from slim.processes import Processes
from slim.tasks import Preprocessing, Task

ALONE = Processes()


@torch.no_grad()
def top1(
    model: nn.Module,
    task: Task,
    split: str,
    preprocessing: Preprocessing,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    processes: Processes = ALONE,
    amp: str = "none",
    most: int | None = None,
) -> float:
    """Top-1 accuracy in percent, 0 to 100; the model is left in the mode it came in.

    Args:
        model: On `device`.
        task: The data.
        split: Of the task.
        preprocessing: What the model expects of an image.
        batch_size: Images at a time and process.
        device: Where.
        processes: Share the split's images; each gets the accuracy on all of them.
        amp: Type of autocast, as in a `Recipe`.
        most: Images at most, drawn by chance, the same for every network; None for all.
    """
    right = torch.zeros((), dtype=torch.int64, device=device)
    total = 0
    batches = task.eval_batches(
        split, preprocessing, batch_size, processes.rank, processes.world_size, device, most
    )
    with evaluating(model):
        for images, labels in batches:
            with autocast(device, amp):
                predicted = model(images).argmax(dim=-1)
            right += (predicted == labels).sum()
            total += len(labels)
    all_right, all_images = processes.sums([float(right), float(total)], device)
    return 100.0 * all_right / all_images
