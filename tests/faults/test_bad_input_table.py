"""The table in docs/bad_input.md is what the program says."""

from pathlib import Path

import pytest

from tests.faults.bad_input import CASES, TABLE, line_of, told

LINES = TABLE.read_text().splitlines()


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_as_the_table_says(case: str, tmp_path: Path) -> None:
    message, code = told(CASES[case], tmp_path)
    assert code == 2
    assert line_of(case, message, code) in LINES
    assert not (tmp_path / "pwned").exists()


def test_the_table_has_no_other_line() -> None:
    assert len([line for line in LINES if line.endswith("| 2 |")]) == len(CASES)
