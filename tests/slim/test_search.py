"""The search moves masks and weights together, each by its own rules."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from slim import MaskedVisionTransformer, attach_masks
from slim.evaluation import top1
from slim.masked_model import SMALLEST_TOKEN_MASK
from slim.recipe import Recipe
from slim.search import Penalty, penalty_of, search_training
from slim.training import Training, cross_entropy
from tests.slim.bars import (
    PREPROCESSING,
    a_batch,
    assert_equal,
    bars,
    copy_of,
    tiny_swin,
    tiny_vit,
)
from tests.slim.families import VITS, dense, images, spec_of

# 5 steps an epoch.
RECIPE = Recipe(epochs=1, batch_size=16, lr=1e-3, sched="constant", weight_decay=0.0)
LOWEST = float(torch.tensor(SMALLEST_TOKEN_MASK))  # in float32
NONE = Penalty(tokens=0.0, mhsa=0.0, mlp=0.0)
STEPS = 5


def tiny_masked(**changes) -> MaskedVisionTransformer:
    return attach_masks(tiny_vit(**changes))


def search(
    masked: MaskedVisionTransformer,
    recipe: Recipe = RECIPE,
    penalty: Penalty = NONE,
    mask_lr: float = 1e-2,
    **options,
) -> Training:
    return search_training(masked, bars(), PREPROCESSING, recipe, penalty, mask_lr, **options)


def no_loss(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """A loss of 0 whose gradients are 0: the penalty alone moves the masks."""
    return 0.0 * model(images).sum()


def weights_of(masked: MaskedVisionTransformer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in masked.dense_state().items()}


def whole_masks(masked: MaskedVisionTransformer) -> tuple[Tensor, Tensor, Tensor]:
    """The token, MHSA and MLP masks of all blocks in one tensor each."""
    masks = masked.masks()
    return torch.cat(masks.tokens), torch.cat(masks.mhsa), torch.cat(masks.mlp)


def spread_masks(masked: MaskedVisionTransformer) -> None:
    """Give every mask a value of its own."""
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for mask in masked.mask_parameters().values():
            mask.copy_(0.1 + 0.9 * torch.rand(mask.shape, generator=random))


# The penalty


@pytest.mark.parametrize(
    "penalty", [Penalty(), Penalty(1.0, 0.0, 0.0), Penalty(0.0, 2.0, 0.0), Penalty(0.0, 0.0, 3.0)]
)
def test_the_penalty_is_the_weighted_mean_of_the_masks(penalty):
    masked = tiny_masked(depth=3)
    spread_masks(masked)
    masks = masked.masks()
    by_hand = (
        penalty.tokens * sum(torch.cat(masks.tokens).tolist()) / (3 * 4)  # 3 blocks of 4 patches
        + penalty.mhsa * sum(torch.cat(masks.mhsa).flatten().tolist()) / (3 * 16)
        + penalty.mlp * sum(torch.cat(masks.mlp).tolist()) / (3 * 32)
    )
    assert float(penalty_of(masked, penalty).detach()) == pytest.approx(by_hand, rel=1e-5)


def test_fresh_masks_cost_the_sum_of_the_weights_whatever_the_model():
    for sizes in ({}, {"depth": 4}, {"embed_dim": 32, "patch_size": 2}):
        penalty = penalty_of(tiny_masked(**sizes), Penalty(0.1, 0.2, 0.4))
        assert float(penalty.detach()) == pytest.approx(0.7)


def test_the_default_weights_are_the_papers_on_the_sums_of_deit_small():
    blocks, patches, dims, units = 12, 196, 384, 1536
    assert Penalty().tokens == pytest.approx(1e-4 * blocks * patches, abs=0.005)
    assert Penalty().mhsa == pytest.approx(2e-4 * blocks * dims, abs=0.005)
    assert Penalty().mlp == pytest.approx(5e-5 * blocks * units, abs=0.005)


def test_every_mask_is_pulled_down_alike():
    masked = tiny_masked()
    spread_masks(masked)
    penalty_of(masked, Penalty(0.5, 0.6, 0.7)).backward()
    for block in masked.blocks:
        for mask, weight in (
            (block.token_mask, 0.5),
            (block.attn.mask, 0.6),
            (block.mlp.fc2.mask, 0.7),
        ):
            torch.testing.assert_close(
                mask.grad, torch.full_like(mask, weight / (2 * mask.numel()))
            )
    assert all(p.grad is None for n, p in masked.named_parameters() if not n.endswith("mask"))


@pytest.mark.parametrize("batch", [1, 4, 12])
def test_the_loss_is_the_objective_and_the_penalty_whatever_the_batch(batch):
    masked = tiny_masked()
    spread_masks(masked)
    pictures, labels = a_batch(batch)
    objective = search(masked, penalty=Penalty(0.5, 0.6, 0.7)).objective
    difference = objective(masked, pictures, labels) - cross_entropy(masked, pictures, labels)
    expected = penalty_of(masked, Penalty(0.5, 0.6, 0.7))
    torch.testing.assert_close(difference, expected, rtol=1e-4, atol=1e-5)


# The masks


@pytest.mark.parametrize("mask_lr", [1e-2, 0.5])
def test_masks_move_and_stay_where_they_mean_something(mask_lr):
    masked = tiny_masked()
    recipe = replace(RECIPE, epochs=3)
    for epoch in search(masked, recipe, Penalty(), mask_lr).epochs():
        tokens, mhsa, mlp = whole_masks(masked)
        assert math.isfinite(epoch.loss)
        assert float(tokens.min()) >= LOWEST
        for part in (tokens, mhsa, mlp):
            assert bool(part.isfinite().all())
            assert float(part.min()) >= 0
            assert float(part.max()) <= 1
    assert all(float(part.min()) < 0.95 for part in whole_masks(masked))


def test_masks_come_to_rank():
    masked = tiny_masked()
    list(search(masked, replace(RECIPE, epochs=3), Penalty()).epochs())
    for part in whole_masks(masked):
        assert len(part.unique()) > part.numel() // 2


def test_masks_stay_in_range_after_every_step():
    masked, ranges = tiny_masked(), []
    training = search(masked, penalty=Penalty(50.0, 50.0, 50.0), mask_lr=0.5)
    clamp = training.after_step

    def clamp_and_note() -> None:
        clamp()
        masks = masked.mask_parameters().values()
        ranges.extend((float(m.detach().min()), float(m.detach().max())) for m in masks)

    training.after_step = clamp_and_note
    list(training.epochs())
    assert len(ranges) == STEPS * 3 * 2
    assert min(low for low, _ in ranges) == 0
    assert max(high for _, high in ranges) <= 1
    assert float(torch.cat(masked.masks().tokens).min()) == LOWEST


def test_masks_have_a_learning_rate_of_their_own():
    masked = tiny_masked()
    before = weights_of(masked)
    training = search(masked, penalty=Penalty(), mask_lr=0.03, objective=no_loss)
    training.step(*a_batch(), update=1)
    for part in whole_masks(masked):  # Adam's first step is the learning rate
        torch.testing.assert_close(part, torch.full_like(part, 0.97), rtol=0, atol=1e-4)
    assert_equal(weights_of(masked), before)


def test_the_masks_learning_rate_follows_the_schedule():
    rates: list[tuple[float, float]] = []
    recipe = replace(RECIPE, epochs=2, sched="cosine", lr=1e-3)
    training = search(tiny_masked(), recipe, mask_lr=0.03)
    for update in range(1, 11):
        training.step(*a_batch(), update=update)
        first, *_, last = (group["lr"] for group in training.optimizer.param_groups)
        rates.append((first, last))
    shape = [0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10)]
    assert [weight for weight, _ in rates] == pytest.approx([1e-3 * s for s in shape])
    assert [mask for _, mask in rates] == pytest.approx([0.03 * s for s in shape])


def test_the_weights_groups_hold_no_mask_and_the_masks_group_no_weight():
    masked = tiny_masked()
    training = search(masked, replace(RECIPE, weight_decay=0.1), mask_lr=0.03)
    *weights, masks = training.optimizer.param_groups
    ids = {id(mask) for mask in masked.mask_parameters().values()}
    assert {id(p) for p in masks["params"]} == ids
    assert (masks["lr"], masks["weight_decay"]) == (0.03, 0.0)
    others = [id(p) for group in weights for p in group["params"]]
    assert len(others) == len(set(others))
    assert set(others) == {id(p) for p in masked.parameters()} - ids
    assert all(p.requires_grad for p in masked.parameters())


def test_weight_decay_leaves_masks_norms_biases_and_embeddings_alone():
    masked = tiny_masked()
    spread_masks(masked)
    before = copy_of(masked)
    recipe = replace(RECIPE, weight_decay=0.5, lr=1e-2)
    list(search(masked, recipe, objective=no_loss).epochs())
    for name, tensor in masked.state_dict().items():
        matrix = name.endswith("weight") and "norm" not in name
        factor = (1 - 1e-2 * 0.5) ** STEPS if matrix else 1.0
        torch.testing.assert_close(tensor, before[name] * factor)


def test_without_penalty_and_learning_rate_masks_stay_near_1():
    masked = tiny_masked()
    list(search(masked, mask_lr=1e-7).epochs())
    for part in whole_masks(masked):
        torch.testing.assert_close(part, torch.ones_like(part), rtol=0, atol=1e-5)


def test_a_heavier_penalty_leaves_smaller_masks():
    def mean_of(weight: float) -> float:
        masked = tiny_masked()
        list(search(masked, replace(RECIPE, epochs=3), Penalty(0.0, 0.0, weight)).epochs())
        return float(torch.cat(masked.masks().mlp).mean())

    assert mean_of(5.0) < mean_of(0.0) - 0.05


@pytest.mark.parametrize("family", VITS)
def test_prefix_tokens_carry_no_mask(family):
    masked, spec = attach_masks(dense(family)), spec_of(family)
    assert [len(mask) for mask in masked.masks().tokens] == [spec.num_patches] * spec.depth
    with torch.no_grad():
        for block in masked.blocks:
            block.token_mask.fill_(SMALLEST_TOKEN_MASK)
            prefix = block.log_token_mask()[: spec.num_prefix_tokens]
            assert prefix.tolist() == [0.0] * spec.num_prefix_tokens
    assert bool(masked(images(spec)).isfinite().all())


# Swin


def test_a_swin_is_searched_over_dimensions_and_units_alone():
    masked = attach_masks(tiny_swin())
    spread_masks(masked)
    masks = masked.masks()
    mhsa = torch.cat([mask.flatten() for mask in masks.mhsa])  # 2 blocks of 16, 1 of 32
    by_hand = 2.0 * float(mhsa.mean()) + 3.0 * float(torch.cat(masks.mlp).mean())
    penalty = penalty_of(masked, Penalty(1.0, 2.0, 3.0))
    assert float(penalty.detach()) == pytest.approx(by_hand, rel=1e-5)


def test_a_swin_learns_while_its_masks_move():
    masked = attach_masks(tiny_swin())
    recipe = replace(RECIPE, epochs=6, lr=1e-2, drop_path=0.1)
    epochs = list(search(masked, recipe, Penalty()).epochs())
    assert epochs[-1].val_top1 == 100.0
    masks = masked.masks()
    for mask in masks.mhsa + masks.mlp:
        assert 0 <= float(mask.min()) < 0.95
        assert float(mask.max()) <= 1
    rates = [block.drop_path2.drop_prob for block in masked.blocks]
    assert rates == pytest.approx([0.0, 0.05, 0.1])


# The training


def test_the_search_keeps_the_task_learned():
    masked = tiny_masked()
    epochs = list(search(masked, replace(RECIPE, epochs=6, lr=1e-2), Penalty()).epochs())
    assert epochs[-1].val_top1 == 100.0
    assert epochs[-1].loss < epochs[0].loss


def test_the_average_that_is_kept_covers_the_masks():
    decay, steps = 0.6, []
    masked = tiny_masked()
    training = search(masked, replace(RECIPE, epochs=2, ema_decay=decay), Penalty(), 0.05)
    clamp = training.after_step

    def clamp_and_note() -> None:
        clamp()
        steps.append(copy_of(masked))

    training.after_step = clamp_and_note
    epochs = list(training.epochs())
    average = steps[0]
    for state in steps[1:]:
        average = {name: decay * average[name] + (1 - decay) * state[name] for name in state}
    kept = training.evaluated
    assert isinstance(kept, MaskedVisionTransformer)
    torch.testing.assert_close(copy_of(kept), average, rtol=1e-5, atol=1e-6)
    ours, theirs = (torch.cat(model.masks().mhsa) for model in (kept, masked))
    assert float(ours.mean()) > float(theirs.mean())  # it lags behind
    assert epochs[-1].val_top1 == top1(kept, bars(), "val", PREPROCESSING)


def test_a_resumed_search_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path):
    recipe = replace(RECIPE, epochs=3, ema_decay=0.7, mixup=0.3, drop_path=0.3, sched="cosine")
    state = tmp_path / "search.pt"

    def start(seed: int) -> Training:
        return search(tiny_masked(seed=seed, drop_rate=0.1), recipe, Penalty(), 0.05, seed=4)

    whole = start(0)
    list(whole.epochs())
    next(start(0).resumable_epochs(state))
    resumed = start(1)
    assert [epoch.epoch for epoch in resumed.resumable_epochs(state)] == [2, 3]
    assert_equal(copy_of(resumed.model), copy_of(whole.model))
    assert_equal(copy_of(resumed.evaluated), copy_of(whole.evaluated))


def test_masks_that_are_frozen_stay_so():
    masked = tiny_masked()
    frozen = masked.live_masks().tokens
    with torch.no_grad():
        for mask in frozen:
            mask.fill_(0.7).requires_grad_(False)
    training = search(masked, RECIPE, mask_lr=0.03)
    for _ in training.epochs():
        pass
    live = masked.live_masks()
    assert all(bool((mask == 0.7).all()) for mask in live.tokens)
    assert not any(mask.requires_grad for mask in live.tokens)
    assert all(bool((mask != 1).any()) for mask in live.mlp)
