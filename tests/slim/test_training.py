"""Training learns, and does what its recipe says."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.layers import DropPath
from torch import Tensor
from torch.nn import functional as F

from slim.evaluation import top1
from tests.slim.bars import PREPROCESSING, assert_equal, bars, copy_of, tiny_vit
from tests.slim.trainings import (
    FULL,
    PLAIN,
    STEPS,
    Seen,
    networks,
    seen_in,
    training_of,
)


def test_the_loss_falls_and_the_task_is_learned():
    epochs = list(training_of(recipe=replace(PLAIN, epochs=8)).epochs())
    assert [epoch.epoch for epoch in epochs] == list(range(1, 9))
    assert epochs[-1].loss < 0.1 * epochs[0].loss
    assert epochs[-1].val_top1 == 100.0
    assert all(epoch.seconds > 0 for epoch in epochs)


def test_an_epochs_loss_is_the_mean_over_its_steps():
    seen = Seen()
    (epoch,) = training_of(objective=seen).epochs()
    assert len(seen.images) == STEPS
    losses = [
        float(F.cross_entropy(logits.detach(), targets))
        for logits, targets in zip(seen.logits, seen.targets, strict=True)
    ]
    assert epoch.loss == pytest.approx(sum(losses) / STEPS, rel=1e-6)


def test_an_epochs_accuracy_is_that_of_the_model_it_leaves():
    training = training_of(recipe=replace(PLAIN, epochs=2))
    for epoch in training.epochs():
        assert epoch.val_top1 == top1(training.model, bars(), "val", PREPROCESSING)


@pytest.mark.parametrize("opt", ["adamw", "muon", "sgd", "lamb"])
def test_a_training_is_determined_by_its_seed(opt):
    def weights(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(int(np.random.default_rng().integers(1000)))
        training = training_of(tiny_vit(drop_rate=0.1), replace(FULL, opt=opt), seed=seed)
        list(training.epochs())
        return copy_of(training.evaluated)

    first = weights(0)
    assert_equal(weights(0), first)
    assert not torch.equal(weights(1)["head.weight"], first["head.weight"])


def test_after_step_is_called_after_each_step():
    calls = []
    list(training_of(after_step=lambda: calls.append(None)).epochs())
    assert len(calls) == STEPS


# What a recipe asks for


def test_nothing_asked_the_objective_gets_images_and_labels_as_they_are():
    seen = seen_in(PLAIN)
    task = bars()
    given = task.train_batches(PREPROCESSING, PLAIN.augmentation, 16, seed=0, epoch=0)
    for images, targets, (expected, labels) in zip(seen.images, seen.targets, given, strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(targets, labels)
    assert {logits.dtype for logits in seen.logits} == {torch.float32}


def test_the_evaluated_model_is_the_average_of_the_weights():
    decay, steps = 0.8, []
    model = tiny_vit()
    training = training_of(
        model,
        replace(PLAIN, epochs=2, ema_decay=decay),
        after_step=lambda: steps.append(copy_of(model)),
    )
    epochs = list(training.epochs())
    average = steps[0]
    for weights in steps[1:]:
        average = {name: decay * average[name] + (1 - decay) * weights[name] for name in weights}
    torch.testing.assert_close(training.evaluated.state_dict(), average, rtol=1e-5, atol=1e-6)
    assert_equal(copy_of(training.model), steps[-1])
    assert epochs[-1].val_top1 == top1(training.evaluated, bars(), "val", PREPROCESSING)


def test_without_an_average_the_trained_model_is_evaluated():
    model = tiny_vit()
    assert training_of(model).evaluated is model


def gradient_norms(clip_grad: float) -> list[float]:
    model, norms = tiny_vit(), []

    def note() -> None:
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        norms.append(float(torch.cat(grads).norm()))

    recipe = replace(PLAIN, clip_grad=clip_grad)
    list(training_of(model, recipe, after_step=note).epochs())
    return norms


def test_gradients_are_clipped_to_the_largest_norm():
    assert min(gradient_norms(0.0)) > 0.05
    assert gradient_norms(0.05) == pytest.approx([0.05] * STEPS, rel=1e-3)
    assert max(gradient_norms(100.0)) < 100.0


@pytest.mark.parametrize("network", ["dense", "masked", "small"])
def test_stochastic_depth_rises_from_0_in_the_first_block_to_the_last(network):
    model = networks()[network]
    training = training_of(model, replace(PLAIN, drop_path=0.4))
    blocks = getattr(model, "vit", model).blocks
    rates = [(block.drop_path1.drop_prob, block.drop_path2.drop_prob) for block in blocks]
    assert rates == [pytest.approx((rate, rate)) for rate in (0.0, 0.2, 0.4)]
    images = torch.zeros(64, 1, 8, 8)
    with torch.no_grad():
        assert len(training.model.train()(images).unique(dim=0)) > 2  # alike, unless some drop
        assert len(training.evaluated.eval()(images).unique(dim=0)) == 1
    list(training.epochs())


@pytest.mark.parametrize("network", ["dense", "masked", "small"])
def test_stochastic_depth_stays_out_when_it_is_not_asked(network):
    model = networks()[network]
    training_of(model, replace(PLAIN, drop_path=0.4))
    training_of(model, PLAIN)
    rates = {path.drop_prob for path in model.modules() if isinstance(path, DropPath)}
    assert rates <= {0.0}


@pytest.mark.parametrize("amp", ["bfloat16", "float16"])
def test_half_precision_computes_in_half_and_keeps_weights_in_float32(amp):
    training = training_of(objective=(seen := Seen()), recipe=replace(PLAIN, epochs=6, amp=amp))
    computed: dict[bool, set[torch.dtype]] = {True: set(), False: set()}  # in training, on val
    head = training.model.head
    head.register_forward_hook(lambda at, given, out: computed[at.training].add(out.dtype))
    epochs = list(training.epochs())
    assert computed == {True: {getattr(torch, amp)}, False: {getattr(torch, amp)}}
    assert {logits.dtype for logits in seen.logits} == {getattr(torch, amp)}
    assert {p.dtype for p in training.model.parameters()} == {torch.float32}
    assert epochs[-1].loss < 0.5 * epochs[0].loss


def learning_rates(**changes) -> list[float]:
    """The learning rate of each step of 4 epochs."""
    rates: list[float] = []
    recipe = replace(PLAIN, epochs=4, lr=0.01, **changes)
    training = training_of(
        recipe=recipe, after_step=lambda: rates.append(training.optimizer.param_groups[0]["lr"])
    )
    list(training.epochs())
    return rates


def test_a_constant_learning_rate_is_constant():
    assert learning_rates(sched="constant") == pytest.approx([0.01] * 20)


def test_a_cosine_falls_from_the_peak_to_almost_0():
    expected = [0.005 * (1 + math.cos(math.pi * step / 20)) for step in range(20)]
    assert learning_rates(sched="cosine") == pytest.approx(expected)


@pytest.mark.parametrize("sched", ["constant", "cosine"])
@pytest.mark.parametrize(("warmup_epochs", "steps"), [(2.0, 10), (0.6, 3)])
def test_warm_up_rises_linearly_from_a_hundredth(sched, warmup_epochs, steps):
    rates = learning_rates(sched=sched, warmup_epochs=warmup_epochs)
    rising = [0.0001 + (0.01 - 0.0001) * step / steps for step in range(steps)]
    assert rates[:steps] == pytest.approx(rising)
    assert rates[steps:] == pytest.approx(learning_rates(sched=sched)[steps:])
