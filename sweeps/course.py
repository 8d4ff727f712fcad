"""A stage's training as the driver follows it, whatever was interrupted before."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from slim.training import Epoch, Training
from sweeps.stopping import watch


def course(training: Training, state: Path) -> Iterator[Epoch]:
    """Every epoch of a training, those before an interruption first.

    Args:
        training: Not begun.
        state: File of its state; a request to stop is the file `stop` beside it.

    Raises:
        StoppedTraining: After the state was written, because the run is to stop.
    """
    if state.is_file():
        training.load_state(state)
        for epoch in list(training.history):
            yield replace(epoch, before=len(training.history))
    yield from training.resumable_epochs(state, stop_requested=watch(state.with_name("stop")))
