"""What MLflow is to be told, on disk before it is sent: no outage and no kill loses it."""

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sweeps.torn_line import drop_torn_line


@dataclass(frozen=True)
class Message:
    """One thing to tell.

    Args:
        kind: `create`, `params`, `metrics`, `tags`, `untag`, `view`, `artifact` or `status`.
        run: Key of the run it is about, unique in the sweep.
        time: When it became true, in milliseconds since 1970.
        values: What to tell, as JSON values by name.
        step: Of metrics.
    """

    kind: str
    run: str
    time: int
    values: dict[str, Any] = field(default_factory=dict)
    step: int = 0


class Outbox:
    """An append-only file of messages, and how far they were sent.

    One thread appends and one sends; both may die at any moment. A message is sent at least once,
    and in order.

    Args:
        path: Of the file; `.sent` beside it holds how many of its bytes were sent.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        drop_torn_line(path)
        self.path, self._sent_file = path, path.with_suffix(".sent")
        self._changed = threading.Condition()
        self._end = path.stat().st_size if path.is_file() else 0
        self._sent = min(self._read_sent(), self._end)

    def messages(self) -> Iterator[Message]:
        """All messages, sent ones too."""
        if self.path.is_file():
            with self.path.open("rb") as file:
                for line in file:
                    yield Message(**json.loads(line))

    def append(self, message: Message) -> None:
        """Write a message through to the disk.

        Raises:
            OSError: If the disk does not take it; the file is left as it was.
        """
        line = json.dumps(asdict(message)).encode() + b"\n"
        with self.path.open("ab") as file:
            try:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(self.path, self._end)
                raise
        with self._changed:
            self._end += len(line)
            self._changed.notify_all()

    def next(self, seconds: float) -> tuple[Message, int] | None:
        """The first message that was not sent, and its length; None if none comes in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._sent < self._end, seconds):
                return None
            place = self._sent
        with self.path.open("rb") as file:
            file.seek(place)
            line = file.readline()
        return Message(**json.loads(line)), len(line)

    def mark_sent(self, length: int) -> None:
        """The message that `next` gave was sent."""
        with self._changed:
            self._sent += length
            self._changed.notify_all()
        self._sent_file.write_text(str(self._sent))

    def wait_until_sent(self, seconds: float) -> bool:
        """Whether every message is sent, at the latest after so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._sent >= self._end, seconds)

    def waiting(self) -> int:
        """How many messages wait to be sent."""
        with self.path.open("rb") as file:
            file.seek(self._sent)
            return sum(1 for _ in file)

    def _read_sent(self) -> int:
        try:
            return int(self._sent_file.read_text())
        except (OSError, ValueError):  # never written, or torn: then all is sent again
            return 0
