"""One trial as a row, and the tables of rows that a run leaves."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from slim.files import write_text_atomic

COMPLETE, PRUNED, FAILED = "COMPLETE", "PRUNED", "FAILED"


@dataclass(frozen=True)
class TableRow:
    """A row of a table: the fields of a kind are its columns."""

    @cached_property
    def _lines(self) -> dict[tuple[str, ...], str]:
        return {}

    def line(self, names: tuple[str, ...]) -> str:
        """Its line in a table with these columns; made once, as tables are written often."""
        if names not in self._lines:
            self._lines[names] = _line("" if (v := getattr(self, n)) is None else v for n in names)
        return self._lines[names]


@dataclass(frozen=True)
class TrialRow(TableRow):
    """A finished trial.

    `gmacs` is 1e9 MACs and `params_m` 1e6 parameters for one image, `*_top1` percent; None where
    a value does not exist (yet). Budgets are those asked. `latency_ms` is of one image; it is a
    column where it was measured.
    """

    trial: int
    state: str
    tokens: float
    mhsa: float
    mlp: float
    gmacs: float
    params_m: float
    val_top1: float | None
    test_top1: float | None
    epochs: int
    seconds: float
    latency_ms: float | None = None


def has_front(rows: Iterable[TrialRow]) -> bool:
    """Whether there is more to show than a dense model beside which each training failed.

    A training that was stopped early did not fail; a network too slow to be trained counts as one
    that did.
    """
    ended = list(rows)
    trained = [row for row in ended if row.epochs or row.state != COMPLETE]
    return any(row.state == COMPLETE for row in ended) and (
        not trained or any(row.state != FAILED and row.epochs for row in trained)
    )


@dataclass(frozen=True)
class TransferRow(TableRow):
    """A network on a transfer task; `trial` is `dense` in the dense model's rows.

    `method` is `finetune` (all weights), `probe` (a linear classifier on frozen features) or
    `scratch` (the same architecture, trained from fresh weights).
    """

    task: str
    trial: str
    method: str
    seed: int
    gmacs: float
    params_m: float
    val_top1: float
    test_top1: float


def write_table(path: Path, kind: type[TableRow], rows: Iterable[TableRow]) -> None:
    """Replace a CSV in one step; no figure is rounded, a missing one is empty.

    Args:
        path: The file.
        kind: Whose fields are the columns; `latency_ms` is left out where no row has it.
        rows: Of that kind.
    """
    rows = list(rows)
    timed = any(getattr(row, "latency_ms", None) is not None for row in rows)
    names = tuple(f.name for f in fields(kind) if f.name != "latency_ms" or timed)
    write_text_atomic(path, "".join([_line(names), *(row.line(names) for row in rows)]))


def _line(values: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([_exact(value) for value in values])
    return text.getvalue()


def _exact(value: Any) -> str:
    """The shortest text that reads back as the same value."""
    return repr(value) if isinstance(value, float) else str(value)
