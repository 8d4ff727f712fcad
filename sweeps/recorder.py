"""Where a trial ends: told to the study, written to trials.csv and front.csv, logged in MLflow."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from slim import Budget, MaskCheckpoint, count
from sweeps.early_stopping import ParetoHalving
from sweeps.front import pareto_front
from sweeps.run_folder import RunFolder
from sweeps.study import BudgetStudy
from sweeps.tracking import FAILED as RUN_FAILED
from sweeps.tracking import FINISHED, KILLED, Tracker, changed_tags
from sweeps.trials import COMPLETE, FAILED, PRUNED, TrialRow, write_table

COLUMNS = ("gmacs", "params_m", "val_top1", "epochs", "seconds", "latency_ms")


class Recorder(tune.Callback):
    """Follows the trials of a sweep; the only one that says how they ended.

    Args:
        study: Told of every end.
        tracker: Each trial is one run below the sweep's.
        folder: Whose tables are kept up to date.
        checkpoint: For the architecture of each budget.
        epochs: After which a trial is complete.
        stopper: Knows which trials were stopped early; None where none are.
        watch: Called with (event, trial number, its figures) for the display.
    """

    def __init__(
        self,
        study: BudgetStudy,
        tracker: Tracker,
        folder: RunFolder,
        checkpoint: MaskCheckpoint,
        epochs: int,
        stopper: ParetoHalving | None,
        watch: Callable[[str, int, dict[str, Any]], None],
    ) -> None:
        self.study, self.tracker, self.folder = study, tracker, folder
        self.checkpoint, self.epochs, self.watch = checkpoint, epochs, watch
        self.stopper = stopper
        self.untrained: dict[int, float] = {}
        self.runs: dict[int, str] = folder.recall("trial_runs", {})
        self.runs = {int(number): run for number, run in self.runs.items()}
        self.on_front = [row.trial for row in pareto_front(study.rows())]

    def __getstate__(self) -> dict[str, Any]:
        """Nothing travels with Tune's own state: a resumed sweep makes this anew."""
        return {}

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Begin the trial's run, or take up the one it had before an interruption."""
        number = int(trial.config["number"])
        if number not in self.runs:
            tags = {"trial": str(number), "state": "RUNNING"}
            run = self.tracker.child(f"trial-{number}", "trial", tags)
            budget = {name: trial.config[name] for name in ("tokens", "mhsa", "mlp")}
            self.tracker.params(run, budget)
            architecture = self.checkpoint.select(Budget(**budget))
            self.tracker.text(run, "architecture.json", json.dumps(architecture.to_json()))
            self.tracker.metrics(run, {f"kept_{k}": v for k, v in architecture.kept().items()})
            self.runs[number] = run
            self.folder.remember("trial_runs", self.runs)
        else:
            self.tracker.reopen(self.runs[number])
        self.watch("started", number, {})

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """Log an epoch."""
        number = int(trial.config["number"])
        figures = {name: result[name] for name in COLUMNS if name in result}
        if not result["epochs"]:
            self.untrained[number] = float(result["val_top1"])
        self.tracker.metrics(self.runs[number], figures, step=int(result["epochs"]))
        self.watch("epoch", number, figures)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Close a trial that ended without an error; half-trained is not complete."""
        result, number = trial.last_result, int(trial.config["number"])
        stopped = self.stopper.stopped.get(number) if self.stopper else None
        if reason := result.get("pruned", stopped):
            self._close(trial, PRUNED, str(reason))
            return
        if int(result.get("epochs", -1)) < self.epochs:
            self._close(trial, FAILED, "stopped before its last epoch")
            return
        row = self._row(trial, COMPLETE)
        self.study.complete(row, self.untrained.get(row.trial))
        run = self.runs[row.trial]
        self.tracker.tags(run, {"state": COMPLETE, "front": "false"})
        self.tracker.artifact(run, self.folder.models / str(row.trial), "model")
        self.tracker.finish(run, FINISHED)
        shutil.rmtree(self.folder.state / "trials" / str(row.trial), ignore_errors=True)
        self._publish()
        self.watch("complete", row.trial, {})

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Close a trial that raised."""
        self._close(trial, FAILED, _reason(trial))

    def _close(self, trial: Trial, state: str, reason: str) -> None:
        row = self._row(trial, state)
        self.study.close(row, reason)
        run = self.runs[row.trial]
        self.tracker.tags(run, {"state": state, "reason": reason[:500]})
        self.tracker.finish(run, KILLED if state == PRUNED else RUN_FAILED)
        shutil.rmtree(self.folder.state / "trials" / str(row.trial), ignore_errors=True)
        self._publish()
        self.watch(state.lower(), row.trial, {"reason": reason})

    def _publish(self) -> None:
        """Bring tables and front tags to what the study says."""
        rows = self.study.rows()
        front = pareto_front(rows)
        write_table(self.folder.path / "trials.csv", TrialRow, rows)
        write_table(self.folder.path / "front.csv", TrialRow, front)
        now = [row.trial for row in front]
        for number, value in changed_tags(self.on_front, now).items():
            self.tracker.tags(self.runs[number], {"front": value})
        self.on_front = now

    def _row(self, trial: Trial, state: str) -> TrialRow:
        result = trial.last_result or {}
        config = trial.config
        budget = Budget(*(float(config[name]) for name in ("tokens", "mhsa", "mlp")))
        row = planned_row(self.checkpoint, int(config["number"]), budget)
        return replace(
            row,
            state=state,
            val_top1=result.get("val_top1") if state == COMPLETE else None,
            epochs=int(result.get("epochs", 0)),
            seconds=float(result.get("seconds", 0.0)),
            latency_ms=result.get("latency_ms"),
        )


def planned_row(checkpoint: MaskCheckpoint, number: int, budget: Budget) -> TrialRow:
    """A trial's row before it trains: its cost is known."""
    cost = count(checkpoint.select(budget))
    return TrialRow(
        trial=number,
        state="PLANNED",
        tokens=budget.tokens,
        mhsa=budget.mhsa,
        mlp=budget.mlp,
        gmacs=cost.macs / 1e9,
        params_m=cost.params / 1e6,
        val_top1=None,
        test_top1=None,
        epochs=0,
        seconds=0.0,
    )


def _reason(trial: Trial) -> str:
    """The last line of what the trial raised."""
    path = trial.error_file  # the text that Tune wrote on this machine; no pickle is read
    text = Path(path).read_text() if path and Path(path).is_file() else "unknown error"
    return text.strip().splitlines()[-1]
