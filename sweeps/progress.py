"""What the terminal shows while a run works: stage, trials, best networks, time left."""

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

import slim
from sweeps.front import pareto_front
from sweeps.plan import Plan, format_seconds
from sweeps.repeats import Spreads
from sweeps.run_folder import RunFolder
from sweeps.trials import TrialRow

WIDTH = 160
"""Columns that the last table may have: a narrower terminal folds its lines and loses no digit."""
LEVELS = (1.0, 0.5, 0.3, 0.15)


class Progress:
    """Live on a terminal, plain lines elsewhere.

    Args:
        name: Of the run.
        plan: Whose work is shown as done or to do.
    """

    def __init__(self, name: str, plan: Plan) -> None:
        self.name, self.plan = name, plan
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.units = {stage.name: stage.gmacs_images / stage.workers for stage in plan.stages}
        self.done = dict.fromkeys(self.units, 0.0)
        self.skipped = 0.0
        self.started = time.monotonic()
        self.stage = self.detail = ""
        self.counts = ""
        self.rows: Sequence[TrialRow] = ()
        self.live: Live | None = None

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self.live = Live(
                get_renderable=self._render, console=self.console, refresh_per_second=4
            )
            self.live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live is not None:
            self.live.__exit__(kind, error, trace)
            self.live = None

    def begin(self, stage: str) -> None:
        """A stage starts."""
        self.stage, self.detail = stage, ""
        self._line(f"{stage}: started")

    def skip(self, stage: str) -> None:
        """A stage was done by an earlier session."""
        self.credit(stage, 1.0)
        self._line(f"{stage}: done before")

    def credit(self, stage: str, share: float) -> None:
        """A share (0 to 1) of a stage's work was done by an earlier session."""
        known = self.done.get(stage, 0.0)
        self.done[stage] = self.units.get(stage, 0.0) * min(1.0, share)
        self.skipped += self.done[stage] - known

    def advance(self, stage: str, share: float, detail: str) -> None:
        """A share (0 to 1) of a stage's work is done."""
        self.done[stage] = self.units.get(stage, 0.0) * min(1.0, share)
        self.detail = detail
        self._line(f"{stage}: {detail}{self._left()}")

    def trials(self, rows: Sequence[TrialRow], running: int) -> None:
        """The sweep's table changed."""
        self.rows = rows
        planned = max(0, self.plan.trials - len(rows) - running)
        self.counts = f"{len(rows)} done, {running} running, {planned} planned"

    def note(self, text: str) -> None:
        """Something the user should know."""
        self.console.print(Text(text))

    def seconds_left(self) -> float | None:
        """Estimated from the work done so far; None before there is any."""
        fresh = sum(self.done.values()) - self.skipped
        elapsed = time.monotonic() - self.started
        if fresh <= 0 or elapsed < 1:
            return None
        return (sum(self.units.values()) - sum(self.done.values())) / fresh * elapsed

    def best_at_levels(self) -> list[tuple[float, TrialRow]]:
        """The best val top-1 at a few MAC levels (shares of dense)."""
        front = pareto_front(self.rows)
        best = []
        for level in LEVELS:
            fitting = [row for row in front if row.gmacs <= level * self.plan.dense_gmacs]
            if fitting:
                best.append((level, max(fitting, key=lambda row: row.val_top1 or 0.0)))
        return best

    def _left(self) -> str:
        left = self.seconds_left()
        return "" if left is None else f", {format_seconds(left)} left"

    def _line(self, text: str) -> None:
        """A plain line where there is no terminal."""
        if not self.console.is_terminal:
            best = self.best_at_levels()
            shown = "".join(f"; <= {lv:.0%} MACs: {r.val_top1:.2f} %" for lv, r in best)
            print(text + (shown if text.startswith("sweep") else ""), flush=True)

    def _render(self) -> RenderableType:
        total = sum(self.units.values())
        done = sum(self.done.values())
        head = Text.assemble(
            (f"{self.name}  ", "bold"),
            (self.stage, "bold cyan"),
            f"  {self.detail}",
        )
        bar = ProgressBar(total=total, completed=done, width=40)
        status = Text(f"{done / total:.0%}{self._left()}" if total else "")
        grid = Table.grid(padding=(0, 1))
        grid.add_row(bar, status)
        parts: list[RenderableType] = [head, grid]
        if self.counts:
            parts.append(Text(f"trials: {self.counts}"))
        best = self.best_at_levels()
        if best:
            table = Table(box=None, pad_edge=False)
            table.add_column("MACs at most")
            table.add_column("best val top-1", justify="right")
            table.add_column("trial", justify="right")
            for level, row in best:
                table.add_row(f"{level:.0%} of dense", f"{row.val_top1:.2f} %", str(row.trial))
            parts.append(table)
        return Group(*parts)


