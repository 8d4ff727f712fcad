"""The whole run: each stage takes the one before it as a value and gives one back."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import ray
from torch import nn

import slim
from slim.evaluation import top1
from slim.storage import is_out_of_space
from slim.subnetwork import architecture_of
from slim.tasks import Task
from slim.training import Epoch
from sweeps.broadcast import broadcast
from sweeps.cli import Command
from sweeps.cluster import Resources, connect, expected_concurrency
from sweeps.config import SweepConfig, flatten
from sweeps.dense import (
    dense_epochs,
    preprocessing_for,
    saved_preprocessing,
    train_dense,
)
from sweeps.early_stopping import ParetoHalving
from sweeps.errors import InputError, InterruptedRun, StoppedRun
from sweeps.front import pareto_front
from sweeps.inputs import check_inputs, resumed_config
from sweeps.judged import JudgedStudy
from sweeps.judging import judge_budgets
from sweeps.masking import search_masks
from sweeps.plan import Plan, make_plan, probe_speed
from sweeps.progress import Progress, print_end
from sweeps.publishing import (
    log_transfer,
    publish_front,
    publish_judged,
    publish_models,
    publish_reports,
    register_models,
)
from sweeps.recorder import Recorder, run_of
from sweeps.repeats import RepeatRow, plan_repeats, repeat_trial, spread_of
from sweeps.run_folder import RunFolder
from sweeps.sharing import share_weights
from sweeps.space import (
    BudgetSpace,
)
from sweeps.stages import naming_stage, spread, stream
from sweeps.stopping import StopRequest
from sweeps.study import BudgetStudy
from sweeps.sweep import sweep_budgets
from sweeps.tracking import FAILED, FINISHED, KILLED, Tracker
from sweeps.transfer import (
    finished_transfer,
    plan_transfer,
    run_transfer,
)
from sweeps.trial import TrialJob
from sweeps.trials import COMPLETE, TransferRow, TrialRow, write_table
from sweeps.worker import worker_device

DONE, NO_FRONT = 0, 1
DENSE_RUN = "dense.dense"
SECONDS_TO_SAY_GOODBYE = 3.0


def execute(command: Command) -> int:
    """Plan, run or resume what a command asks for.

    Returns:
        The exit code: 0 done, 1 ended without a front.

    Raises:
        InputError: If a value cannot be used.
        InterruptedRun: If the user stopped it.
        StoppedRun: If a service or a disk failed for good.
    """
    config = resumed_config(command) if command.resume else command.config
    config, task, transfers, model = check_inputs(config)
    if command.dry_run:
        plan = _plan(config, task, transfers, model, expected_concurrency(config), probe=True)
        print(plan.to_json() if command.dry_run == "json" else plan.to_text())
        return DONE
    folder = RunFolder(config.storage, config.name or _default_name(config))
    if command.resume and folder.recall("finished_trials") == config.trials:
        print(f"run {folder.name} is finished; its files are in {folder.path}")
        return DONE
    if command.resume:
        folder.write_config(config)  # a raised number of trials is that of later resumes too
    else:
        folder = RunFolder.create(config, folder.name)
    with folder.alone():
        folder.remove_drafts()
        try:
            with connect(config) as resources:
                tracker = Tracker(config.tracking_uri, folder.path)
                run = Run(config, folder, tracker, resources, task, transfers)
                plan = _plan(config, task, transfers, model, resources.concurrency, False)
                return run.to_end(plan)
        except InputError:
            if not command.resume:
                folder.discard()  # nothing was begun
            raise


class Run:
    """One run on a connected cluster.

    Args:
        config: All values.
        folder: Where its files go.
        tracker: Where it is logged.
        resources: What the cluster has.
        task: The source task.
        transfers: The transfer tasks.
    """

    def __init__(
        self,
        config: SweepConfig,
        folder: RunFolder,
        tracker: Tracker,
        resources: Resources,
        task: Task,
        transfers: list[Task],
    ) -> None:
        self.config, self.folder, self.tracker = config, folder, tracker
        self.resources, self.task, self.transfers = resources, task, transfers
        self.task_reference = ray.put(task)
        self.repeats: list[RepeatRow] = []
        self.stop = StopRequest(folder.stop)

    def to_end(self, plan: Plan) -> int:
        """Run every stage that is not done; the exit code."""
        self.tracker.begin(self.folder.name)
        self.tracker.params(self.tracker.parent, flatten(self.config.to_dict()))
        try:
            with Progress(self.folder.name, plan) as self.progress, self.stop.by_signal():
                self.tracker.on_note(self.progress.note)
                rows = self._stages()
                self.tracker.flush()
        except (KeyboardInterrupt, InterruptedRun) as error:
            self._stop_tracking(KILLED)
            raise InterruptedRun(
                f"interrupted; finished trials are kept in {self.folder.path}; {self._go_on}"
            ) from error
        except StoppedRun as error:
            self._stop_tracking(KILLED)
            raise StoppedRun(f"{error}; {self._go_on}") from error
        except BaseException as error:
            if is_out_of_space(error):
                self._stop_tracking(KILLED)
                raise StoppedRun(
                    f"no space is left for {self.folder.path} or {self.config.tracking_uri}; free "
                    f"some, then {self._go_on}"
                ) from error
            self._stop_tracking(FAILED)
            raise
        finally:
            self.tracker.close()
        self._print_end(rows, plan)
        front = pareto_front(rows)
        self.folder.remember("finished_trials", self.config.trials)
        return DONE if front else NO_FRONT

    @property
    def _go_on(self) -> str:
        return f"go on with python run_sweep.py --resume {self.folder.name}"

    def _stop_tracking(self, status: str) -> None:
        """End the sweep's run in MLflow if that is possible at once; else resuming does."""
        with contextlib.suppress(StoppedRun, OSError):
            self.tracker.finish_parent(status)
            self.tracker.flush(SECONDS_TO_SAY_GOODBYE)

    def _stages(self) -> list[TrialRow]:
        folder = self.folder
        epochs = dense_epochs(self.config)
        self._training_stage("dense", train_dense, epochs, folder.dense, (folder.dense,))
        epochs = self.config.search.epochs
        inputs = (folder.dense, folder.search)
        self._training_stage("search", search_masks, epochs, folder.search, inputs)
        searched = folder.search
        if shared_epochs := int(self.config.share.epochs or 0):
            epochs, searched = shared_epochs, folder.shared
            folders = (folder.dense, folder.search, folder.shared)
            self._training_stage("share", share_weights, epochs, folder.shared, folders)
        checkpoint = slim.MaskCheckpoint.load(searched)
        dense = slim.load(folder.dense)
        shared = broadcast(checkpoint, dense, self.task, saved_preprocessing(folder.dense))
        states, mirror = folder.state / "trials", folder.mirror
        job = TrialJob(self.config, shared, folder.models, states, folder.stop, mirror)
        space = BudgetSpace(self.config, checkpoint.spec, checkpoint.ranking)
        judged = self._judge(job, JudgedStudy(folder.journal, self.config, space))
        study = BudgetStudy(folder.journal, self.config, space, judged)
        self._sweep(job, study, checkpoint)
        self._repeat(job, pareto_front(study.rows()))
        rows = self._test(study)
        front = pareto_front(rows)
        write_table(folder.path / "trials.csv", TrialRow, rows)
        write_table(folder.path / "front.csv", TrialRow, front)
        publish_front(self.tracker, folder, rows, checkpoint)
        publish_models(self.tracker, folder, front)
        self._transfer([row.trial for row in front])
        self.tracker.finish_parent(FINISHED if front else FAILED)  # the reports say how it ended
        self.progress.begin("reports")
        self.tracker.flush()
        if self.config.register:
            register_models(self.tracker, folder, front, checkpoint)
        publish_reports(self.tracker, folder, self.config.tracking_uri)
        return rows

    def _training_stage(
        self,
        name: str,
        function: Callable[..., Iterator[Epoch]],
        epochs: int,
        result: Path,
        folders: tuple[Path, ...],
    ) -> None:
        """Train one network as a task of its own, unless it is done."""
        if self.folder.recall(f"{name}_done"):
            self.progress.skip(name)
            return
        self.progress.begin(name)
        run, started = self._stage_run(name), time.monotonic()
        arguments = (self.config, self.task_reference, *folders, self.folder.state / f"{name}.pt")
        options = {"workers": self.config.workers_per_trial, "mirror": self.folder.mirror}
        options |= {"retries": self.config.max_retries} | self.resources.stage
        trained = stream(function, *arguments, **options)
        try:
            with naming_stage(name):
                self._follow(name, run, trained, epochs)
        except slim.StoppedTraining as error:
            raise InterruptedRun from error
        except slim.StorageError as error:
            raise StoppedRun(str(error)) from error
        except Exception as error:
            self.tracker.finish(run, FAILED, str(error))
            raise
        self.folder.mirror.fetch(result)
        self.tracker.metrics(run, {"seconds": time.monotonic() - started})
        self.tracker.artifact(run, result)
        self.tracker.finish(run)
        self.folder.remember(f"{name}_done", True)

    def _follow(self, name: str, run: str, trained: Iterator[Epoch], epochs: int) -> None:
        """Log and show a stage's epochs as they come."""
        for epoch in trained:
            self.tracker.metrics(run, {"val_top1": epoch.val_top1}, step=epoch.epoch)
            if epoch.epoch:
                self.tracker.metrics(run, {"loss": epoch.loss}, step=epoch.epoch)
            detail = f"epoch {epoch.epoch}/{epochs}, val top-1 {epoch.val_top1:.2f} %"
            self.progress.advance(name, epoch.epoch / epochs if epochs else 1.0, detail)

    def _stage_run(self, name: str) -> str:
        """The MLflow run of a stage; an interrupted one is taken up again."""
        run = self.tracker.child(name, name)
        self.tracker.reopen(run)
        return run

    def _judge(self, job: TrialJob, study: JudgedStudy) -> JudgedStudy:
        """Judge budgets until there are as many as asked, and log them as one table."""
        total = int(self.config.judge.budgets or 0)
        if not total:
            return study
        if self.folder.recall("judged") == len(study.rows()):
            self.progress.skip("judge")
            return study
        self.progress.begin("judge")
        started = time.monotonic()
        with naming_stage("judge"):
            for done in judge_budgets(job, study, self.resources):
                self._end_if_asked()
                detail = f"{done}/{total} budgets, {len(study.front())} on their front"
                self.progress.advance("judge", done / total, detail)
        rows = study.rows()
        publish_judged(self.tracker, self.folder, rows, study.front())
        figures = {"judged": float(len(rows)), "judged_front": float(len(study.front()))}
        seconds = {"judge_seconds": time.monotonic() - started}
        self.tracker.metrics(self.tracker.parent, figures | seconds)
        self.folder.remember("judged", len(rows))
        return study

    def _sweep(self, job: TrialJob, study: BudgetStudy, checkpoint: slim.MaskCheckpoint) -> None:
        """Train budgets until there are as many as asked."""
        config, folder = self.config, self.folder
        epochs = int(config.finetune.epochs or 0)
        reduction = config.finetune.reduction
        stopper = ParetoHalving(study, epochs, reduction) if reduction else None
        recorder = Recorder(
            study,
            self.tracker,
            folder,
            checkpoint,
            epochs,
            stopper,
            self._watch(study, epochs),
            self.stop,
        )
        recorder.reconcile()
        if study.remaining() <= 0:
            self.progress.skip("sweep")
            return
        self.progress.begin("sweep")
        sweep_budgets(job, study, recorder, stopper, self.resources, folder, config.verbose)
        tau = study.rank_correlation()
        if tau is not None:
            self.tracker.metrics(self.tracker.parent, {"kendall_tau": tau})
            self.progress.note(f"Kendall's tau between judged and trained accuracy: {tau:.2f}")

    def _repeat(self, job: TrialJob, front: list[TrialRow]) -> None:
        """Train the networks of the front again, with other seeds."""
        todo = plan_repeats(front, self.config.repeats)
        if not todo:
            return
        self.progress.begin("repeats")
        folder = self.folder.state / "repeats"
        jobs = [(row, repeat, job, folder) for row, repeat in todo]
        most, resources = self.resources.concurrency, self.resources.trial
        rows = []
        trained = spread(repeat_trial, jobs, most, mirror=self.folder.mirror, **resources)
        for done, (_, result) in enumerate(trained, 1):
            self._end_if_asked()
            rows.append(_raised(result))
            self.progress.advance("repeats", done / len(jobs), f"training {done}/{len(jobs)}")
        self.repeats = rows

    def _watch(self, study: BudgetStudy, each: int) -> Callable[[str, int, dict[str, Any]], None]:
        """Show what happens to trials of so many epochs each."""
        epochs: dict[int, int] = {row.trial: each for row in study.rows()}
        running: set[int] = set()
        total = self.config.trials * each

        def watch(event: str, number: int, figures: dict[str, Any]) -> None:
            if event == "started":
                running.add(number)
            elif event != "epoch":
                running.discard(number)
            epochs[number] = int(figures.get("epochs", epochs.get(number, 0)))
            self.progress.trials(study.rows(), len(running))
            if event in ("failed", "pruned"):
                self.progress.note(f"trial {number} {event}: {figures['reason']}")
                epochs[number] = each
            if event in ("complete", "failed", "pruned"):
                share = sum(epochs.values()) / total
                self.progress.advance("sweep", share, f"trial {number} {event}")

        return watch

    def _test(self, study: BudgetStudy) -> list[TrialRow]:
        """Look at the test split, once per network, now that nothing is left to decide."""
        known: dict[str, float] = self.folder.recall("test_top1", {})
        complete = [str(row.trial) for row in study.rows() if row.state == COMPLETE]
        missing = [key for key in ["dense", *complete] if key not in known]
        self.progress.begin("test")
        jobs = [(self._network(key), self.task_reference) for key in missing]
        most, resources = self.resources.concurrency, self.resources.trial
        mirror = self.folder.mirror
        tested = spread(test_network, jobs, most, mirror=mirror, **resources)
        for done, (index, result) in enumerate(tested, 1):
            self._end_if_asked()
            known[missing[index]] = _raised(result)
            mirror.fetch(jobs[index][0])
            slim.add_about(jobs[index][0], {"test_top1": known[missing[index]]})
            mirror.keep(jobs[index][0])
            self.progress.advance("test", done / len(jobs), f"network {done}/{len(jobs)}")
        epochs = int(self.config.finetune.epochs or 0)
        for key in missing:
            run = DENSE_RUN if key == "dense" else run_of(int(key))
            self.tracker.metrics(run, {"test_top1": known[key]}, step=epochs)
            for name in (slim.serving.HEADER, slim.serving.CARD):
                folder = "dense" if key == "dense" else "model"
                self.tracker.artifact(run, self._network(key) / name, folder)
        if "dense" in missing:
            cost = slim.count(architecture_of(slim.load(self.folder.dense)))
            figures = {"gmacs": cost.macs / 1e9, "params_m": cost.params / 1e6}
            self.tracker.metrics(DENSE_RUN, figures)
        self.folder.remember("test_top1", known)
        rows = [replace(row, test_top1=known.get(str(row.trial))) for row in study.rows()]
        self._publish_repeats(rows)
        return rows

    def _publish_repeats(self, rows: list[TrialRow]) -> None:
        """Write repeats.csv; mean and spread go to the trials' runs."""
        if not self.repeats:
            return
        again = {row.trial for row in self.repeats}
        first = [
            RepeatRow(row.trial, 0, row.gmacs, float(row.val_top1 or 0), float(row.test_top1 or 0))
            for row in rows
            if row.trial in again
        ]
        table = sorted([*first, *self.repeats], key=lambda row: (row.gmacs, row.trial, row.repeat))
        write_table(self.folder.path / "repeats.csv", RepeatRow, table)
        self.tracker.artifact(self.tracker.parent, self.folder.path / "repeats.csv")
        for number in sorted(again):
            figures = spread_of([row for row in table if row.trial == number])
            self.tracker.metrics(run_of(number), figures)

    def _end_if_asked(self) -> None:
        """Between two jobs: the user may have asked to stop."""
        if self.stop.made:
            raise InterruptedRun

    def _network(self, key: str) -> Path:
        """Folder of a trial's network, or of the dense one."""
        return self.folder.dense if key == "dense" else self.folder.models / key

    def _transfer(self, front: list[int]) -> None:
        """Fine-tune the front's networks and the dense one on each transfer task."""
        folder, config = self.folder, self.config
        results = folder.state / "transfer"
        jobs = plan_transfer(self.transfers, front, folder.models, folder.dense, config)
        done = [found for job in jobs if (found := finished_transfer(job, results))]
        for finished in done:  # a killed run may not have said so
            log_transfer(self.tracker, *finished)
        rows = [row for row, _, _ in done]
        todo = [job for job in jobs if not finished_transfer(job, results)]
        if todo:
            self.progress.begin("transfer")
        references = {task.name: ray.put(task) for task in self.transfers}
        arguments = [(job, references[job.task], config, results) for job in todo]
        most, resources = self.resources.concurrency, self.resources.trial
        trained = spread(run_transfer, arguments, most, mirror=folder.mirror, **resources)
        for index, result in trained:
            self._end_if_asked()
            job = todo[index]
            if isinstance(result, BaseException):
                self.progress.note(f"transfer of {job.trial} to {job.task} failed: {result}")
                continue
            rows.append(result[0])
            log_transfer(self.tracker, *result)
            same = [other for other in jobs if other.task == job.task]
            ended = sum(row.task == job.task for row in rows)
            detail = f"{job.trial}: test top-1 {result[0].test_top1:.2f} %, {ended}/{len(same)}"
            self.progress.advance(f"transfer {job.task}", ended / len(same), detail)
        order = {(job.task, job.trial, job.method, job.seed): i for i, job in enumerate(jobs)}
        rows.sort(key=lambda row: order[row.task, row.trial, row.method, row.seed])
        write_table(folder.path / "transfer.csv", TransferRow, rows)
        self.tracker.artifact(self.tracker.parent, folder.path / "transfer.csv")

    def _print_end(self, rows: list[TrialRow], plan: Plan) -> None:
        front = pareto_front(rows)
        page = self.tracker.front_page(self.folder.name)
        print_end(front, plan.dense_gmacs, self.folder, self.config.tracking_uri, page)


def test_network(folder: Path, task: Task) -> float:
    """Test top-1 of a saved network, on a worker."""
    device = worker_device()
    vit = slim.load(folder).to(device)
    return top1(vit, task, "test", saved_preprocessing(folder), device=device)


def _raised(result: Any) -> Any:
    """The result itself, or the exception that stands in its place, raised."""
    if isinstance(result, BaseException):
        raise result
    return result


def _plan(
    config: SweepConfig,
    task: Task,
    transfers: list[Task],
    model: nn.Module,
    concurrency: int,
    probe: bool,
) -> Plan:
    speed = None
    if probe:
        speed = probe_speed(model, task, preprocessing_for(config, model, task), config)
    return make_plan(config, model, task, transfers, concurrency, speed)


def _default_name(config: SweepConfig) -> str:
    """Data, model and date."""
    parts = [Path(config.data.partition(":")[0]).name, Path(config.model).name]
    safe = ["".join(c if c.isalnum() or c in "_-" else "-" for c in part) for part in parts]
    return "-".join([*safe, datetime.now().strftime("%Y%m%d-%H%M%S")])[:128]
