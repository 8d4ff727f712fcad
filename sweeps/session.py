"""What the stages of a run work with, from its begin or resumption to its end."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from slim import SlimError, StorageError
from slim.errors import one_line
from slim.tasks import Task
from sweeps.cluster import Resources
from sweeps.config import SweepConfig
from sweeps.errors import InterruptedRun, StoppedRun
from sweeps.progress import Progress
from sweeps.run_folder import RunFolder
from sweeps.stages import spread
from sweeps.stopping import StopRequest
from sweeps.tracking import Tracker


@dataclass(frozen=True)
class Session:
    """What a stage is given.

    Args:
        config: All values.
        folder: Where the run's files go.
        tracker: Where it is logged.
        resources: What the cluster has.
        task_reference: Reference to the source task.
        transfers: The transfer tasks.
        progress: What the user sees.
        stop: Whether the user asked to stop.
    """

    config: SweepConfig
    folder: RunFolder
    tracker: Tracker
    resources: Resources
    task_reference: ray.ObjectRef
    transfers: list[Task]
    progress: Progress
    stop: StopRequest

    def end_if_asked(self) -> None:
        """Between two jobs: the user may have asked to stop.

        Raises:
            InterruptedRun: If so.
        """
        if self.stop.made:
            raise InterruptedRun

    def note_failure(self, what: str, error: BaseException, state: Path) -> BaseException | None:
        """Say that one of many trainings failed, which ends none of the others.

        Args:
            what: Was to be done.
            error: Why it was not.
            state: Of the training, forgotten if it would fail again.

        Returns:
            What is to be raised after the others; nothing for a failure of its own.
        """
        line = one_line(error)
        failure = f"{what} failed: {type(error).__name__}: {line}"
        self.progress.note(failure)
        if isinstance(error, (StorageError, OSError, RayError, torch.OutOfMemoryError)):
            return StoppedRun(failure)
        if not isinstance(error, SlimError):
            return error
        self.folder.forget_failed(state, str(error))
        return None

    def spread(
        self, function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], workers: int = 1
    ) -> Iterator[tuple[int, Any]]:
        """Run a function once per job, each with the resources of a trial's worker.

        Args:
            function: As in `stages.spread`.
            jobs: Its arguments.
            workers: Of each job; a trial's, or one.

        Yields:
            (index of the job, its result or the exception it raised), as they end.

        Raises:
            InterruptedRun: If the user asked to stop.
        """
        config, folder, resources = self.config, self.folder, self.resources
        ended = spread(
            function,
            jobs,
            resources.workers // workers,
            retries=config.max_retries,
            workers=workers,
            mirror=folder.mirror,
            **resources.trial,
        )
        for one in ended:
            self.end_if_asked()
            yield one
