"""A study whose driver died while it asked goes on as if it had not."""

from dataclasses import replace
from pathlib import Path

import pytest
from optuna.storages.journal import JournalFileBackend

from sweeps.study import BudgetStudy
from tests.sweeps.test_study import CONFIG, begun, row, run

APPEND = JournalFileBackend.append_logs


class Died(BaseException):
    """Nothing of the program catches it, as nothing catches a kill."""


@pytest.fixture
def deaths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The journal dies when as many writes as the list's one number are done."""
    left = [10**9]

    def append(self: JournalFileBackend, logs: list[dict[str, object]]) -> None:
        if left[0] == 0:
            raise Died
        left[0] -= 1
        APPEND(self, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", append)
    return left


def study_in(folder: Path) -> BudgetStudy:
    return begun(folder / "journal", replace(CONFIG, trials=4))


def test_whatever_write_was_the_last_the_same_budgets_are_asked(
    tmp_path: Path, deaths: list[int]
) -> None:
    whole = run(study_in(tmp_path / "whole"))
    writes = 10**9 - deaths[0]
    assert writes > 40
    for last in range(0, writes, 5):
        folder = tmp_path / str(last)
        deaths[0] = last
        with pytest.raises(Died):
            run(study_in(folder))
        assert deaths[0] == 0
        deaths[0] = 10**9
        study = study_in(folder)
        run(study)
        rows = study.rows()
        assert [r.trial for r in rows] == [0, 1, 2, 3], last
        assert [(r.tokens, r.mhsa, r.mlp) for r in rows] == [
            (b.tokens, b.mhsa, b.mlp) for b in whole
        ], last
        assert study.running() == []


def test_half_a_line_and_a_lock_left_behind_do_not_stop_it(tmp_path: Path) -> None:
    tmp_path.joinpath("journal").touch()
    study = study_in(tmp_path)
    proposal = study.ask()
    assert proposal is not None
    journal = tmp_path / "journal"
    with journal.open("ab") as file:
        file.write(b'{"op_code":6,"work')
    journal.with_name("journal.lock").symlink_to(journal)
    again = study_in(tmp_path)
    assert again.ask() == proposal
    again.complete(row(proposal))
    assert [r.trial for r in study_in(tmp_path).rows()] == [0]
