"""A student learns from the labels and from its teacher, in the shares that are asked."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from slim.distillation import distill_from
from slim.recipe import Recipe
from slim.training import Training, cross_entropy
from tests.slim.bars import PREPROCESSING, a_batch, assert_equal, bars, copy_of, tiny_vit

SOFT = torch.tensor([[0.7, 0.3], [0.2, 0.8], [1.0, 0.0], [0.5, 0.5]])


def teacher(seed: int = 1):
    """Of logits far from uniform."""
    model = tiny_vit(seed)
    with torch.no_grad():
        model.head.weight.mul_(50)
    return model


def by_hand(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 times the mean over images of sum_c p_c log(p_c / q_c), in float64."""
    p = (teacher.double() / temperature).softmax(dim=-1)
    q = (student.double() / temperature).softmax(dim=-1)
    return temperature**2 * (p * (p / q).log()).sum(dim=-1).mean()


@pytest.mark.parametrize("soft", [False, True])
def test_a_weight_of_0_is_the_cross_entropy(soft):
    images, labels = a_batch()
    targets = SOFT if soft else labels
    student = tiny_vit().eval()
    loss = distill_from(teacher(), weight=0.0, temperature=2.0)(student, images, targets)
    torch.testing.assert_close(loss, cross_entropy(student, images, targets))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 10.0])
def test_a_weight_of_1_is_the_divergence_at_the_temperature(temperature):
    images, labels = a_batch()
    student, wise = tiny_vit().eval(), teacher()
    loss = distill_from(wise, 1.0, temperature)(student, images, labels)
    with torch.no_grad():
        expected = by_hand(student(images), wise(images), temperature)
    assert float(expected) > 0.01
    torch.testing.assert_close(loss.detach().double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("weight", [0.3, 0.7])
def test_between_0_and_1_both_have_their_share(weight, soft):
    images, labels = a_batch()
    targets = SOFT if soft else labels
    student, wise = tiny_vit().eval(), teacher()
    loss = distill_from(wise, weight, 2.0)(student, images, targets)
    with torch.no_grad():
        follow = by_hand(student(images), wise(images), 2.0).float()
        expected = (1 - weight) * F.cross_entropy(student(images), targets) + weight * follow
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-6)


def test_the_divergence_is_a_mean_over_images():
    images, labels = a_batch()
    student, objective = tiny_vit().eval(), distill_from(teacher(), 1.0, 2.0)
    alone = [objective(student, images[i : i + 1], labels[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(torch.stack(alone).mean(), objective(student, images, labels))


def test_a_student_that_is_its_teacher_has_nothing_to_learn_from_it():
    images, labels = a_batch()
    student = teacher().eval()
    loss = distill_from(copy.deepcopy(student), 1.0, 2.0)(student, images, labels)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)
    assert all(float(p.grad.abs().max()) < 1e-5 for p in student.parameters())


def test_the_teacher_stays_as_it_is_and_gets_no_gradient():
    wise = teacher().train()
    before, asked = copy_of(wise), [p.requires_grad for p in wise.parameters()]
    recipe = Recipe(epochs=1, batch_size=16, lr=1e-2)
    training = Training(
        tiny_vit(), bars(), PREPROCESSING, recipe, objective=distill_from(wise, 0.5, 2.0)
    )
    list(training.epochs())
    assert_equal(copy_of(wise), before)
    assert all(p.grad is None for p in wise.parameters())
    assert [p.requires_grad for p in wise.parameters()] == asked


def test_the_teacher_answers_without_its_dropout():
    images, labels = a_batch()
    student, wise = tiny_vit().eval(), tiny_vit(1, drop_rate=0.9, attn_drop_rate=0.9).train()
    objective = distill_from(wise, 1.0, 2.0)
    assert torch.equal(objective(student, images, labels), objective(student, images, labels))


def test_a_student_comes_to_answer_as_its_teacher_does():
    wise = tiny_vit(1)
    recipe = Recipe(epochs=10, batch_size=16, lr=5e-3, weight_decay=0.0)
    list(Training(wise, bars(), PREPROCESSING, recipe).epochs())
    student = tiny_vit(2)
    follow = distill_from(wise, 1.0, 2.0)
    epochs = list(Training(student, bars(), PREPROCESSING, recipe, objective=follow).epochs())
    assert epochs[-1].loss < 0.05 * epochs[0].loss
    assert epochs[-1].val_top1 == 100.0


@pytest.mark.parametrize("changes", [{"mixup": 0.5, "cutmix": 0.5}, {"amp": "bfloat16"}])
def test_mixed_targets_and_half_precision_are_no_obstacle(changes):
    recipe = Recipe(epochs=2, batch_size=16, lr=5e-3, **changes)
    objective = distill_from(teacher(), 0.5, 2.0)
    training = Training(tiny_vit(), bars(), PREPROCESSING, recipe, objective=objective)
    first, second = training.epochs()
    assert second.loss < first.loss
