"""Ctrl-C: asked once, every training writes its state and ends; asked twice, the run ends at once.

The request is a file in the run's folder, because that is what every node sees.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from slim.storage import is_out_of_space

GRACE = 8.0  # seconds that trainings have to write their state
LAST = 8.0  # seconds that the driver has after them; Slurm kills 30 s after its signal
INTERRUPTED = 130  # exit code
SHOW_CURSOR = "\x1b[?25h"
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
    def by_signal(self, last_words: str = "interrupted") -> Iterator[None]:
        """In it the first Ctrl-C (or SIGTERM) makes the request, and the second raises.

        A signal to the whole process group, as a scheduler sends it, ends Ray's own processes too,
        and then the main thread waits in Ray for an answer. So another thread counts the seconds
        from the signal on; when they are over the process ends, with the exit code of a Ctrl-C.

        Args:
            last_words: What is printed then.

        Raises:
            KeyboardInterrupt: At the second one, or where what runs does not stop in time.
        """
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        heard, told = socket.socketpair()
        told.setblocking(False)
        woken = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
        over, main = threading.Event(), threading.main_thread().ident or 0
        arguments = (heard, over, main, self.path, last_words)
        threading.Thread(target=_end_in_time, args=arguments, daemon=True).start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(woken)
            over.set()
            told.close()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.made:
            raise KeyboardInterrupt
        self.make()


def _end_in_time(
    heard: socket.socket, over: threading.Event, main: int, stop: Path, last_words: str
) -> None:
    """End the main thread, then the process, where a signal has not ended what they do in time.

    Trainings are asked at once, as the main thread may hear of the signal late.

    Args:
        heard: Gets the number of each signal, whatever the main thread is doing.
        over: Set when there is nothing to end.
        main: The main thread.
        stop: The file that asks trainings.
        last_words: Printed before the process ends.
    """
    with heard:
        while not set(numbers := heard.recv(64)) & set(SIGNALS):
            if not numbers:
                return
        with contextlib.suppress(OSError):  # the main thread, if it hears of the signal, tells why
            stop.touch()
        if over.wait(GRACE):
            return
        signal.pthread_kill(main, signal.SIGINT)
        if over.wait(LAST):
            return
    try:  # whoever reads them may have been ended by the same signal
        if sys.stdout.isatty():
            sys.stdout.write(SHOW_CURSOR)  # which the display has hidden
            sys.stdout.flush()
        print(f"{Path(sys.argv[0]).name}: {last_words}", file=sys.stderr, flush=True)
    finally:
        os._exit(INTERRUPTED)


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
