"""What each mask position is worth to the loss: a ranking beside the masks' own values."""

from collections.abc import Iterable

import torch
from torch import Tensor

from slim.errors import SlimError
from slim.masked_model import MaskedModel
from slim.modes import evaluating
from slim.ranking import Scores
from slim.training import Objective, cross_entropy


def taylor(
    masked: MaskedModel,
    batches: Iterable[tuple[Tensor, Tensor]],
    objective: Objective = cross_entropy,
) -> Scores:
    """First-order estimate of how much the loss changes when a position is removed.

    The score of a mask z is the sum over batches of `|z * dL/dz|` (Molchanov et al.,
    arXiv 1906.10771, the gates of its section 3.2), the model in eval mode.

    Args:
        masked: With masks at 1 or as a search left them; left as it was.
        batches: Images (B, C, H, W) and labels (B,).
        objective: The loss.

    Raises:
        SlimError: If the token masks are tanh of their parameters, or there are no batches.
    """
    live = masked.live_masks()
    if live.tokens and masked.token_mask_kind == "tanh":
        raise SlimError("Taylor scores need token masks of the kind log, not tanh")
    masks = [*live.tokens, *live.mhsa, *live.mlp]
    totals = [torch.zeros_like(mask) for mask in masks]
    seen = 0
    with evaluating(masked):
        for images, labels in batches:
            images, labels = images.to(masks[0].device), labels.to(masks[0].device)
            gradients = torch.autograd.grad(objective(masked, images, labels), masks)
            for total, mask, gradient in zip(totals, masks, gradients, strict=True):
                total += (mask.detach() * gradient).abs()
            seen += len(images)
    if not seen:
        raise SlimError(
            "there are no images to score masks with; give some, anew for each call where they "
            "come from a generator"
        )
    scores = iter(totals)
    return live.map(lambda _: next(scores))
