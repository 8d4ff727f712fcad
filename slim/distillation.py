"""Learning from the dense model's outputs."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slim.training import Objective


def distill_from(teacher: nn.Module, weight: float, temperature: float) -> Objective:
    """Mix the classification loss with the divergence from a teacher's soft outputs.

    Args:
        teacher: Put in eval mode; evaluated without gradient on the same images.
        weight: Share of the divergence, 0 to 1; the rest is the classification loss.
        temperature: Both outputs are divided by it before the softmax (Hinton et al.,
            arXiv 1503.02531); the divergence is multiplied by its square.
    """
    teacher = teacher.eval()

    def objective(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        logits = model(images)
        with torch.no_grad():
            soft = F.log_softmax(teacher(images).float() / temperature, dim=-1)
        student = F.log_softmax(logits.float() / temperature, dim=-1)
        divergence = F.kl_div(student, soft, reduction="batchmean", log_target=True)
        return (1 - weight) * F.cross_entropy(logits, targets) + (
            weight * temperature**2 * divergence
        )

    return objective
