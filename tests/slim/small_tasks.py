"""Tasks of a few images, and what is in their batches."""

import numpy as np

from slim.tasks import ArrayTask, Augmentation, Preprocessing, Task

PLAIN = Augmentation()
# Under which a batch holds the images' own values divided by 255.
RAW = Preprocessing((1, 4, 4), (0.0,), (1.0,))


def numbered(count: int = 200) -> ArrayTask:
    """Image `i` has the value `i` everywhere, so that a batch tells which images are in it."""
    images = np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 1, 4, 4)
    )
    return ArrayTask.stratified("numbered", images.copy(), np.arange(count) % 2, ("even", "odd"))


def epoch_of(task: Task, batch_size: int = 10, seed: int = 0, epoch: int = 0, **where):
    return list(task.train_batches(RAW, PLAIN, batch_size, seed, epoch, **where))


def numbers(batches) -> list[int]:
    return [round(255 * float(image[0, 0, 0])) for images, _ in batches for image in images]


def six(**changes) -> ArrayTask:
    """A task of six black images, with some of its parts replaced."""
    parts = {
        "name": "six",
        "images": np.zeros((6, 1, 4, 4), np.uint8),
        "labels": np.array([0, 1, 0, 1, 0, 1]),
        "classes": ("a", "b"),
        "splits": {"train": np.arange(4), "val": np.array([4]), "test": np.array([5])},
    }
    return ArrayTask(**(parts | changes))
