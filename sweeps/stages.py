"""Running a stage's generator on the cluster, and many short jobs side by side."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from inspect import isgeneratorfunction
from itertools import count
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from slim import SlimError
from sweeps.distributed import PEER_SECONDS, train_together
from sweeps.mirror import NO_MIRROR, Mirror, mirrored
from sweeps.worker import prepare_worker


def stream(
    function: Callable[..., Iterator[Any]],
    *args: Any,
    retries: int = 0,
    workers: int = 1,
    mirror: Mirror = NO_MIRROR,
    **resources: float,
) -> Iterator[Any]:
    """Run a generator function on the cluster; yields what it yields, as it comes.

    Args:
        function: Runs on a worker, or on several that train together (`train_together`).
        args: Its arguments; object references are resolved. Paths are files it reads or writes.
        retries: How often it is called again after a worker died; what it had yielded may come
            again.
        workers: How many.
        mirror: Where the files are kept, if not in a folder that all nodes see.
        resources: Of each, in Ray's words (`num_cpus`, `num_gpus`).

    Raises:
        Exception: What the function raised.
    """
    for left in reversed(range(retries + 1)):
        try:
            with _place(workers, **resources) as place:
                yield from _items(place, resources, workers, mirror, function, args)
            return
        except ray.exceptions.RayTaskError as error:
            if not left or not isinstance(error.cause, ray.exceptions.RayError):
                raise (error.cause or error) from None
        except ray.exceptions.RayError:  # a worker or its node died
            if not left:
                raise


def _items(place: PlacementGroup, resources: dict[str, float], *args: Any) -> Iterator[Any]:
    """What a generator in the first bundle of a placement group yields."""
    first = PlacementGroupSchedulingStrategy(place, 0)
    task = ray.remote(_generate).options(
        num_returns="streaming", max_retries=0, scheduling_strategy=first, **resources
    )
    items = task.remote(*args)
    for reference in items:
        try:
            item = ray.get(reference)
        except ray.exceptions.RayTaskError:
            ray.wait([items.completed()], timeout=PEER_SECONDS)  # with all its peers
            raise
        yield item


@contextmanager
def _place(workers: int, num_cpus: float, num_gpus: float = 0) -> Iterator[PlacementGroup]:
    """A bundle of resources for each worker, held until all have done."""
    place = _reserved(workers, num_cpus, num_gpus)
    try:
        yield place
    finally:
        remove_placement_group(place)


def _reserved(workers: int, num_cpus: float, num_gpus: float = 0) -> PlacementGroup:
    bundle = {"CPU": num_cpus} | ({"GPU": num_gpus} if num_gpus else {})
    return placement_group([bundle] * workers, strategy="PACK")


@contextmanager
def naming_stage(name: str) -> Iterator[None]:
    """Say of what goes wrong in which stage it did."""
    try:
        yield
    except SlimError as error:
        raise type(error)(f"stage {name} failed: {error}") from error


def spread(
    function: Callable[..., Any],
    jobs: Iterable[tuple[Any, ...] | None],
    most: int,
    *,
    retries: int = 0,
    workers: int = 1,
    mirror: Mirror = NO_MIRROR,
    **resources: float,
) -> Iterator[tuple[int, Any]]:
    """Run a function once per job, at most so many at a time; files are as in `stream`.

    A job whose worker dies is run again.

    Args:
        function: Runs on a worker, or on several together. The last item of a generator function
            is the job's result; with each item its files are kept.
        jobs: Its arguments, taken when there is room; None where there are none before another
            job has ended.
        most: At a time.
        retries: How often a job is run again.
        workers: As in `stream`.
        mirror: As in `stream`.
        resources: Of each worker, in Ray's words.

    Yields:
        (index of the job, its result or the exception it raised), as they end.
    """
    waiting, indices = iter(jobs), count()
    running: dict[Any, _Attempt] = {}
    try:
        while True:
            while len(running) < most and (job := next(waiting, None)) is not None:
                place = _reserved(workers, **resources) if workers > 1 else None
                one = _Attempt(next(indices), job, retries, place)
                running[one.begin(resources, workers, mirror, function)] = one
            if not running:
                return
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                one = running.pop(reference)
                result = _outcome(reference)
                if one.may_be_repeated(result):
                    one = replace(one, left=one.left - 1)
                    running[one.begin(resources, workers, mirror, function)] = one
                    continue
                one.free()
                yield one.index, result
    finally:
        for one in running.values():
            one.free()


@dataclass(frozen=True)
class _Attempt:
    """A job of `spread` as it is run, and how often it may be run again."""

    index: int
    args: tuple[Any, ...]
    left: int
    place: PlacementGroup | None

    def begin(
        self, resources: dict[str, float], workers: int, mirror: Mirror, function: Any
    ) -> Any:
        """Run it; the reference to its result. A job of one worker Ray itself runs again."""
        where: dict[str, Any] = {"max_retries": self.left}
        if self.place is not None:
            first = PlacementGroupSchedulingStrategy(self.place, 0)
            where = {"max_retries": 0, "scheduling_strategy": first}
        task = ray.remote(_call).options(**where, **resources)
        return task.remote(workers, mirror, function, *self.args)

    def may_be_repeated(self, result: Any) -> bool:
        """Whether it lost a worker that others waited for, and has tries left."""
        lost = isinstance(result, ray.exceptions.RayError)
        return lost and self.place is not None and self.left > 0

    def free(self) -> None:
        """Give back its place, unless the cluster that it was in is left."""
        if self.place is not None and ray.is_initialized():
            remove_placement_group(self.place)


def _outcome(reference: Any) -> Any:
    """What a job gave, or the exception that it raised: its own, or its worker's end."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return getattr(error, "cause", None) or error


def raised(result: Any) -> Any:
    """The result of a job itself, or the exception that stands in its place, raised."""
    if isinstance(result, BaseException):
        raise result
    return result


def _generate(
    workers: int, mirror: Mirror, function: Callable[..., Iterator[Any]], args: tuple[Any, ...]
) -> Iterator[Any]:
    prepare_worker()
    yield from train_together(workers, mirrored, mirror, _paths(args), _resolving, function, args)


def _resolving(function: Callable[..., Iterator[Any]], args: tuple[Any, ...]) -> Iterator[Any]:
    """Run a generator function with its object references resolved, in each worker for itself."""
    return function(*(ray.get(a) if isinstance(a, ray.ObjectRef) else a for a in args))


def _call(workers: int, mirror: Mirror, function: Callable[..., Any], *args: Any) -> Any:
    prepare_worker()
    steps = _resumable if isgeneratorfunction(function) else _once
    files = _paths(args)
    *_, result = train_together(workers, mirrored, mirror, files, steps, function, args)
    return result


def _once(function: Callable[..., Any], args: tuple[Any, ...]) -> Iterator[Any]:
    yield function(*args)


def _resumable(function: Callable[..., Iterator[Any]], args: tuple[Any, ...]) -> Iterator[Any]:
    return function(*args)


def _paths(args: tuple[Any, ...]) -> list[Path]:
    """The files among arguments, and those that an argument names as its `files`."""
    named = [path for arg in args for path in getattr(arg, "files", ())]
    return [arg for arg in args if isinstance(arg, Path)] + named
