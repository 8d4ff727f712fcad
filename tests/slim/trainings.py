"""Trainings of a few steps: a plain recipe, one with everything on, and what an objective sees."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slim import Budget, MaskCheckpoint, attach_masks, extract
from slim.recipe import Recipe
from slim.tasks import Augmentation
from slim.training import Training
from tests.slim.bars import PREPROCESSING, assert_equal, bars, copy_of, tiny_vit

# 84 training images, so 5 steps an epoch; nothing but the loss moves a weight.
PLAIN = Recipe(epochs=1, batch_size=16, lr=1e-2, sched="constant", weight_decay=0.0, clip_grad=0.0)
STEPS = 5


def training_of(model: nn.Module | None = None, recipe: Recipe = PLAIN, **options) -> Training:
    return Training(model or tiny_vit(), bars(), PREPROCESSING, recipe, **options)


def no_loss(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """A loss of 0 whose gradients are 0: what moves a weight then is not the loss."""
    return 0.0 * model(images).sum()


class Seen:
    """An objective that keeps what it is given."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []
        self.targets: list[Tensor] = []
        self.logits: list[Tensor] = []

    def __call__(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        self.images.append(images.clone())
        self.targets.append(targets.clone())
        self.logits.append(model(images))
        return F.cross_entropy(self.logits[-1], targets)


def seen_in(recipe: Recipe) -> Seen:
    seen = Seen()
    list(training_of(recipe=recipe, objective=seen).epochs())
    return seen


def networks() -> dict[str, nn.Module]:
    masked = attach_masks(tiny_vit(depth=3))
    with torch.no_grad():
        for mask in masked.mask_parameters().values():
            mask.uniform_(0.2, 1.0)  # so that every block loses something and keeps something
    checkpoint = MaskCheckpoint.from_model(masked)
    small = extract(checkpoint, checkpoint.select(Budget(0.8, 0.6, 0.6)))
    return {"dense": tiny_vit(depth=3), "masked": masked, "small": small}


FULL = replace(
    PLAIN,
    epochs=3,
    sched="cosine",
    warmup_epochs=0.5,
    weight_decay=0.05,
    clip_grad=1.0,
    label_smoothing=0.1,
    mixup=0.4,
    cutmix=0.6,
    ema_decay=0.7,
    drop_path=0.2,
    accumulation=3,
    augmentation=Augmentation(affine=True, hflip=0.3, aug_repeats=2),
)


def training_with_dropout(
    recipe: Recipe = FULL, weights: int = 0, seed: int = 5, **options
) -> Training:
    model = tiny_vit(weights, drop_rate=0.1, attn_drop_rate=0.1, proj_drop_rate=0.1)
    return training_of(model, recipe, seed=seed, **options)


def curve(training: Training) -> list[tuple[int, float, float]]:
    """Number, loss and accuracy of every epoch."""
    return [(epoch.epoch, epoch.loss, epoch.val_top1) for epoch in training.history]


def assert_same_training(ours: Training, theirs: Training) -> None:
    """Weights, their average and what optimizer and loss scaling remember, bit for bit."""
    assert_equal(copy_of(ours.model), copy_of(theirs.model))
    assert_equal(copy_of(ours.evaluated), copy_of(theirs.evaluated))
    assert ours.scaler.state_dict() == theirs.scaler.state_dict()
    remembered, expected = (t.optimizer.state_dict()["state"] for t in (ours, theirs))
    assert remembered.keys() == expected.keys()
    for number, tensors in expected.items():
        for name, tensor in tensors.items():
            assert torch.equal(torch.as_tensor(remembered[number][name]), torch.as_tensor(tensor))
