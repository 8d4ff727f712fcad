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
        soft = soft_outputs(teacher, images, temperature)
        return mixed_loss(model(images), targets, soft, weight, temperature)

    return objective


@torch.no_grad()
def soft_outputs(teacher: nn.Module, images: Tensor, temperature: float) -> Tensor:
    """A teacher's log-probabilities (B, classes) at a temperature."""
    return F.log_softmax(teacher(images).float() / temperature, dim=-1)


def mixed_loss(
    logits: Tensor, targets: Tensor, soft: Tensor, weight: float, temperature: float
) -> Tensor:
    """The loss of `distill_from`.

    Args:
        logits: Of the student, (B, classes).
        targets: Labels (B,) or distributions (B, classes).
        soft: What `soft_outputs` gave.
        weight: Share of the divergence.
        temperature: That of `soft`.
    """
    student = F.log_softmax(logits.float() / temperature, dim=-1)
    divergence = F.kl_div(student, soft, reduction="batchmean", log_target=True)
    return (1 - weight) * F.cross_entropy(logits, targets) + (weight * temperature**2 * divergence)
