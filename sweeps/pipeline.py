"""The whole run: its stages in their order, each given what those before it found."""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import ray
from ray.exceptions import RayError, RayTaskError

import slim
from analysis.errors import AnalysisError
from analysis.runs import data_name
from slim.errors import one_line
from slim.serving import load_about
from slim.storage import is_out_of_space
from slim.tasks import SPLITS, Task
from slim.training import Epoch
from sweeps.broadcast import broadcast
from sweeps.cli import Command
from sweeps.cluster import Resources, connect, expected_concurrency
from sweeps.config import SweepConfig, dense_epochs, flatten
from sweeps.delivery import may_pass
from sweeps.dense import saved_preprocessing, train_dense
from sweeps.errors import InputError, InterruptedRun, StoppedRun
from sweeps.front import pareto_front
from sweeps.inputs import check_images, check_inputs, planned_preprocessing, resumed_config
from sweeps.judged import JudgedStudy
from sweeps.judging_stage import judging_stage
from sweeps.masking import search_masks
from sweeps.plan import Finished, Plan, make_plan, probe_speeds
from sweeps.progress import Progress, print_end
from sweeps.publishing import publish_front, publish_models, publish_reports, register_models
from sweeps.repeat_stage import publish_repeats, repeat_stage
from sweeps.repeats import Spreads
from sweeps.run_folder import RunFolder, remove
from sweeps.searched import stages_taken, take_search, taken_stage, with_search_of
from sweeps.session import Session
from sweeps.sharing import share_weights
from sweeps.space import BudgetSpace
from sweeps.stopping import StopRequest
from sweeps.study import BudgetStudy
from sweeps.sweep_stage import sweep_stage
from sweeps.testing_stage import testing_stage
from sweeps.tracking import FAILED, FINISHED, KILLED, Tracker
from sweeps.training_stage import training_stage
from sweeps.transfer_stage import transfer_stage
from sweeps.trial import TrialJob, keeps_outputs
from sweeps.trials import PRUNED, TrialRow, has_front, write_table

DONE, NO_FRONT = 0, 1
_LONGEST_PART = 50  # of a default name
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
    config = resumed_config(command) if command.resume else with_search_of(command)
    config, task, transfers, model = check_inputs(config, begins=not command.resume)
    if not command.resume and config.name:
        _folder(config).refuse_taken()
    if command.dry_run:
        preprocessing = planned_preprocessing(config, task, model, begins=not command.resume)
        speeds = probe_speeds(model, task, preprocessing, config)
        finished = Finished.of(_folder(config)) if command.resume else Finished()
        concurrency = expected_concurrency(config)
        plan = make_plan(config, model, task, transfers, concurrency, speeds, finished)
        print(plan.to_json() if command.dry_run == "json" else plan.to_text())
        return DONE
    folder = _folder(config)
    ended = command.resume and folder.recall("finished_trials") == config.trials
    if ended and not _wants_more(command):
        print(f"run {folder.name} is finished; its files are in {folder.path}")
        return DONE
    if command.resume:
        check_images(folder, task)
    else:
        folder = RunFolder.create(config, folder.name)
        config = replace(config, name=folder.name)
    with folder.alone():
        folder.remove_drafts()
        try:
            take_search(config, folder)
            with connect(config) as resources:
                tracker = Tracker(config.tracking_uri, folder.path)
                run = Run(config, folder, tracker, resources, task, transfers)
                if _stages_left(config, folder):
                    resources.check_stage()
                concurrency, whole = resources.concurrency, Finished()
                plan = make_plan(config, model, task, transfers, concurrency, None, whole)
                folder.write_config(config)  # a raised number of trials is that of later resumes
                return run.to_end(plan)
        except InputError:
            if not command.resume:
                folder.discard()
            raise
        except OSError as error:
            reason = outage(error, f"{folder.path} or {config.tracking_uri}")
            if not reason:
                raise
            raise StoppedRun(f"{reason}; {_go_on(folder)}") from error


def _stages_left(config: SweepConfig, folder: RunFolder) -> list[str]:
    """Which of the stages before the trials have a network to train."""
    epochs = {
        "dense": dense_epochs(config),
        "search": config.search.epochs,
        "share": int(config.share.epochs or 0),
    }
    taken = stages_taken(config)
    return [
        name
        for name, wanted in epochs.items()
        if wanted and name not in taken and not folder.recall(f"{name}_done")
    ]


def _wants_more(command: Command) -> bool:
    """Whether something is asked of a finished run: its networks registered, or a longer sweep."""
    registers = command.config.register and "register" in command.given
    return registers or not command.given.isdisjoint({"patience", "min_gain"})


