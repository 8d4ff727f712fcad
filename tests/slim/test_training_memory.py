"""What saves memory changes nothing else: parts of a batch, and blocks computed again."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slim import DivergenceError, RecipeError, UnsupportedModelError
from slim.recipe import Recipe
from slim.search import Penalty, search_training
from slim.training import Training, cross_entropy
from tests.slim.bars import PREPROCESSING, a_batch, assert_equal, bars, copy_of, tiny_vit
from tests.slim.trainings import FULL, PLAIN, STEPS, Seen, networks, training_of

# SGD: Adam would hide a gradient that is too large by a factor.
SGD = replace(PLAIN, opt="sgd", lr=0.1)
CLIPPED = replace(SGD, clip_grad=0.05)
MIXED = replace(SGD, mixup=0.5, cutmix=0.5, label_smoothing=0.1, ema_decay=0.5)


def trained(recipe: Recipe, network: str = "dense") -> Training:
    training = training_of(networks()[network], recipe)
    list(training.epochs())
    return training


def assert_close(ours: Training, theirs: Training) -> None:
    torch.testing.assert_close(copy_of(ours.model), copy_of(theirs.model), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        copy_of(ours.evaluated), copy_of(theirs.evaluated), rtol=1e-4, atol=1e-5
    )
    assert ours.history[0].loss == pytest.approx(theirs.history[0].loss, rel=1e-4)


# Parts of a batch


@pytest.mark.parametrize("parts", [2, 3, 16])
@pytest.mark.parametrize("recipe", [SGD, CLIPPED, MIXED], ids=["plain", "clipped", "mixed"])
def test_a_batch_in_parts_takes_the_same_step(recipe, parts):
    assert_close(trained(replace(recipe, accumulation=parts)), trained(recipe))


@pytest.mark.parametrize("network", ["masked", "small"])
def test_every_network_learns_the_same_in_parts(network):
    assert_close(trained(replace(SGD, accumulation=4), network), trained(SGD, network))


def test_the_penalty_of_a_search_is_that_of_one_step_whatever_the_parts():
    def searched(parts: int) -> dict[str, Tensor]:
        masked, recipe = networks()["masked"], replace(SGD, accumulation=parts)
        penalty = Penalty(5.0, 5.0, 5.0)
        list(search_training(masked, bars(), PREPROCESSING, recipe, penalty, 0.2).epochs())
        return copy_of(masked)

    torch.testing.assert_close(searched(3), searched(1), rtol=1e-4, atol=1e-5)


def test_the_network_sees_a_part_at_a_time_and_steps_once_a_batch():
    seen, steps = Seen(), []
    recipe = replace(PLAIN, accumulation=3)
    list(training_of(recipe=recipe, objective=seen, after_step=lambda: steps.append(0)).epochs())
    assert [len(images) for images in seen.images] == [6, 5, 5] * STEPS
    assert len(steps) == STEPS


def test_scaled_gradients_are_unscaled_once_before_they_are_clipped():
    model, norms = tiny_vit(), []

    def note() -> None:
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        norms.append(float(torch.cat(grads).norm()))

    recipe = replace(CLIPPED, amp="float16", accumulation=4)
    list(training_of(model, recipe, after_step=note).epochs())
    assert norms == pytest.approx([0.05] * STEPS, rel=1e-2)


@pytest.mark.parametrize("amp", ["bfloat16", "float16"])
def test_half_precision_in_parts_stays_near_full_precision(amp):
    half, full = trained(replace(MIXED, amp=amp, accumulation=4)), trained(MIXED)
    torch.testing.assert_close(copy_of(half.model), copy_of(full.model), rtol=0, atol=0.02)
    assert half.history[0].loss == pytest.approx(full.history[0].loss, rel=0.02)


def test_more_parts_than_images_are_refused():
    with pytest.raises(RecipeError, match="accumulation 17 is more than the batch size 16"):
        replace(PLAIN, accumulation=17)


# Blocks computed again


def gradients(network: str, grad_checkpointing: bool, amp: str = "none") -> dict[str, Tensor]:
    """Those of one step with all that is random in a network, bit for bit."""
    model = networks()[network]
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.2
    recipe = replace(
        FULL, drop_path=0.5, grad_checkpointing=grad_checkpointing, clip_grad=0.0, amp=amp
    )
    training_of(model, recipe).step(*a_batch(16), update=1)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("amp", ["none", "bfloat16"])
@pytest.mark.parametrize("network", ["dense", "masked", "small"])
def test_gradients_of_blocks_computed_again_are_the_same(network, amp):
    assert_equal(gradients(network, True, amp), gradients(network, False, amp))


class Calls:
    """How often a module was called."""

    def __init__(self, module: nn.Module) -> None:
        self.count = 0
        module.register_forward_pre_hook(self.note)

    def note(self, *of: object) -> None:
        self.count += 1


@pytest.mark.parametrize("network", ["dense", "masked", "small"])
@pytest.mark.parametrize(("asked", "times"), [(False, 1), (True, 2)])
def test_blocks_are_computed_again_in_steps_and_not_in_evaluation(network, asked, times):
    model = networks()[network]
    calls = Calls(getattr(model, "vit", model).blocks[1])
    training = training_of(model, replace(PLAIN, grad_checkpointing=asked))
    list(training.epochs())
    evaluations = 1
    assert calls.count == times * STEPS + evaluations
    model.train()(a_batch()[0]).sum().backward()
    assert calls.count == times * STEPS + evaluations + 1  # a user's own steps are untouched


def test_blocks_are_kept_as_they_were_when_a_step_fails():
    model = tiny_vit()
    recipe = replace(PLAIN, opt="sgd", lr=1e30, grad_checkpointing=True)
    with pytest.raises(DivergenceError):
        list(training_of(model, recipe).epochs())
    assert model.grad_checkpointing is False


def test_a_model_that_cannot_compute_blocks_again_is_refused():
    recipe = replace(PLAIN, grad_checkpointing=True)
    with pytest.raises(UnsupportedModelError, match="gradient checkpointing"):
        training_of(nn.Linear(1, 1), recipe)


# Memory that is too short


class ShortMemory:
    """An objective whose GPU holds no more than so many images."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __call__(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        loss = cross_entropy(model, images, targets)
        if len(images) > self.most:  # after the forward, as a backward's activations would
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return loss


def test_parts_are_halved_until_memory_holds_them_and_the_training_stays_the_same():
    short = training_of(networks()["dense"], MIXED, objective=ShortMemory(5))
    list(short.epochs())
    assert short.accumulation == 4
    assert_close(short, trained(replace(MIXED, accumulation=4)))


def test_memory_that_does_not_hold_one_image_ends_the_training():
    training = training_of(recipe=SGD, objective=ShortMemory(0))
    with pytest.raises(torch.OutOfMemoryError):
        list(training.epochs())
    assert training.accumulation == 16


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"amp": "bf16"}, "amp 'bf16' is not one of none, bfloat16, float16"),
        ({"accumulation": 0}, "accumulation 0 of batch_size 64: both must be at least 1"),
        ({"batch_size": 0}, "accumulation 1 of batch_size 0: both must be at least 1"),
    ],
)
def test_a_recipe_that_no_training_can_follow_is_refused(
    values: dict[str, Any], expected: str
) -> None:
    with pytest.raises(RecipeError, match=expected):
        Recipe(**values)
