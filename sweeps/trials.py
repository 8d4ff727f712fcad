"""One trial as a row, and the tables of rows that a run leaves."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from slim.files import write_text_atomic

COMPLETE, PRUNED, FAILED = "COMPLETE", "PRUNED", "FAILED"


@dataclass(frozen=True)
class TrialRow:
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
class TransferRow:
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


def write_table(path: Path, kind: type, rows: Iterable[Any]) -> None:
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
    names = [field.name for field in fields(kind) if field.name != "latency_ms" or timed]
    writer.writerow(names)
    for row in rows:
        writer.writerow(["" if (v := getattr(row, n)) is None else _exact(v) for n in names])
    write_text_atomic(path, text.getvalue())


def _exact(value: Any) -> str:
    """The shortest text that reads back as the same value."""
    return repr(value) if isinstance(value, float) else str(value)
