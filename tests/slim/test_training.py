"""Training learns, does what its recipe says, and resumes as if it had never been interrupted."""

import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from slim import Budget, DivergenceError, FileFormatError, MaskCheckpoint, attach_masks, extract
from slim.evaluation import top1
from slim.recipe import Recipe
from slim.tasks import Augmentation
from slim.training import Training, cross_entropy, smooth_labels
from tests.slim.bars import PREPROCESSING, assert_equal, bars, copy_of, tiny_vit
from tests.slim.damage import Payload

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


@pytest.mark.parametrize("opt", ["adamw", "sgd", "lamb"])
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


def test_smoothed_labels_are_distributions():
    soft = smooth_labels(torch.tensor([0, 2]), 4, 0.2)
    expected = [[0.85, 0.05, 0.05, 0.05], [0.05, 0.05, 0.85, 0.05]]
    torch.testing.assert_close(soft, torch.tensor(expected))


def test_label_smoothing_softens_the_targets():
    hard, soft = seen_in(PLAIN), seen_in(replace(PLAIN, label_smoothing=0.2))
    for labels, targets in zip(hard.targets, soft.targets, strict=True):
        assert torch.equal(targets, smooth_labels(labels, 2, 0.2))


@pytest.mark.parametrize("batch_size", [16, 15])
def test_mixup_mixes_images_and_targets_alike(batch_size):
    recipe = replace(PLAIN, batch_size=batch_size)
    plain, mixed = seen_in(recipe), seen_in(replace(recipe, mixup=0.8))
    even = batch_size // 2 * 2
    shares = []
    for i, images in enumerate(plain.images):
        hard = F.one_hot(plain.targets[i], 2).float()
        first, partner = images[:even], images[:even].flip(0)
        difference = first - partner
        share = float(
            ((mixed.images[i][:even] - partner) * difference).sum() / difference.square().sum()
        )
        torch.testing.assert_close(
            mixed.images[i][:even], share * first + (1 - share) * partner, rtol=1e-4, atol=1e-4
        )
        targets = share * hard[:even] + (1 - share) * hard[:even].flip(0)
        torch.testing.assert_close(mixed.targets[i][:even], targets, rtol=1e-4, atol=1e-4)
        assert torch.equal(mixed.images[i][even:], images[even:])
        assert torch.equal(mixed.targets[i][even:], hard[even:])
        shares.append(round(share, 3))
    assert len(set(shares)) > 1
    assert all(0 <= share <= 1 for share in shares)


@pytest.mark.parametrize("batch_size", [16, 15])
def test_cutmix_swaps_boxes_and_weighs_targets_by_their_area(batch_size):
    recipe = replace(PLAIN, batch_size=batch_size, epochs=3)
    plain, cut = seen_in(recipe), seen_in(replace(recipe, cutmix=1.0))
    even = batch_size // 2 * 2
    areas = set()
    for i, images in enumerate(plain.images):
        partner = images[:even].flip(0)
        foreign = (cut.images[i][:even] != images[:even]).any(dim=0)  # the box: (1, 8, 8)
        expected = torch.where(foreign, partner, images[:even])
        assert torch.equal(cut.images[i][:even], expected)
        area = float(foreign.float().mean())
        hard = F.one_hot(plain.targets[i], 2).float()
        targets = (1 - area) * hard[:even] + area * hard[:even].flip(0)
        torch.testing.assert_close(cut.targets[i][:even], targets)
        assert torch.equal(cut.images[i][even:], images[even:])
        areas.add(area)
    assert len(areas) > 2


@pytest.mark.parametrize("batch_size", [16, 15, 1])
def test_mixed_targets_are_smoothed_too(batch_size):
    recipe = replace(PLAIN, batch_size=batch_size, mixup=0.5, cutmix=0.5, label_smoothing=0.2)
    for targets in seen_in(recipe).targets:
        assert targets.shape == (batch_size, 2)
        assert float(targets.min()) >= 0.1 - 1e-6
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(batch_size))


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


def networks() -> dict[str, nn.Module]:
    masked = attach_masks(tiny_vit(depth=3))
    with torch.no_grad():
        for mask in masked.mask_parameters().values():
            mask.uniform_(0.2, 1.0)  # so that every block loses something and keeps something
    checkpoint = MaskCheckpoint.from_model(masked)
    small = extract(checkpoint, checkpoint.select(Budget(0.8, 0.6, 0.6)))
    return {"dense": tiny_vit(depth=3), "masked": masked, "small": small}


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
    epochs = list(training.epochs())
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


@pytest.mark.parametrize("network", ["dense", "small"])
def test_weight_decay_shrinks_matrices_and_nothing_else(network):
    model = networks()[network]
    before = copy_of(model)
    recipe = replace(PLAIN, opt="adamw", weight_decay=0.1)
    list(training_of(model, recipe, objective=no_loss).epochs())
    shrunk = (1 - PLAIN.lr * 0.1) ** STEPS
    decayed = set()
    for name, tensor in model.state_dict().items():
        if not torch.equal(tensor, before[name]):
            torch.testing.assert_close(tensor, before[name] * shrunk)
            decayed.add(name)
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    expected = {f"blocks.{block}.{layer}.weight" for block in range(3) for layer in layers}
    assert decayed == expected | {"patch_embed.proj.weight", "head.weight"}


# Interruption


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
    augmentation=Augmentation(affine=True, hflip=0.3),
)


def training_with_dropout(recipe: Recipe, weights: int = 0) -> Training:
    model = tiny_vit(weights, drop_rate=0.1, attn_drop_rate=0.1, proj_drop_rate=0.1)
    return training_of(model, recipe, seed=5)


def assert_same_training(ours: Training, theirs: Training) -> None:
    assert_equal(copy_of(ours.model), copy_of(theirs.model))
    assert_equal(copy_of(ours.evaluated), copy_of(theirs.evaluated))


