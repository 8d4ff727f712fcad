"""What ends a run before or during its work, each with its exit code."""


class InputError(Exception):
    """A value or file from outside that cannot be used; exit code 2. One line."""


class InterruptedRun(Exception):
    """The user stopped the run; exit code 130."""


class StoppedRun(Exception):
    """A service or a disk that the run cannot do without; exit code 1. One line.

    What the run has done is kept, and it can be resumed.
    """
