"""The errors of reading and reporting a run: each message is one line."""


class AnalysisError(Exception):
    """Base of every error that this package raises on purpose."""


class RunNotFoundError(AnalysisError):
    """No sweep of that name is tracked there."""


class ReportError(AnalysisError):
    """A report that could not be made."""
