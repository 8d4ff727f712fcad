"""A full disk is said to be one, and leaves what stood on it."""

import errno
import pickle
from pathlib import Path

import pytest
import torch

from slim import StorageError, files, training_state
from slim.files import read_tensors, write_tensors
from slim.storage import is_out_of_space, needing_space
from slim.training_state import reading_state, write_state

KIND = "a kind of file"


def failing(error: Exception):
    def fail(*args: object, **options: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EROFS, "Read-only file system"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_every_library_s_word_for_a_full_disk_is_understood(error):
    words = "runs/x cannot be written: the disk is full"
    with pytest.raises(StorageError, match=words), needing_space("runs/x"):
        raise error


def test_an_error_that_followed_from_a_full_disk_is_one_too():
    error = RuntimeError("unexpected pos 64 vs 0")
    assert not is_out_of_space(error)
    error.__context__ = OSError(errno.ENOSPC, "No space left on device")
    assert is_out_of_space(error)


def test_it_is_known_after_it_crossed_processes_without_its_cause():
    with pytest.raises(StorageError) as caught, needing_space("runs/x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert is_out_of_space(pickle.loads(pickle.dumps(caught.value)))


def test_other_errors_stay_what_they_are():
    with pytest.raises(PermissionError), needing_space("runs/x"):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_a_state_that_found_no_space_leaves_the_last_one(tmp_path, monkeypatch):
    path = tmp_path / "training.pt"
    write_state(path, {"step": 1})
    monkeypatch.setattr(
        training_state.os, "fsync", failing(OSError(errno.ENOSPC, "No space left on device"))
    )
    with pytest.raises(StorageError, match=r"training\.pt cannot be written"):
        write_state(path, {"step": 2})
    with reading_state(path) as state:
        assert state == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["training.pt"]


def test_a_network_that_found_no_space_leaves_the_last_one(tmp_path, monkeypatch):
    folder = write_tensors(tmp_path / "saved", "model", KIND, {"a": torch.ones(1)}, {})
    error = RuntimeError("I/O error: No space left on device (os error 28)")
    monkeypatch.setattr(files, "save_file", failing(error))
    with pytest.raises(StorageError, match="saved cannot be written"):
        write_tensors(folder, "model", KIND, {"a": torch.zeros(1)}, {})
    assert read_tensors(folder, "model", KIND)[0]["a"] == 1
    assert [each.name for each in tmp_path.iterdir()] == ["saved"]


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for value in (0.0, 1.0):
        write_tensors(tmp_path / "link", "model", KIND, {"a": torch.tensor([value])}, {})
    assert (tmp_path / "link").is_symlink()
    assert read_tensors(tmp_path / "elsewhere", "model", KIND)[0]["a"] == 1
