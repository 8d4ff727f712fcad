"""Weight sharing: full-size weights of which the subnetwork of every budget is a slice."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import checkpoint as recomputation

from slim.architecture import Architecture
from slim.budget import Budget
from slim.checkpoint import MaskCheckpoint
from slim.distillation import mixed_loss, soft_outputs
from slim.extraction import cut, extract
from slim.ranking import Scores, select
from slim.subnetwork import build_subnetwork
from slim.training import Objective


class SharedModel(nn.Module):
    """A searched model, masks folded into its weights, that runs as any of its subnetworks.

    The weights of a subnetwork are sliced inside the step, so a step costs what its subnetworks
    cost, and gradients flow back to the shared weights; nothing full-size is masked. Stochastic
    depth is the full-size network's alone. Where blocks are computed again for their gradients
    (`grad_checkpointing`), a subnetwork is computed again as a whole.

    Args:
        checkpoint: The searched model; its ranking stays, in the precision of the weights, so the
            subnetworks are nested.
    """

    def __init__(self, checkpoint: MaskCheckpoint) -> None:
        super().__init__()
        self.spec = checkpoint.spec
        weights = next(iter(checkpoint.weights.values()))
        self.ranking = checkpoint.ranking.map(lambda score: score.to(weights.dtype))
        self.preprocessing = checkpoint.preprocessing
        self.vit: Any = extract(checkpoint, Architecture.dense(checkpoint.spec))

    def forward(
        self, images: Tensor, architectures: Sequence[Architecture] | None = None
    ) -> Tensor:
        """Classify images (B, C, H, W).

        Returns:
            Logits (B, classes) of the full-size network, or (architectures, B, classes).
        """
        if architectures is None:
            logits: Tensor = self.vit(images)
            return logits
        run = self._run_again if self._recomputes() else self._run
        return torch.stack([run(architecture, images) for architecture in architectures])

    def select(self, budget: Budget) -> Architecture:
        """A budget's architecture, by the ranking of the search."""
        return select(self.spec, self.ranking, budget)

    def checkpoint(
        self, data: dict[str, Any] | None = None, metrics: dict[str, Any] | None = None
    ) -> MaskCheckpoint:
        """The weights as they stand, under the ranking of the search; copied to the CPU."""
        weights = {name: t.detach().cpu().clone() for name, t in self.vit.state_dict().items()}
        return replace(
            self._with_weights(weights),
            scores=self.ranking,
            data=data or {},
            metrics=metrics or {},
            preprocessing=self.preprocessing,
        )

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's optimizers give no weight decay, as its models tell."""
        return {f"vit.{name}" for name in self.vit.no_weight_decay()}

    def _recomputes(self) -> bool:
        """Whether blocks keep their inputs only, as timm's `set_grad_checkpointing` asks."""
        asked = any(getattr(each, "grad_checkpointing", False) for each in self.vit.modules())
        return asked and torch.is_grad_enabled()

    def _run_again(self, architecture: Architecture, images: Tensor) -> Tensor:
        """`_run`, computed again for the gradients; the full-size network does so itself."""
        if architecture.is_dense:
            return self._run(architecture, images)
        logits: Tensor = recomputation.checkpoint(
            self._run, architecture, images, use_reentrant=False
        )
        return logits

    def _run(self, architecture: Architecture, images: Tensor) -> Tensor:
        """The logits of one subnetwork: (B, classes)."""
        if architecture.is_dense:
            logits: Tensor = self.vit(images)
            return logits
        with torch.device("meta"):
            skeleton = build_subnetwork(architecture).train(self.training)
        tensors = cut(self._with_weights(dict(self.vit.named_parameters())), architecture)
        tensors |= {name: t.to(images.device) for name, t in skeleton.named_buffers()}
        logits = torch.func.functional_call(skeleton, tensors, (images,))
        return logits

    def _with_weights(self, weights: dict[str, Tensor]) -> MaskCheckpoint:
        """A checkpoint around weights into which the masks are folded already."""
        first = next(iter(weights.values()))
        ones = Scores.fill(
            self.spec, lambda shape: torch.ones(shape, device=first.device, dtype=first.dtype)
        )
        return MaskCheckpoint(self.spec, weights, ones)


def sandwich(
    teacher: nn.Module,
    smallest: Budget,
    networks: int = 1,
    weight: float = 0.9,
    temperature: float = 2.0,
) -> Objective:
    """The loss of a weight-shared step: the largest, the smallest and random networks between.

    The sandwich rule is that of Yu & Huang (arXiv 1903.05134); the budgets between are uniform in
    each dimension. All networks learn from the labels and the teacher as in `distill_from`.

    Args:
        teacher: Put in eval mode; evaluated once a step.
        smallest: The smallest budget of each dimension.
        networks: Random networks in each step.
        weight: Share of the divergence from the teacher, 0 to 1.
        temperature: See `distill_from`.

    Returns:
        An objective for a `SharedModel`: the mean over the networks.
    """
    teacher = teacher.eval()

    def objective(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        shared: Any = getattr(model, "module", model)
        budgets = [smallest, *random_budgets(smallest, networks)]
        architectures = [shared.select(budget) for budget in budgets]
        logits = model(images, [Architecture.dense(shared.spec), *architectures])
        soft = soft_outputs(teacher, images, temperature)
        losses = [mixed_loss(each, targets, soft, weight, temperature) for each in logits]
        return torch.stack(losses).mean()

    return objective


def random_budgets(smallest: Budget, count: int) -> list[Budget]:
    """Budgets between the smallest and the dense one, uniform in each dimension.

    They are drawn from numpy's global generator, which a training sets alike in all processes
    (`slim.seeds.seed_alike`) and for all parts of a step.
    """
    lowest = np.array([smallest.tokens, smallest.mhsa, smallest.mlp])
    between = lowest + (1 - lowest) * np.random.rand(count, 3)
    return [Budget(*draw) for draw in between.tolist()]
