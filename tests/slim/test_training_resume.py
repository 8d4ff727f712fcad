"""A training that was interrupted, at any step, ends as if it had never been."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from slim import FileFormatError, StoppedTraining
from slim.recipe import Recipe
from slim.search import Penalty, search_training
from slim.training import Training, cross_entropy
from tests.slim.bars import PREPROCESSING, assert_equal, bars, copy_of, tiny_vit
from tests.slim.damage import Payload
from tests.slim.trainings import (
    FULL,
    PLAIN,
    STEPS,
    assert_same_training,
    curve,
    networks,
    training_of,
    training_with_dropout,
)


def at_call(number: int) -> Callable[[], bool]:
    """A request to stop that comes with the `number`-th question."""
    calls = iter(range(1, number + 1))
    return lambda: next(calls) == number


def another_process() -> None:
    """Its generators stand elsewhere."""
    torch.manual_seed(99)
    np.random.seed(99)


CHANGES = [
    {},
    {"opt": "sgd", "accumulation": 1},
    {"opt": "muon"},
    {"opt": "lamb", "ema_decay": 0.0},
    {"amp": "bfloat16"},
    {"amp": "float16"},
    {"mixup": 0.0, "cutmix": 0.0, "accumulation": 1},
    {"layer_decay": 0.5, "grad_checkpointing": True},
]


@pytest.mark.parametrize("steps", [1, STEPS, STEPS + 3])
@pytest.mark.parametrize("changes", CHANGES)
def test_a_training_stopped_at_a_step_ends_bit_for_bit_as_an_unstopped_one(
    changes, steps, tmp_path
):
    recipe, state = replace(FULL, **changes), tmp_path / "states" / "training.pt"
    whole = training_with_dropout(recipe)
    list(whole.epochs())

    stopped = training_with_dropout(recipe)
    with pytest.raises(StoppedTraining, match=rf"after step {steps} \(epoch .*training\.pt"):
        list(stopped.resumable_epochs(state, stop_requested=at_call(steps)))
    another_process()
    resumed = training_with_dropout(recipe, weights=1)
    list(resumed.resumable_epochs(state))

    assert curve(resumed) == curve(whole)
    assert_same_training(resumed, whole)


def test_a_training_stopped_after_every_step_still_ends_the_same(tmp_path):
    state = tmp_path / "training.pt"
    whole = training_with_dropout()
    list(whole.epochs())
    for weights in range(3 * STEPS):  # fresh ones, of which only the first matter
        resumed = training_with_dropout(weights=weights)
        with pytest.raises(StoppedTraining):
            list(resumed.resumable_epochs(state, stop_requested=at_call(1)))
    resumed = training_with_dropout(weights=1)
    list(resumed.resumable_epochs(state))
    assert curve(resumed) == curve(whole)
    assert_same_training(resumed, whole)


class Killed(BaseException):
    """The process ends here."""


def dies_in(step: int):
    """An objective that is called for the last time in that step."""
    left = iter(range(step))

    def objective(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        if next(left) == step - 1:
            raise Killed
        return cross_entropy(model, images, targets)

    return objective


@pytest.mark.parametrize(("every", "kept"), [(0.0, STEPS + 2), (1e9, STEPS)])
def test_a_killed_training_goes_on_from_the_state_written_last(every, kept, tmp_path):
    state, recipe = tmp_path / "training.pt", replace(FULL, accumulation=1)
    whole = training_with_dropout(recipe)
    list(whole.epochs())

    killed = training_with_dropout(recipe, objective=dies_in(STEPS + 3))
    with pytest.raises(Killed):
        list(killed.resumable_epochs(state, every=every))
    another_process()
    trained: list[None] = []
    resumed = training_with_dropout(recipe, weights=1, after_step=lambda: trained.append(None))
    list(resumed.resumable_epochs(state))
    assert len(trained) == 3 * STEPS - kept
    assert curve(resumed) == curve(whole)
    assert_same_training(resumed, whole)


@pytest.mark.parametrize("steps", [2, STEPS + 1])
def test_a_search_stopped_at_a_step_keeps_its_masks(steps, tmp_path):
    state = tmp_path / "search.pt"

    def start() -> Training:
        masked, penalty = networks()["masked"], Penalty(0.5, 0.5, 0.5)
        return search_training(masked, bars(), PREPROCESSING, FULL, penalty, 0.05, seed=4)

    whole = start()
    list(whole.epochs())
    with pytest.raises(StoppedTraining):
        list(start().resumable_epochs(state, stop_requested=at_call(steps)))
    resumed = start()
    list(resumed.resumable_epochs(state))
    assert curve(resumed) == curve(whole)
    assert_same_training(resumed, whole)


def test_a_finished_training_resumes_to_what_it_was(tmp_path):
    state = tmp_path / "training.pt"
    whole = training_with_dropout()
    list(whole.resumable_epochs(state))
    resumed = training_with_dropout(weights=1)
    assert list(resumed.resumable_epochs(state)) == []
    assert resumed.history == whole.history
    assert_same_training(resumed, whole)


def test_the_epochs_before_an_interruption_are_remembered(tmp_path):
    state = tmp_path / "training.pt"
    stopped = training_with_dropout()
    with pytest.raises(StoppedTraining):
        list(stopped.resumable_epochs(state, stop_requested=at_call(2 * STEPS + 1)))
    resumed = training_with_dropout()
    (last,) = resumed.resumable_epochs(state)
    assert resumed.history == [*stopped.history, last]
    assert [epoch.epoch for epoch in resumed.history] == [1, 2, 3]


# The file


def test_the_state_stands_whole_after_each_epoch_and_nothing_beside_it(tmp_path):
    state = tmp_path / "training.pt"
    training = training_of(recipe=replace(PLAIN, epochs=3))
    for epoch in training.resumable_epochs(state):
        assert len(torch.load(state, weights_only=True)["history"]) == epoch.epoch
        assert list(tmp_path.iterdir()) == [state]


def test_a_reader_sees_the_old_state_or_the_new_one(tmp_path):
    state = tmp_path / "training.pt"
    training = training_of(recipe=replace(PLAIN, epochs=2))
    epochs = training.resumable_epochs(state)
    next(epochs)
    with state.open("rb") as reader:  # opened before the second epoch is saved
        next(epochs)
        assert len(torch.load(reader, weights_only=True)["history"]) == 1
    assert len(torch.load(state, weights_only=True)["history"]) == 2


def test_a_pickle_in_place_of_a_state_is_not_run(tmp_path):
    state, trace = tmp_path / "training.pt", tmp_path / "trace"
    torch.save({"steps": Payload(trace)}, state)
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
        lambda path: torch.save({"steps": STEPS}, path),
        lambda path: save_of(path, tiny_vit(depth=1)),
        lambda path: save_of(path, tiny_vit(embed_dim=8)),
        lambda path: save_of(path, recipe=replace(PLAIN, weight_decay=0.1)),
        lambda path: save_of(path, recipe=replace(PLAIN, batch_size=8)),
        lambda path: save_of(path, recipe=replace(PLAIN, lr=0.5)),
        lambda path: save_of(path, recipe=replace(PLAIN, mixup=0.8)),
        lambda path: training_of(seed=7).save_state(path),
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


def test_a_refused_state_leaves_the_model_as_it_was(tmp_path):
    save_of(tmp_path / "training.pt", tiny_vit(seed=9), replace(PLAIN, lr=0.5))
    training = training_of()
    before = copy_of(training.model)
    with pytest.raises(FileFormatError, match="other values of lr"):
        training.load_state(tmp_path / "training.pt")
    assert_equal(copy_of(training.model), before)


def test_a_state_of_other_steps_says_why(tmp_path):
    save_of(tmp_path / "training.pt", recipe=replace(PLAIN, batch_size=8))
    with pytest.raises(FileFormatError, match="its epochs have 10 steps, these 5"):
        training_of().load_state(tmp_path / "training.pt")
