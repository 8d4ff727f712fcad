"""What errors say to the user."""

import pytest


def message_of(error: pytest.ExceptionInfo[BaseException]) -> str:
    """What the user reads: one line."""
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)
