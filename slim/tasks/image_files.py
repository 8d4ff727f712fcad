"""A task whose images are files, given as a list of paths and labels."""

from pathlib import Path

from PIL import Image

from slim.errors import TaskError
from slim.tasks.images import ImageTask
from slim.tasks.splits import Sample


class ImageFilesTask(ImageTask):
    """Image files under one folder.

    Args:
        name: What the user called it.
        root: The folder that all of them are in.
        classes: Class names by label.
        samples: Per split, the path and the label of each image.
        workers: Processes that read and transform images; by default as many as torch has
            threads, which a sweep sets to the CPUs of a worker.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        classes: tuple[str, ...],
        samples: dict[str, list[Sample]],
        workers: int | None = None,
    ) -> None:
        self.name = name
        self.root = root
        self.channels = 3
        self.classes = classes
        self.samples = samples
        self.workers = workers

    def open_image(self, reference: str) -> Image.Image:
        """See `ImageTask.open_image`."""
        return Image.open(reference)

    def identify(self, reference: str) -> str:
        """Path below the root, and bytes.

        Raises:
            TaskError: If the file is missing.
        """
        path = Path(reference)
        try:
            return f"{path.relative_to(self.root)} {path.stat().st_size}"
        except OSError as error:
            raise TaskError(f"image {path} cannot be read: {error.strerror}") from error
