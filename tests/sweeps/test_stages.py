"""A stage that fails says which it is and why, in the error of its own kind."""

import pytest

from slim import DivergenceError
from sweeps.stages import naming_stage


def test_the_error_of_a_stage_names_it() -> None:
    with (
        pytest.raises(DivergenceError, match="stage search failed: the loss is nan at step 7"),
        naming_stage("search"),
    ):
        raise DivergenceError("the loss is nan at step 7")


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError, match=r"^division by zero$"), naming_stage("dense"):
        _ = 1 / 0
