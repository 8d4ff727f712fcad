"""What timm cannot train by is named in one line."""

from dataclasses import replace

import pytest

from slim.errors import RecipeError
from tests.slim.trainings import PLAIN, training_of


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"opt": "adamzip"}, "opt adamzip cannot be used: Optimizer adamzip not found"),
        ({"opt": "adahessian"}, "opt adahessian needs second derivatives; give another"),
        ({"sched": "cosinus"}, "sched cosinus cannot be used: Unknown scheduler 'cosinus'"),
        ({"sched": "plateau"}, "sched plateau cannot be used: Plateau LR only supports"),
        (
            {"sched": "wsd", "warmup_epochs": 2.0},
            "sched wsd cannot be used: wsd schedule",
        ),
    ],
)
def test_what_timm_cannot_train_by_is_named(change, message):
    with pytest.raises(RecipeError) as refused:
        training_of(recipe=replace(PLAIN, **change))
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)
