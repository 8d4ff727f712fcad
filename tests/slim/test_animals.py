"""Silhouettes are read without running code, and none stands in two splits."""

import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from slim import TaskError
from slim.tasks.animals import IMAGES, LABELS, first_of_each, load_animals, read_array


def write(path: Path, value: object) -> None:
    """Pickle as NumPy 1 did."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = pickle.dumps(value, protocol=3)  # which has no lengths of parts
    path.write_bytes(gzip.compress(data.replace(b"numpy._core.", b"numpy.core.")))


def test_copies_are_left_out_and_the_rest_is_split(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (60, 28, 28), dtype=np.uint8)
    labels = np.arange(60) % 3 + 4
    images[57], images[59] = images[54], images[4]  # a copy, and one under another label
    write(tmp_path / IMAGES, images)
    write(tmp_path / LABELS, labels)
    task = load_animals(tmp_path)
    assert task.classes == ("4", "5", "6")
    assert sum(task.size(split) for split in ("train", "val", "test")) == 60 - 1 - 2
    assert len({image.tobytes() for image in task.images}) == len(task.images)
    assert 4 not in first_of_each(images, labels)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("made",)


def test_a_pickle_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "evil.gz", Evil())
    with pytest.raises(TaskError, match="mkdir, which is no array"):
        read_array(tmp_path / "evil.gz")
    assert not (tmp_path / "made").exists()
    write(tmp_path / "objects.gz", np.array([None, "x"], dtype=object))
    with pytest.raises(TaskError, match="does not hold an array of numbers"):
        read_array(tmp_path / "objects.gz")


def test_a_missing_package_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"animal_data_version_3\.gz cannot be read"):
        load_animals(tmp_path)
