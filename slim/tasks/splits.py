"""Making train, val and test of what a data set comes with: by a fixed seed, within each class."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from slim.errors import TaskError
from slim.tasks.arrays import SHARES
from slim.tasks.task import SPLITS

# What opens an image (a path, or an index), and its label.
Sample = tuple[Any, int]

DECIDING = {"train": 0.9, "val": 0.1, "test": 0.0}


def arrange(
    train: Sequence[Sample],
    val: Sequence[Sample] | None,
    test: Sequence[Sample] | None,
    class_of: Callable[[Sample], str],
) -> dict[str, list[Sample]]:
    """The three splits, whichever of them the data set has.

    - With all three, these are the splits.
    - With train and one other, the other is the test split, looked at once, and a fixed 10 % of
      train, drawn within each class, is the val split that decides.
    - With train alone, 70 / 15 / 15 % of each class.

    Args:
        train: Its samples, as are `val` and `test`.
        val: None if there are none, as `test`.
        test: See `val`.
        class_of: What an error calls the class of a sample.

    Raises:
        TaskError: If a class has too few samples to be split.
    """
    if val is not None and test is not None:
        return {"train": list(train), "val": list(val), "test": list(test)}
    held_out = test if test is not None else val
    if held_out is None:
        return carve(train, SHARES, class_of)
    return carve(train, DECIDING, class_of) | {"test": list(held_out)}


def carve(
    samples: Sequence[Sample], shares: dict[str, float], class_of: Callable[[Sample], str]
) -> dict[str, list[Sample]]:
    """Split samples within each class by a fixed seed; a class has at least one in each part.

    Raises:
        TaskError: If a class has fewer samples than there are parts.
    """
    parts: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    by_class: dict[int, list[Sample]] = {}
    for sample in samples:
        by_class.setdefault(sample[1], []).append(sample)
    wanted = [split for split in SPLITS if shares[split] > 0]
    for label, members in by_class.items():
        if len(members) < len(wanted):
            raise TaskError(
                f"{class_of(members[0])} has {len(members)} images, "
                f"{len(wanted)} are needed to split them into {', '.join(wanted)}"
            )
        order = np.random.default_rng(label).permutation(len(members))
        counts = {s: max(1, round(shares[s] * len(members))) for s in wanted if s != "train"}
        start = 0
        for split, number in counts.items():
            parts[split] += [members[i] for i in sorted(order[start : start + number])]
            start += number
        parts["train"] += [members[i] for i in sorted(order[start:])]
    return parts


def check_samples(
    name: str, classes: tuple[str, ...], samples: dict[str, list[Sample]]
) -> dict[str, list[Sample]]:
    """The splits, if a network can be trained and judged on them.

    Raises:
        TaskError: If there are fewer than two classes, a split is empty or a label has no class.
    """
    if len(classes) < 2:
        raise TaskError(f"data {name} has {len(classes)} class, a task needs two or more")
    for split in SPLITS:
        if not samples[split]:
            raise TaskError(f"data {name} has no image in its {split} split")
        odd = [label for _, label in samples[split] if not 0 <= label < len(classes)]
        if odd:
            raise TaskError(
                f"data {name} has label {odd[0]} in its {split} split, expected 0 to "
                f"{len(classes) - 1}"
            )
    return samples