@pytest.mark.parametrize("stop", [1, 2])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"opt": "sgd"},
        {"opt": "lamb", "ema_decay": 0.0},
        {"amp": "bfloat16"},
        {"mixup": 0.0, "cutmix": 0.0},
    ],
)
def test_a_resumed_training_ends_bit_for_bit_as_an_uninterrupted_one(changes, stop, tmp_path):
    recipe, state = replace(FULL, **changes), tmp_path / "states" / "training.pt"
    whole = training_with_dropout(recipe)
    epochs = list(whole.epochs())

    stopped = training_with_dropout(recipe).resumable_epochs(state)
    before = [next(stopped) for _ in range(stop)]
    torch.manual_seed(99)  # another process: other generators, other fresh weights
    np.random.seed(99)
    resumed = training_with_dropout(recipe, weights=1)
    after = list(resumed.resumable_epochs(state))

    ours, theirs = ([(e.epoch, e.loss, e.val_top1) for e in es] for es in (before + after, epochs))
    assert ours == theirs
    assert_same_training(resumed, whole)


def test_an_epoch_that_was_cut_off_is_trained_again(tmp_path):
    state = tmp_path / "training.pt"
    whole = training_with_dropout(FULL)
    list(whole.epochs())

    cut = training_with_dropout(FULL)
    next(cut.resumable_epochs(state))
    images, labels = next(iter(bars().eval_batches("train", PREPROCESSING, 16)))
    cut.step(images, labels, update=STEPS + 1)  # of the second epoch, which never ends
    resumed = training_with_dropout(FULL, weights=1)
    assert [epoch.epoch for epoch in resumed.resumable_epochs(state)] == [2, 3]
    assert_same_training(resumed, whole)


def test_a_finished_training_resumes_to_what_it_was(tmp_path):
    state = tmp_path / "training.pt"
    whole = training_with_dropout(FULL)
    list(whole.resumable_epochs(state))
    resumed = training_with_dropout(FULL, weights=1)
    assert list(resumed.resumable_epochs(state)) == []
    assert_same_training(resumed, whole)


def test_the_state_stands_whole_after_each_epoch_and_nothing_beside_it(tmp_path):
    state = tmp_path / "training.pt"
    training = training_of(recipe=replace(PLAIN, epochs=3))
    for epoch in training.resumable_epochs(state):
        assert torch.load(state, weights_only=True)["done"] == epoch.epoch
        assert list(tmp_path.iterdir()) == [state]


def test_a_reader_sees_the_old_state_or_the_new_one(tmp_path):
    state = tmp_path / "training.pt"
    training = training_of(recipe=replace(PLAIN, epochs=2))
    epochs = training.resumable_epochs(state)
    next(epochs)
    with state.open("rb") as reader:  # opened before the second epoch is saved
        next(epochs)
        assert torch.load(reader, weights_only=True)["done"] == 1
    assert torch.load(state, weights_only=True)["done"] == 2


def test_a_pickle_in_place_of_a_state_is_not_run(tmp_path):
    state, trace = tmp_path / "training.pt", tmp_path / "trace"
    torch.save({"done": Payload(trace)}, state)
    with pytest.raises(FileFormatError, match=r"training\.pt is not a state of this training"):
        training_of().load_state(state)
    assert not trace.exists()


def save_of(path: Path, model: nn.Module | None = None, recipe: Recipe = PLAIN) -> None:
    training_of(model, recipe).save_state(path)


def truncated(path: Path) -> None:
    save_of(path)
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    "spoil",
    [
        truncated,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("not a\nstate"),
        lambda path: torch.save([1, 2], path),
        lambda path: torch.save({"done": 1}, path),
        lambda path: save_of(path, tiny_vit(depth=1)),
        lambda path: save_of(path, tiny_vit(embed_dim=8)),
        lambda path: save_of(path, recipe=replace(PLAIN, weight_decay=0.1)),
    ],
)
def test_a_state_of_something_else_is_refused_in_one_line(spoil, tmp_path):
    state = tmp_path / "training.pt"
    spoil(state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own words on what it does not know
        with pytest.raises(FileFormatError, match="remove it to train from the start") as error:
            list(training_of().resumable_epochs(state))
    assert len(str(error.value).splitlines()) == 1
    assert str(state) in str(error.value)


# Divergence


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("update", "epoch"), [(1, 1), (3, 1), (5, 1), (6, 2)])
def test_a_loss_that_is_not_finite_ends_the_training_with_its_step(value, update, epoch):
    losses = iter([0.0] * (update - 1) + [value])

    def diverging(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(model, images, targets) + next(losses)

    training = training_of(recipe=replace(PLAIN, epochs=2), objective=diverging)
    with pytest.raises(DivergenceError) as error:
        list(training.epochs())
    expected = f"the loss is {value} at step {update} (epoch {epoch}); lower the learning rate"
    assert str(error.value) == expected
    assert all(bool(p.isfinite().all()) for p in training.model.parameters())


def test_too_large_a_learning_rate_is_told():
    recipe = replace(PLAIN, opt="sgd", lr=1e30)
    with pytest.raises(DivergenceError, match="lower the learning rate"):
        list(training_of(recipe=recipe).epochs())


def test_a_loss_that_is_not_finite_leaves_the_last_state_in_place(tmp_path):
    losses = iter([0.0] * STEPS + [math.nan])

    def diverging(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(model, images, targets) + next(losses)

    state = tmp_path / "training.pt"
    training = training_of(recipe=replace(PLAIN, epochs=2), objective=diverging)
    with pytest.raises(DivergenceError):
        list(training.resumable_epochs(state))
    assert torch.load(state, weights_only=True)["done"] == 1
