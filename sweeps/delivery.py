"""Sending the outbox: in order, in a thread of its own, again and again while nobody answers."""

import logging
import threading
import time
from collections.abc import Callable

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, ErrorCode

from slim.errors import one_line
from sweeps.errors import StoppedRun
from sweeps.outbox import Message, Outbox

SHORTEST_WAIT, LONGEST_WAIT = 0.2, 5.0  # seconds between attempts
PATIENCE = 300.0
STORES = ("boto3", "botocore", "s3transfer", "google", "azure")  # that artifacts may go to
DATABASE_FAILED = ErrorCode.Name(BAD_REQUEST)
logger = logging.getLogger(__name__)


class Delivery:
    """Sends what is appended to an outbox.

    Args:
        outbox: Where the messages stand.
        send: Delivers one; may be called again with one that was delivered.
        where: The receiver's address, for what is said of it.

    Attributes:
        note: Called with a line when the receiver is lost and found again.
    """

    def __init__(self, outbox: Outbox, send: Callable[[Message], None], where: str) -> None:
        self.outbox, self.send, self.where = outbox, send, where
        self.note: Callable[[str], None] = logger.warning
        self._failing_since: float | None = None
        self._refused: Exception | None = None
        self._last_error = ""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="delivery", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def check(self) -> None:
        """Raise what the receiver refused for good.

        Raises:
            StoppedRun: Says what.
        """
        if self._refused is not None:
            line = one_line(self._refused)
            raise StoppedRun(f"tracking {self.where} refuses what it is told: {line}")

    def flush(self, patience: float = PATIENCE) -> None:
        """Wait until everything is sent.

        Args:
            patience: Seconds without an answer after which it gives up.

        Raises:
            StoppedRun: If nobody answered for so long, or the receiver refused.
        """
        began = time.monotonic()
        while not self.outbox.wait_until_sent(0.2):
            self.check()
            since = self._failing_since
            if since is not None and time.monotonic() - max(since, began) > patience:
                raise StoppedRun(
                    f"tracking {self.where} does not answer: {self._last_error}; "
                    f"{self.outbox.waiting()} messages wait in {self.outbox.path}"
                )

    def close(self) -> None:
        """Send no more; what was not sent waits in the outbox."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)

    def _work(self) -> None:
        while not self._closed.is_set() and self._refused is None:
            waiting = self.outbox.next(seconds=0.2)
            if waiting is not None:
                message, length = waiting
                self._send(message, length)

    def _send(self, message: Message, length: int) -> None:
        wait = SHORTEST_WAIT
        while not self._closed.is_set():
            try:
                self.send(message)
                self.outbox.mark_sent(length)
            except Exception as error:  # of the client's many kinds, few are for good
                if not may_pass(error):
                    self._refused = error
                    return
                self._lost(error)
                self._closed.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT)
            else:
                self._found()
                return

    def _lost(self, error: Exception) -> None:
        self._last_error = one_line(error)
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            self.note(f"tracking {self.where} does not answer; what it is to be told waits")

    def _found(self) -> None:
        if self._failing_since is not None:
            self._failing_since = None
            self.note(f"tracking {self.where} answers again")


def may_pass(error: Exception) -> bool:
    """Whether the same message may be taken later: anything but a plain refusal.

    MLflow says BAD_REQUEST of what its database does not do, such as give one more connection.
    """
    if not isinstance(error, MlflowException):
        return isinstance(error, OSError) or _is_of_a_store(error)
    status: int = error.get_http_status_code()
    return not is_final(status) or error.error_code == DATABASE_FAILED


def _is_of_a_store(error: Exception) -> bool:
    """Whether a store of artifacts failed for now: not for want of credentials or permission."""
    answer = getattr(error, "response", None)
    about = answer.get("ResponseMetadata", {}) if isinstance(answer, dict) else {}
    status = int(about.get("HTTPStatusCode", 500))
    ours = type(error).__module__.partition(".")[0] in STORES
    return ours and "Credentials" not in type(error).__name__ and not is_final(status)


def is_final(status: int) -> bool:
    """Whether a service that answers so will answer so again."""
    return 400 <= status < 500 and status not in (408, 429)
