"""Where a trial ends: told to the study, written to trials.csv and front.csv, logged in MLflow."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import wraps
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from slim import Budget, MaskCheckpoint, count
from sweeps.early_stopping import ParetoHalving
from sweeps.front import pareto_front
from sweeps.run_folder import RunFolder, remove
from sweeps.stopping import StopRequest
from sweeps.study import BudgetStudy
from sweeps.tracking import FAILED as RUN_FAILED
from sweeps.tracking import FINISHED, KILLED, Tracker
from sweeps.trials import COMPLETE, FAILED, PRUNED, TrialRow, write_table

COLUMNS = ("gmacs", "params_m", "val_top1", "epochs", "seconds", "latency_ms")
STATUS = {COMPLETE: FINISHED, PRUNED: KILLED, FAILED: RUN_FAILED}  # of MLflow


def kept_from_tune(hook: Callable[..., None]) -> Callable[..., None]:
    """A hook of the recorder that raises nothing: the first error stands in `error`.

    Tune takes what a hook raises for a failure of the trial, and trains it again though the study
    knows its end. The sweep is stopped instead, with the states of what trains written.
    """

    @wraps(hook)
    def kept(self: "Recorder", *args: Any, **kwargs: Any) -> None:
        try:
            hook(self, *args, **kwargs)
        except Exception as error:
            self.error = self.error or error
            self.stop.make()

    return kept


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
        stop: Made here when a trial finds the disk full, or something cannot be recorded.

    Attributes:
        error: What could not be recorded, the first time.
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
        stop: StopRequest,
    ) -> None:
        self.study, self.tracker, self.folder = study, tracker, folder
        self.checkpoint, self.epochs, self.watch = checkpoint, epochs, watch
        self.stopper = stopper
        self.untrained: dict[int, float] = {}
        self.stop = stop
        self.error: Exception | None = None
        self.tagged: set[int] = set()
        self.front: list[TrialRow] = []

    def __getstate__(self) -> dict[str, Any]:
        """Nothing travels with Tune's own state: a resumed sweep makes this anew."""
        return {}

    def reconcile(self) -> None:
        """Bring MLflow, the tables and the folders to what the study says.

        A killed sweep may have told the study of an end and nobody else.
        """
        rows = self.study.rows()
        for row in rows:
            self._begin(row.trial, Budget(row.tokens, row.mhsa, row.mlp))
            self._end(row, self.study.reason(row.trial))
        keep = {str(row.trial) for row in rows if row.state == COMPLETE}
        keep |= {str(number) for number in self.study.running()}
        for folder in self.folder.models.iterdir() if self.folder.models.is_dir() else ():
            if folder.name not in keep:
                remove(folder)
        if rows:
            self._publish()

    @kept_from_tune
    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Begin the trial's run, or take up the one it had before an interruption."""
        number = int(trial.config["number"])
        self.tracker.reopen(self._begin(number, _budget_of(trial.config)))
        self.folder.keep()  # where a session on another machine finds the run and the budget
        self.watch("started", number, {})

    def _begin(self, number: int, budget: Budget) -> str:
        """The trial's run, with what is known of it before it trains."""
        if self.tracker.ended(run := run_of(number)):
            return run
        self.tracker.child(f"trial-{number}", "trial", {"trial": str(number)})
        self.tracker.tags(run, {"state": "RUNNING"})
        self.tracker.params(run, asdict(budget))
        architecture = self.checkpoint.select(budget)
        self.tracker.text(run, "architecture.json", json.dumps(architecture.to_json()))
        self.tracker.metrics(run, {f"kept_{k}": v for k, v in architecture.kept().items()})
        return run

    @kept_from_tune
    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """Log an epoch."""
        if "halted" in result or "failed" in result:  # which on_trial_complete sees to
            return
        number = int(trial.config["number"])
        figures = {name: result[name] for name in COLUMNS if name in result}
        self._log_course(number, result)
        if not result["epochs"] and "whole" not in result:
            self.untrained[number] = float(result["val_top1"])
        self.tracker.metrics(run_of(number), figures, step=int(result["epochs"]))
        if self.stopper is not None:  # the study knows a rung more, perhaps
            self.folder.keep()
        self.watch("epoch", number, figures)

    @kept_from_tune
    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Close a trial that ended without an error; half-trained is not complete."""
        result, number = trial.last_result, int(trial.config["number"])
        if "halted" in result:  # to be gone on with when the run is resumed
            if result["halted"]:
                self.stop.make(result["halted"])
            return
        if "failed" in result:
            self._close(trial, FAILED, result["failed"])
            return
        stopped = self.stopper.reason(number) if self.stopper else ""
        if reason := result.get("pruned", stopped):
            self._close(trial, PRUNED, reason)
            return
        if "whole" not in result and int(result.get("epochs", -1)) < self.epochs:
            self._close(trial, FAILED, "stopped before its last epoch")
            return
        row = self._row(trial, COMPLETE)
        self.study.complete(row, self.untrained.get(row.trial))
        self.folder.keep()  # the study first: what it does not know of would be trained again
        self._end(row, "")
        self._publish()
        self.watch("complete", row.trial, {})

    def _log_course(self, number: int, result: dict[str, Any]) -> None:
        """Log epochs that a killed driver did not hear of, and whether memory was short."""
        run = run_of(number)
        for epoch, accuracy in enumerate(result.get("curve", ())[:-1], start=1):
            self.tracker.metrics(run, {"val_top1": accuracy}, step=epoch)
        if "accumulation" in result:
            self.tracker.tags(run, {"accumulation": str(result["accumulation"])})

    @kept_from_tune
    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Close a trial that raised."""
        self._close(trial, FAILED, _reason(trial))

    def _close(self, trial: Trial, state: str, reason: str) -> None:
        row = self._row(trial, state)
        self.study.close(row, reason, self.untrained.get(row.trial))
        self.folder.keep()
        self._end(row, reason)
        self._publish()
        self.watch(state.lower(), row.trial, {"reason": reason})

    def _end(self, row: TrialRow, reason: str) -> None:
        """Log what the study was told, as far as it is not logged; forget the training's state.

        A run that a failing driver ended as KILLED may be one that the study has as COMPLETE.
        """
        run = run_of(row.trial)
        self.tracker.metrics(run, {name: getattr(row, name) for name in COLUMNS}, row.epochs)
        self.tracker.tags(run, {"state": row.state})
        if row.state == COMPLETE and not self.tracker.ended_as(run, FINISHED):
            network = self.folder.models / str(row.trial)
            self.folder.mirror.fetch(network)
            self.tracker.artifact(run, network, "model")
        self.tracker.finish(run, STATUS[row.state], reason)
        self.folder.forget_failed(self.folder.state / "trials" / str(row.trial), reason)

    def _publish(self) -> None:
        """Bring tables and front tags to what the study says."""
        rows = self.study.rows()
        new = [row for row in rows if row.state == COMPLETE and row.trial not in self.tagged]
        before, self.front = self.front, pareto_front([*self.front, *new])
        write_table(self.folder.path / "trials.csv", TrialRow, rows)
        write_table(self.folder.path / "front.csv", TrialRow, self.front)
        on_front = {row.trial for row in self.front}
        left = [row for row in before if row.trial not in on_front]
        for row in [*left, *new]:
            value = str(row.trial in on_front).lower()
            self.tracker.tags(run_of(row.trial), {"front": value})
        self.tagged |= {row.trial for row in new}
        self.folder.keep()

    def _row(self, trial: Trial, state: str) -> TrialRow:
        result = trial.last_result or {}
        config = trial.config
        budget, number = _budget_of(config), int(config["number"])
        row = planned_row(self.checkpoint, number, budget)
        rung = self.stopper.stopped.get(number, 0) if self.stopper else 0
        return replace(
            row,
            state=state,
            val_top1=result.get("val_top1") if state == COMPLETE else None,
            epochs=max(rung, int(result.get("epochs", 0))),
            seconds=float(result.get("seconds", 0.0)),
            latency_ms=result.get("latency_ms"),
        )


def _budget_of(config: dict[str, Any]) -> Budget:
    """Of a proposal, as Tune hands it on."""
    return Budget(*(float(config[name]) for name in ("tokens", "mhsa", "mlp")))


def run_of(number: int) -> str:
    """Key of a trial's run."""
    return f"trial.trial-{number}"


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
