"""A budget is three fractions in (0, 1]."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim import Budget, BudgetError

DIMENSIONS = ("tokens", "mhsa", "mlp")


@given(st.tuples(*[st.floats(0, 1, exclude_min=True)] * 3))
def test_any_fraction_above_0_up_to_1_is_a_budget(fractions):
    assert Budget(*fractions) == Budget(*fractions)


def test_numbers_of_numpy_are_numbers():
    budget = Budget(np.float32(0.5), np.float64(0.25), np.int64(1))
    assert budget == Budget(0.5, 0.25, 1)
    assert json.loads(json.dumps(asdict(budget))) == {"tokens": 0.5, "mhsa": 0.25, "mlp": 1}


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_everything_is_kept_unless_told_otherwise(dimension):
    assert getattr(Budget(), dimension) == 1


@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize(
    "value",
    [0, 0.0, -0.5, -1, 1.0001, 2, float("nan"), float("inf"), -float("inf"), True, "0.5", None],
)
def test_anything_else_is_refused_by_name_and_value(dimension, value):
    with pytest.raises(BudgetError) as refused:
        Budget(**{dimension: value})
    assert f"{dimension}={value!r}" in str(refused.value)
    assert "\n" not in str(refused.value)