class Run:
    """One run on a connected cluster: how it begins and ends, and what an interruption leaves.

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
        self.stop = StopRequest(folder.stop)

    def to_end(self, plan: Plan) -> int:
        """Run every stage that is not done; the exit code."""
        if self.folder.recall("finished_trials") is not None:  # something more is asked of it
            self.folder.remember("finished_trials", None)
        self.tracker.begin(self.folder.name)
        self.tracker.params(self.tracker.parent, flatten(self.config.to_dict()))
        told = self.task.fingerprint()
        images = {f"images.{key}": told[key] for key in (*SPLITS, "sha256")}
        self.tracker.params(self.tracker.parent, images)
        self.folder.keep()  # where a session on another machine finds the sweep's run
        try:
            in_time = self.stop.by_signal(self._interrupted)
            with Progress(self.folder.name, plan) as progress, in_time:
                self.tracker.on_note(progress.note)
                rows, spreads = _stages(self._session(progress), self.task)
                self.tracker.flush()
        except (KeyboardInterrupt, InterruptedRun) as error:
            self._stop_tracking(KILLED)
            raise InterruptedRun(self._interrupted) from error
        except StoppedRun as error:
            self._stop_tracking(KILLED)
            raise StoppedRun(f"{error}; {_go_on(self.folder)}") from error
        except BaseException as error:
            reason = outage(error, f"{self.folder.path} or {self.config.tracking_uri}")
            self._stop_tracking(KILLED if reason else FAILED)
            if reason:
                raise StoppedRun(f"{reason}; {_go_on(self.folder)}") from error
            raise
        finally:
            self.tracker.close()
        self._print_end(rows, spreads, plan)
        self.folder.remember("finished_trials", self.config.trials)
        return DONE if has_front(rows) else NO_FRONT

    @property
    def _interrupted(self) -> str:
        return (
            f"interrupted; finished trials are kept in {self.folder.path}; {_go_on(self.folder)}"
        )

    def _stop_tracking(self, status: str) -> None:
        """End the sweep's run in MLflow if that is possible at once; else resuming does."""
        with contextlib.suppress(StoppedRun, OSError):
            self.tracker.finish_parent(status)
            self.tracker.flush(SECONDS_TO_SAY_GOODBYE)

    def _session(self, progress: Progress) -> Session:
        return Session(
            self.config,
            self.folder,
            self.tracker,
            self.resources,
            ray.put(self.task),
            self.transfers,
            progress,
            self.stop,
        )

    def _print_end(self, rows: list[TrialRow], spreads: Spreads, plan: Plan) -> None:
        front = pareto_front(rows) if has_front(rows) else []
        page, uri = self.tracker.front_page(self.folder.name), self.config.tracking_uri
        pruned = [row for row in rows if row.state == PRUNED and not row.epochs]
        why = "no training came to its end: no front"
        if slow := [row.latency_ms for row in pruned if row.latency_ms is not None]:
            limit = f"--max-latency-ms {self.config.max_latency_ms:g}"
            why = f"{limit} let no training begin: the fastest network takes {min(slow):.4g} ms"
        print_end(front, why, plan.dense_gmacs, spreads, self.folder, uri, page)


def _go_on(folder: RunFolder) -> str:
    return f"go on with python run_sweep.py --resume {folder.address}"


def outage(error: BaseException, places: str) -> str:
    """What to say of an error that machines are to blame for; nothing of another.

    Args:
        error: That ended a run.
        places: What a run writes to.
    """
    if is_out_of_space(error):
        return f"no space is left for {places}; free some"
    if isinstance(error, RayError) and not isinstance(error, RayTaskError):
        return f"Ray gave up: {type(error).__name__}: {one_line(error)}"
    return ""