def print_end(
    front: Sequence[TrialRow],
    why_no_front: str,
    dense_gmacs: float,
    spreads: Spreads,
    folder: RunFolder,
    tracking_uri: str,
    page: str,
) -> None:
    """The front, where the files are, and how to look at the run; `page` is below MLflow's."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True, width=WIDTH)
    dense = slim.serving.load_about(folder.dense)
    table = front_table(front, dense_gmacs, dense, spreads)
    console.print(table if front else why_no_front)
    console.print(f"files:   {folder.path}", markup=False)
    console.print(f"reports: {folder.reports}", markup=False)
    if tracking_uri.startswith("http"):
        console.print(f"MLflow:  {tracking_uri.rstrip('/')}{page}", markup=False)
    else:
        line = f"mlflow ui --backend-store-uri {shlex.quote(tracking_uri)}"
        console.print(f"MLflow:  {line}  (experiment vit-slim, run {folder.name})", markup=False)
        console.print(f"         then http://127.0.0.1:5000{page}", markup=False)


def front_table(
    front: Sequence[TrialRow], dense_gmacs: float, dense: Mapping[str, Any], spreads: Spreads
) -> Table:
    """The front for the end of a run, cheapest first, and the dense model as it was loaded or
    trained before the search.

    Args:
        front: The networks.
        dense_gmacs: 1e9 MACs of the dense model.
        dense: Its `val_top1` and `test_top1`, in percent.
        spreads: Of the networks that were trained again.
    """
    measured = any(row.latency_ms is not None for row in front)
    table = Table(
        title="Pareto front: cost (GMACs, M parameters), top-1 on val and test",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    for name in ("trial", "tokens", "MHSA", "MLP", "GMACs", "of dense", "M"):
        table.add_column(name, justify="right")
    means = ("val mean", "test mean") if spreads else ()
    for name in (*(["ms"] if measured else []), "val %", "test %", *means):
        table.add_column(name, justify="right")
    for row in front:
        table.add_row(
            str(row.trial),
            *(f"{share:.2f}" for share in (row.tokens, row.mhsa, row.mlp)),
            f"{row.gmacs:.3g}",
            f"{row.gmacs / dense_gmacs:.0%}",
            f"{row.params_m:.3g}",
            *([_told(row.latency_ms, ".3g")] if measured else []),
            _told(row.val_top1, ".2f"),
            _told(row.test_top1, ".2f"),
            *(_mean(spreads.get(row.trial, {}), name) for name in means),
        )
    accuracies = (_told(dense.get(name), ".2f") for name in ("val_top1", "test_top1"))
    gap = ["", "", "", f"{dense_gmacs:.3g}", "100%", "", *([""] if measured else [])]
    table.add_section()
    table.add_row("dense model", *gap, *accuracies)
    return table


def _mean(spread: Mapping[str, float], column: str) -> str:
    """ "81.25 ± 0.10", of the trainings of one budget."""
    name = column.replace(" mean", "_top1")
    if f"{name}_std" not in spread:
        return ""
    return f"{spread[f'{name}_mean']:.2f} ± {spread[f'{name}_std']:.2f}"


def _told(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
