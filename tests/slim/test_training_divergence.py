"""A training that diverges ends in one line: the step, what is not finite, the last state."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from slim import DivergenceError
from slim.training import cross_entropy
from tests.slim.bars import assert_equal, copy_of, tiny_vit
from tests.slim.trainings import PLAIN, STEPS, training_of

TWO_EPOCHS = replace(PLAIN, epochs=2)


class DivergesIn:
    """An objective whose loss, or whose gradient alone, is spoiled in one call."""

    def __init__(self, call: int, value: float, gradient_only: bool = False) -> None:
        self.left, self.value, self.gradient_only = call, value, gradient_only

    def __call__(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        loss = cross_entropy(model, images, targets)
        self.left -= 1
        if self.left == 0 and self.gradient_only:
            loss.register_hook(lambda gradient: gradient * self.value)
        return loss + self.value if self.left == 0 and not self.gradient_only else loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("update", "epoch"), [(1, 1), (3, 1), (5, 1), (6, 2)])
def test_a_loss_that_is_not_finite_ends_the_training_with_its_step(value, update, epoch):
    training = training_of(recipe=TWO_EPOCHS, objective=DivergesIn(update, value))
    with pytest.raises(DivergenceError) as error:
        list(training.epochs())
    assert str(error.value) == (
        f"the loss is {value} at step {update} (epoch {epoch}); lower the learning rate; "
        "no state of it was saved"
    )
    assert all(bool(p.isfinite().all()) for p in training.model.parameters())


@pytest.mark.parametrize("clip_grad", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gradients_that_are_not_finite_end_the_training_before_they_move_a_weight(
    value, clip_grad
):
    model = tiny_vit()
    before = copy_of(model)
    recipe = replace(PLAIN, clip_grad=clip_grad)
    training = training_of(model, recipe, objective=DivergesIn(1, value, gradient_only=True))
    with pytest.raises(DivergenceError, match=r"the gradient norm is \w+ at step 1 \(epoch 1\)"):
        list(training.epochs())
    assert_equal(copy_of(model), before)


def test_one_part_of_an_accumulated_step_is_enough():
    recipe = replace(TWO_EPOCHS, accumulation=4)
    training = training_of(recipe=recipe, objective=DivergesIn(4 * STEPS + 2, math.nan))
    with pytest.raises(DivergenceError, match=rf"the loss is nan at step {STEPS + 1} \(epoch 2\)"):
        list(training.epochs())


def test_loss_scaling_leaves_out_a_step_of_infinite_gradients_instead():
    model, steps = tiny_vit(), []
    training = training_of(
        model,
        replace(PLAIN, amp="float16"),
        objective=DivergesIn(3, math.inf, gradient_only=True),
        after_step=lambda: steps.append(copy_of(model)),
    )
    scale = training.scaler.get_scale()
    list(training.epochs())
    assert_equal(steps[2], steps[1])
    assert not torch.equal(steps[3]["head.weight"], steps[2]["head.weight"])
    assert training.scaler.get_scale() == scale / 2


def test_loss_scaling_gives_up_on_gradients_that_are_never_finite():
    class Broken(DivergesIn):
        def __call__(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
            self.left = 1
            return super().__call__(model, images, targets)

    model = tiny_vit()
    before = copy_of(model)
    recipe = replace(PLAIN, amp="float16", epochs=10)
    training = training_of(model, recipe, objective=Broken(1, math.nan, gradient_only=True))
    with pytest.raises(DivergenceError, match=r"the gradient norm is nan at step 32 "):
        list(training.epochs())
    assert_equal(copy_of(model), before)


def test_too_large_a_learning_rate_is_told():
    recipe = replace(PLAIN, opt="sgd", lr=1e30)
    with pytest.raises(DivergenceError, match="lower the learning rate"):
        list(training_of(recipe=recipe).epochs())


@pytest.mark.parametrize(("every", "kept", "epoch"), [(1e9, 5, 1), (0.0, 7, 2)])
def test_the_last_state_is_left_in_place_and_named(every, kept, epoch, tmp_path):
    state = tmp_path / "training.pt"
    training = training_of(recipe=TWO_EPOCHS, objective=DivergesIn(8, math.nan))
    with pytest.raises(DivergenceError) as error:
        list(training.resumable_epochs(state, every=every))
    last = f"its last state, after step {kept} (epoch {epoch}), is {state}"
    assert str(error.value).endswith(f"lower the learning rate; {last}")
    resumed = training_of(recipe=TWO_EPOCHS)
    resumed.load_state(state)
    assert resumed.done * STEPS + resumed.running.step == kept
    assert all(bool(p.isfinite().all()) for p in resumed.model.parameters())
