"""The errors a user can cause: one line that says what, what was expected, what to do."""


class SlimError(Exception):
    """Base of every error that a value or file from outside can cause."""


class BudgetError(SlimError):
    """A budget that no architecture can meet."""


class UnsupportedModelError(SlimError):
    """A model with a feature that this package does not slim."""


class FileFormatError(SlimError):
    """A checkpoint or saved model that cannot be read whole."""


class TaskError(SlimError):
    """A data set that cannot serve as a task."""


class DivergenceError(SlimError):
    """A training whose loss or gradients are no longer finite."""


class StorageError(SlimError):
    """A disk that is full or read-only."""


class RecipeError(SlimError):
    """A recipe that no training can follow."""


class StoppedTraining(SlimError):
    """A training that was asked to stop, and whose state is written."""


def one_line(error: object, most: int = 200) -> str:
    """The text of an error, as others may write it, in one line of at most so many characters."""
    return " ".join(str(error).split())[:most]
