"""What a finished or running sweep shows: its figures and notebook reports, read from MLflow."""

from analysis.errors import AnalysisError, ReportError, RunNotFoundError

__all__ = ["AnalysisError", "ReportError", "RunNotFoundError"]
