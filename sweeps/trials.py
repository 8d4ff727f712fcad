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
    def cells(self) -> dict[str, str]:
        """Its values as text, by column; made once, as a table is written at each change."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: "" if value is None else _exact(value) for name, value in values.items()}


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
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    timed = any(getattr(row, "latency_ms", None) is not None for row in rows)
    names = [f.name for f in fields(kind) if f.name != "latency_ms" or timed]
    writer.writerow(names)
    writer.writerows([row.cells[name] for name in names] for row in rows)
    write_text_atomic(path, text.getvalue())


def _exact(value: Any) -> str:
    """The shortest text that reads back as the same value."""
    return repr(value) if isinstance(value, float) else str(value)
