"""The token masks of the paper, tanh of a parameter times the patch, mean the same once hard."""

import math

import pytest
import torch

from slim import SlimError, attach_masks, taylor
from slim.search import Penalty, penalty_of
from slim.vit.stream import branch, embed
from tests.slim.architectures import uneven
from tests.slim.families import dense, images


@pytest.mark.parametrize("family", ["vit", "dinov2_registers", "avg_prefix"])
def test_the_papers_token_masks_scale_patches_and_mean_the_same_once_hard(family):
    source = attach_masks(dense(family), token_mask="tanh")
    values = source.masks().tokens
    assert all(torch.equal(value, torch.full_like(value, 3.0).tanh()) for value in values)
    architecture, x = uneven(source.spec), images(source.spec)
    hard = attach_masks(dense(family)).harden(architecture)
    with torch.no_grad():
        torch.testing.assert_close(source.harden(architecture)(x), hard(x))


def test_repair_follows_a_model_with_the_papers_token_masks():
    model = attach_masks(dense("vit", dtype=torch.float64), token_mask="tanh")
    with torch.no_grad():
        for block in model.blocks:
            block.token_mask.copy_(torch.linspace(-1, 2, len(block.token_mask)))
    x = images(model.spec, torch.float64, batch=8)
    stream = embed(model.vit, x)
    for block in model.blocks:
        after = stream + branch(block, "attn", stream)
        after = after + branch(block, "mlp", after)
        torch.testing.assert_close(after, block(stream))
        stream = after


def test_masks_of_the_papers_kind_are_neither_set_nor_scored():
    model = attach_masks(dense("vit"), token_mask="tanh")
    with pytest.raises(SlimError, match="log"):
        model.set_masks(model.masks())
    with pytest.raises(SlimError, match="log"):
        taylor(model, [])


def test_the_papers_token_masks_are_penalised_by_their_tanh_and_not_clamped():
    model = attach_masks(dense("vit"), token_mask="tanh")
    penalty = penalty_of(model, Penalty(tokens=1.0, mhsa=0.0, mlp=0.0))
    assert float(penalty.detach()) == pytest.approx(math.tanh(3.0))
    penalty.backward()
    slope = model.vit.blocks[0].token_mask.grad * model.spec.depth * model.spec.num_patches
    torch.testing.assert_close(slope, torch.full_like(slope, 1 - math.tanh(3.0) ** 2))
    model.clamp_masks()
    assert bool((model.vit.blocks[0].token_mask == 3.0).all())
