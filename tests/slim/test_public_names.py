"""What README and the contract tell users to type is there."""

import re
from pathlib import Path

import pytest

import slim

README = Path(__file__).parents[2] / "README.md"
NAMES = sorted(set(re.findall(r"\bslim\.([A-Za-z_]+)\(", README.read_text(encoding="utf-8"))))


def test_the_readme_calls_something():
    assert {"load", "extract", "latency"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_call_in_the_readme_is_a_public_name(name):
    assert name in slim.__all__
    assert callable(getattr(slim, name))
