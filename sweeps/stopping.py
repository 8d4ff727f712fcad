"""Ctrl-C: asked once, every training writes its state and ends; asked twice, the run ends at once.

The request is a file in the run's folder, because that is what every node sees.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from slim.storage import is_out_of_space

GRACE = 8.0  # seconds that trainings have to write their state
LOOK_EVERY = 0.5  # seconds between two looks at a shared folder
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether the run is to stop; the driver's side.

    Args:
        path: The file that stands for the request; one of an earlier session is removed.

    Attributes:
        reason: Why, if it was not the user.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.reason, self.made = path, "", False
        path.unlink(missing_ok=True)

    def make(self, reason: str = "") -> None:
        """Ask every training to stop."""
        self.made, self.reason = True, self.reason or reason
        try:
            self.path.touch()
        except OSError as error:
            if not is_out_of_space(error):
                raise

    @contextlib.contextmanager
    def by_signal(self) -> Iterator[None]:
        """In it the first Ctrl-C (or SIGTERM) makes the request, and the second raises.

        Raises:
            KeyboardInterrupt: At the second one, or where what runs does not stop in time.
        """
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        main = threading.main_thread().ident
        self._timer = threading.Timer(GRACE, signal.pthread_kill, (main, signal.SIGINT))
        self._timer.daemon = True
        try:
            yield
        finally:
            self._timer.cancel()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.made:
            raise KeyboardInterrupt
        self.make()
        self._timer.start()


def watch(path: Path) -> Callable[[], bool]:
    """Whether the request was made; the worker's side, cheap enough to be asked at each step."""
    looked = float("-inf")

    def requested() -> bool:
        nonlocal looked
        if time.monotonic() - looked < LOOK_EVERY:
            return False
        looked = time.monotonic()
        return path.exists()

    return requested
