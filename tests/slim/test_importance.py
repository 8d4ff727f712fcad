"""A score is what removing a position would cost, to first order."""

import pytest
import torch
from torch.nn import functional as F

from slim import SlimError, attach_masks, taylor
from tests.slim.families import dense, images, masked, spec_of


def batches(family: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    spec = spec_of(family)
    return [(images(spec, torch.float64, batch=4) * scale, torch.arange(4)) for scale in (1, 0.5)]


@pytest.mark.parametrize("family", ["vit", "siglip_prefix", "swin"])
def test_scores_are_the_slopes_of_the_loss_along_each_mask(family):
    model = masked(family, dtype=torch.float64)
    scores, live, step = taylor(model, batches(family)), model.live_masks(), 1e-6
    for dimension in ("tokens", "mhsa", "mlp") if live.tokens else ("mhsa", "mlp"):
        mask, score = getattr(live, dimension)[1], getattr(scores, dimension)[1]
        expected = torch.zeros(())
        for x, labels in batches(family):
            with torch.no_grad():
                before = F.cross_entropy(model(x), labels)
                value = mask.flatten()[1].clone()
                mask.view(-1)[1] += step * value
                expected = expected + (F.cross_entropy(model(x), labels) - before).abs() / step
                mask.view(-1)[1] = value
        torch.testing.assert_close(score.flatten()[1], expected.double(), rtol=1e-3, atol=1e-9)


def test_the_model_is_left_as_it_was():
    model = masked("vit", dtype=torch.float64).train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    taylor(model, batches("vit"))
    assert model.training
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_mask_of_0_is_worth_nothing():
    model = masked("vit", dtype=torch.float64)
    with torch.no_grad():
        model.live_masks().mlp[0][3] = 0.0
    assert taylor(model, batches("vit")).mlp[0][3] == 0


def test_no_images_are_refused():
    model = masked("vit", dtype=torch.float64)
    once = iter(batches("vit"))
    taylor(model, once)
    with pytest.raises(SlimError, match="no images to score masks with"):
        taylor(model, once)


def test_a_swin_has_no_token_masks_of_any_kind():
    swin = attach_masks(dense("swin", dtype=torch.float64), token_mask="tanh")
    assert taylor(swin, batches("swin")).mlp[0].any()
    with pytest.raises(SlimError, match="log, not tanh"):
        taylor(attach_masks(dense("vit", dtype=torch.float64), "tanh"), batches("vit"))
