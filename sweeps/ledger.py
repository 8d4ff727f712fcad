"""What MLflow was told so far, so that a resumed sweep tells nothing twice."""

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

from sweeps.outbox import Message


@dataclass
class _Account:
    """What was told of one run."""

    created: bool = False
    status: str = ""
    values: dict[tuple[str, str], Any] = field(default_factory=dict)
    points: dict[tuple[str, int], float] = field(default_factory=dict)


class Ledger:
    """The sum of all messages."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = defaultdict(_Account)

    def enter(self, message: Message) -> Message | None:
        """Add a message.

        Returns:
            What of it is new; None if nothing is.
        """
        account = self._accounts[message.run]
        if message.kind == "create":
            news, account.created = not account.created, True
            account.status = account.status or "RUNNING"
            return message if news else None
        if message.kind == "status":
            news = account.status != message.values["status"]
            account.status = message.values["status"]
            return message if news else None
        if message.kind == "artifact":  # its content may have changed
            return message
        return self._enter_values(account, message)

    def status(self, run: str) -> str:
        """The run's status, empty if there is no such run."""
        return self._accounts[run].status

    def running(self) -> list[str]:
        """The runs that have not ended."""
        return [key for key, account in self._accounts.items() if account.status == "RUNNING"]

    def _enter_values(self, account: _Account, message: Message) -> Message | None:
        if message.kind == "metrics":
            points = {(name, message.step): value for name, value in message.values.items()}
            new = {key[0] for key, value in points.items() if account.points.get(key) != value}
            account.points |= points
        elif message.kind == "untag":
            new = {n for n in message.values if account.values.pop(("tags", n), None) is not None}
        elif message.kind == "params":  # MLflow takes each once
            told = {("params", name): value for name, value in message.values.items()}
            new = {name for _, name in told.keys() - account.values.keys()}
            account.values = told | account.values
        else:
            told = {(message.kind, name): value for name, value in message.values.items()}
            new = {key[1] for key, value in told.items() if account.values.get(key) != value}
            account.values |= told
        kept = {name: value for name, value in message.values.items() if name in new}
        return replace(message, values=kept) if kept else None
