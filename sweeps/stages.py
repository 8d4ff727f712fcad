"""Running a stage's generator on the cluster, and many short jobs side by side."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from slim import SlimError
from sweeps.worker import prepare_worker


def stream(
    function: Callable[..., Iterator[Any]], *args: Any, retries: int, **resources: float
) -> Iterator[Any]:
    """Run a generator function as one Ray task; yields what it yields, as it comes.

    Args:
        function: Runs on a worker.
        args: Its arguments; object references are resolved.
        retries: How often it is called again after its worker died; what it had yielded may come
            again.
        resources: In Ray's words (`num_cpus`, `num_gpus`).
    """
    task = ray.remote(_generate).options(num_returns="streaming", max_retries=0, **resources)
    for left in reversed(range(retries + 1)):
        try:
            for reference in task.remote(function, *args):
                yield ray.get(reference)
            return
        except ray.exceptions.RayTaskError as error:
            raise (error.cause or error) from None
        except ray.exceptions.RayError:  # its worker or its node died
            if not left:
                raise


@contextmanager
def naming_stage(name: str) -> Iterator[None]:
    """Say of what goes wrong in which stage it did."""
    try:
        yield
    except SlimError as error:
        raise type(error)(f"stage {name} failed: {error}") from error


def spread(
    function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], most: int, **resources: float
) -> Iterator[tuple[int, Any]]:
    """Run a function once per job, at most so many at a time.

    Jobs leave nothing half-done behind: one whose worker dies is run again, at most twice.

    Yields:
        (index of the job, its result or the exception it raised), as they end.
    """
    task = ray.remote(_call).options(max_retries=2, **resources)
    waiting = list(enumerate(jobs))[::-1]
    running: dict[Any, int] = {}
    while waiting or running:
        while waiting and len(running) < most:
            index, job = waiting.pop()
            running[task.remote(function, *job)] = index
        done, _ = ray.wait(list(running), num_returns=1)
        for reference in done:
            index = running.pop(reference)
            try:
                yield index, ray.get(reference)
            except ray.exceptions.RayError as error:  # the job's own, or its worker's end
                yield index, getattr(error, "cause", None) or error


def _generate(function: Callable[..., Iterator[Any]], *args: Any) -> Iterator[Any]:
    prepare_worker()
    yield from function(*args)


def _call(function: Callable[..., Any], *args: Any) -> Any:
    prepare_worker()
    return function(*args)