def _stages(session: Session, task: Task) -> tuple[list[TrialRow], Spreads]:
    """Every stage that is not done; all trials as they stand at the end, and their repeats."""
    config, folder, tracker = session.config, session.folder, session.tracker
    checkpoint, job = _ranked(session, task)
    space = _searched_space(config, checkpoint, folder)
    judged = judging_stage(session, job, JudgedStudy(folder.journal, config, space))
    _check_latency(judged, folder)
    dense_top1 = load_about(folder.dense)["val_top1"]
    study = BudgetStudy(folder.journal, config, space, judged, dense_top1)
    sweep_stage(session, job, study, checkpoint)
    repeats = repeat_stage(session, job, pareto_front(study.rows()))
    remove(folder.outputs)
    rows = testing_stage(session, study)
    spreads = publish_repeats(session, rows, repeats)
    front = pareto_front(rows)
    write_table(folder.path / "trials.csv", TrialRow, rows)
    write_table(folder.path / "front.csv", TrialRow, front)
    publish_front(tracker, folder, rows, checkpoint)
    publish_models(tracker, folder, front)
    transfer_stage(session, front)
    tracker.finish_parent(FINISHED if has_front(rows) else FAILED)  # the reports say how it ended
    session.progress.begin("reports")
    tracker.flush()
    if config.register:
        _register(session, front, checkpoint)
    try:
        publish_reports(tracker, folder, config.tracking_uri)
    except AnalysisError as error:
        raise StoppedRun(f"the reports could not be made: {one_line(error)}") from error
    return rows, spreads


def _register(session: Session, front: list[TrialRow], checkpoint: slim.MaskCheckpoint) -> None:
    """Register the front's networks.

    Raises:
        StoppedRun: If MLflow does not do it now; resuming tries again.
    """
    try:
        register_models(session.tracker, session.folder, front, checkpoint)
    except Exception as error:
        if not may_pass(error):
            raise
        line = one_line(error)
        raise StoppedRun(f"the networks could not be registered: {line}") from error


def _searched_space(
    config: SweepConfig, checkpoint: slim.MaskCheckpoint, folder: RunFolder
) -> BudgetSpace:
    """Where budgets lie, now that the ranking is known: the smallest network may cost more."""
    space = BudgetSpace(config, checkpoint.spec, checkpoint.ranking)
    try:
        space.check()
    except InputError as error:
        raise InputError(f"{error}; {_kept(folder)}") from error
    return space


def _check_latency(judged: JudgedStudy, folder: RunFolder) -> None:
    """Refuse a limit that no judged network meets, before others are trained to find that out.

    Raises:
        InputError: Says how fast the fastest is.
    """
    times = [row.latency_ms for row in judged.rows() if row.latency_ms is not None]
    if times and not judged.front():
        raise InputError(
            f"--max-latency-ms {judged.max_latency_ms:g} cannot be met: the fastest of "
            f"{len(times)} judged networks takes {min(times):.4g} ms an image; "
            f"{_kept(folder)} and a higher limit"
        )


def _kept(folder: RunFolder) -> str:
    begins = f"--searched {folder.address} begins another with it"
    return f"what run {folder.name} searched is kept: {begins}"


def _ranked(session: Session, task: Task) -> tuple[slim.MaskCheckpoint, TrialJob]:
    """Train the dense model, its masks and, where weights are shared, these, or take them from
    another run; broadcast them."""
    config, folder = session.config, session.folder
    shared_epochs = int(config.share.epochs or 0)
    folders = (folder.dense, folder.search, folder.shared)
    stages: list[tuple[str, Callable[..., Iterator[Epoch]], int]] = [
        ("dense", train_dense, dense_epochs(config)),
        ("search", search_masks, config.search.epochs),
        *([("share", share_weights, shared_epochs)] if shared_epochs else []),
    ]
    taken = stages_taken(config)
    for number, (name, train, epochs) in enumerate(stages):
        if name in taken:
            tags = {"searched": str(config.searched)}
            training_stage(session, name, taken_stage, 0, folders[number : number + 1], tags)
        else:
            training_stage(session, name, train, epochs, folders[: number + 1])
    checkpoint = slim.MaskCheckpoint.load(folder.shared if shared_epochs else folder.search)
    dense, preprocessing = slim.load(folder.dense), saved_preprocessing(folder.dense)
    shared = broadcast(checkpoint, dense, task, preprocessing)
    job = TrialJob(
        config,
        shared,
        models=folder.models,
        states=folder.state / "trials",
        stop=folder.stop,
        mirror=folder.mirror,
        outputs=folder.outputs if keeps_outputs(config, task) else None,
    )
    return checkpoint, job


def _folder(config: SweepConfig) -> RunFolder:
    """The run's folder; nothing is made."""
    return RunFolder(config.storage, config.name or default_name(config))


def default_name(config: SweepConfig) -> str:
    """Data, model and date: a name that `check_name` takes."""
    parts = [data_name(config.data), Path(config.model).name]
    safe = [re.sub(r"[^A-Za-z0-9_]+", "-", part)[:_LONGEST_PART].strip("_-") for part in parts]
    date = datetime.now().strftime("%Y%m%d-%H%M%S")
    return "-".join([*(part for part in safe if part), date])
