"""Numbers are short, names are harmless."""

import math

import pytest

from analysis import wording


@pytest.mark.parametrize(
    ("value", "expected"),
    [(4.6123456, "4.61"), (0.0123456, "0.0123"), (0, "0"), (12345.6, "12,346"), (math.nan, "–")],
)
def test_numbers_have_three_significant_digits(value: float, expected: str) -> None:
    assert wording.number(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(12, "12.0 s"), (600, "10.0 min"), (36000, "10.0 h"), (math.nan, "–")],
)
def test_durations_choose_their_unit(seconds: float, expected: str) -> None:
    assert wording.duration(seconds) == expected


def test_points_have_a_sign_and_no_negative_zero() -> None:
    assert [wording.points(v) for v in (1, -0.001, math.nan)] == ["+1.00", "+0.00", "–"]


@pytest.mark.parametrize("name", ["<b>", "*a*", "[x](y)", "$a$", "`a`", "a\n# b", "http://x"])
def test_no_character_of_a_name_acts_as_markdown(name: str) -> None:
    escaped = wording.escaped(name)
    assert not set("<>*[]()$`\n:/_") & set(escaped)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("digits", "digits"), ("a" * 10, "a" * 10), ("/data/many/pets", "…many/pets")],
)
def test_a_long_name_keeps_its_end(name: str, shown: str) -> None:
    assert wording.shortened(name, 10) == shown
    assert len(shown) <= 10


def test_lists_read_like_sentences() -> None:
    assert [wording.listed(x) for x in ([], ["a"], ["a", "b", "c"])] == ["", "a", "a, b and c"]
    assert wording.counted(1, "trial") == "1 trial"
    assert wording.counted(0, "trial") == "0 trials"
