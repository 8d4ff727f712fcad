"""What ends a run before or during its work, each with its exit code."""


class InputError(Exception):
    """A value or file from outside that cannot be used; exit code 2. One line."""


class InterruptedRun(Exception):
    """The user stopped the run; exit code 130."""
