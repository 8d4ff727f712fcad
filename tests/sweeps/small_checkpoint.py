"""A small model with made-up masks, as a search would leave it, for tests of what comes after."""

import torch
from timm.models.vision_transformer import VisionTransformer

import slim
from slim.ranking import Scores
from sweeps.config import SweepConfig
from sweeps.space import BudgetSpace


def searched_checkpoint(seed: int = 0) -> slim.MaskCheckpoint:
    """16 tokens, 3 blocks, 2 heads of 8 dimensions, 64 MLP units; uneven masks."""
    torch.manual_seed(seed)
    vit = VisionTransformer(
        img_size=8,
        patch_size=2,
        in_chans=1,
        num_classes=10,
        embed_dim=16,
        depth=3,
        num_heads=2,
        class_token=False,
        global_pool="avg",
    )
    masked = slim.attach_masks(vit)
    for name, parameter in masked.named_parameters():
        if "mask" in name:
            parameter.data.uniform_(0.1, 1)
    return slim.MaskCheckpoint.from_model(masked)


def space_of(config: SweepConfig) -> BudgetSpace:
    """The space of the small model."""
    checkpoint = searched_checkpoint()
    scores: Scores = checkpoint.ranking
    return BudgetSpace(config, checkpoint.spec, scores)
