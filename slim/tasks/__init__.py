"""Data sets with their splits: train, val (drives every decision) and test (looked at once)."""

from slim.tasks.arrays import ArrayTask
from slim.tasks.catalog import EMBEDDED, load_task, with_absolute_path
from slim.tasks.folder import FolderTask
from slim.tasks.task import SPLITS, Augmentation, Preprocessing, Task

__all__ = [
    "EMBEDDED",
    "SPLITS",
    "ArrayTask",
    "Augmentation",
    "FolderTask",
    "Preprocessing",
    "Task",
    "load_task",
    "with_absolute_path",
]
