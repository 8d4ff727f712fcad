"""Tensors and their header are written as one step, and read whole or not at all."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slim import FileFormatError, SlimError, StorageError
from slim.files import (
    check_tensors,
    read_tensors,
    restore_folders,
    write_tensors,
    write_text_atomic,
)
from tests.slim import damage

KIND = "a kind of file"
TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([0.1, -0.0, 1e-45])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tensors(tmp_path / "parent" / "saved", "model", KIND, TENSORS, {"note": "first"})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_and_check(folder: Path) -> dict[str, Tensor]:
    tensors, _ = read_tensors(folder, "model", KIND)
    shapes = {name: tensor.shape for name, tensor in TENSORS.items()}
    check_tensors(folder / "model.safetensors", tensors, shapes)
    return tensors


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
def test_values_come_back_bit_for_bit(dtype, tmp_path):
    given = {name: tensor.to(dtype) for name, tensor in TENSORS.items()}
    write_tensors(
        tmp_path / "saved", "model", KIND, given, {"note": "é", "list": [1, {"x": None}]}
    )
    tensors, header = read_tensors(tmp_path / "saved", "model", KIND)
    assert tensors.keys() == given.keys()
    for name, tensor in given.items():
        assert tensors[name].dtype == dtype
        assert torch.equal(tensors[name], tensor)
    assert (header["note"], header["list"]) == ("é", [1, {"x": None}])


def test_what_was_read_does_not_change_with_the_file(folder):
    tensors = read_and_check(folder)
    weights = folder / "model.safetensors"
    with weights.open("r+b") as file:
        file.write(bytes(weights.stat().st_size))
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())


def test_a_folder_holds_two_files_named_by_what_they_are(folder, tmp_path):
    assert contents(folder).keys() == {"model.safetensors", "config.json"}
    other = write_tensors(tmp_path / "search", "checkpoint", KIND, TENSORS, {})
    assert contents(other).keys() == {"checkpoint.safetensors", "checkpoint.json"}


def test_tensors_that_lie_across_memory_are_written_as_they_read(tmp_path):
    given = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.ones(1).expand(3)}
    write_tensors(tmp_path / "saved", "model", KIND, given, {})
    tensors, _ = read_tensors(tmp_path / "saved", "model", KIND)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in given.items())


@pytest.mark.parametrize("spoil", damage.WEIGHTS.values(), ids=damage.WEIGHTS)
def test_damaged_weights_are_refused_in_one_line_that_names_them(spoil, folder):
    spoil(folder)
    with pytest.raises(FileFormatError) as refused:
        read_and_check(folder)
    assert str(folder / "model.safetensors") in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("spoil", damage.HEADER.values(), ids=damage.HEADER)
def test_a_damaged_header_is_refused_in_one_line_that_names_it(spoil, folder):
    spoil(folder)
    with pytest.raises(FileFormatError) as refused:
        read_and_check(folder)
    assert str(folder / "config.json") in str(refused.value)
    assert "\n" not in str(refused.value)


@settings(max_examples=50)
@given(data=st.data())
def test_any_flipped_bit_of_the_weights_is_noticed(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flip") / "saved"
    write_tensors(folder, "model", KIND, TENSORS, {})
    size = (folder / "model.safetensors").stat().st_size
    damage.flip_bit(folder / "model.safetensors", data.draw(st.integers(0, size - 1)))
    with pytest.raises(FileFormatError, match=r"model\.safetensors is damaged"):
        read_and_check(folder)


@pytest.mark.parametrize("stamped", [True, False])
def test_a_pickle_in_the_place_of_weights_is_refused_and_not_run(stamped, folder, tmp_path):
    trace = tmp_path / "trace"
    damage.put_pickle(folder, trace)
    if stamped:
        damage.stamp(folder)
    with pytest.raises(FileFormatError, match=r"model\.safetensors") as refused:
        read_and_check(folder)
    assert "\n" not in str(refused.value)
    assert not trace.exists()
    torch.load((folder / "model.safetensors").rename(folder / "model.pt"), weights_only=False)
    assert trace.exists()  # so the payload would have worked


@pytest.mark.parametrize("name", ["nothing", "model.safetensors/deeper"])
def test_a_folder_that_is_not_there_is_refused(name, folder):
    with pytest.raises(FileFormatError, match=r"config\.json is missing"):
        read_tensors(folder / name, "model", KIND)


def test_a_newer_version_tells_what_to_do(folder):
    damage.edit_header(folder, version=7)
    with pytest.raises(FileFormatError, match="version 7, this package reads 2; use the release"):
        read_tensors(folder, "model", KIND)


def test_an_older_pair_is_replaced(folder):
    write_tensors(folder, "model", KIND, {"c": torch.ones(1)}, {"note": "second"})
    tensors, header = read_tensors(folder, "model", KIND)
    assert (list(tensors), header["note"]) == (["c"], "second")
    assert [path.name for path in folder.parent.iterdir()] == ["saved"]


def test_what_else_lies_in_the_folder_stays(folder):
    (folder / "notes.txt").write_text("mine")
    (folder / "deeper").mkdir()
    (folder / "deeper" / "more.txt").write_text("mine too")
    write_tensors(folder, "model", KIND, {"c": torch.ones(1)}, {})
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "deeper" / "more.txt").read_text() == "mine too"
    assert list(read_tensors(folder, "model", KIND)[0]) == ["c"]


@pytest.mark.parametrize(
    ("tensors", "header"),
    [
        (TENSORS, {"note": object()}),
        ({"a": torch.ones(2, device="meta")}, {}),
        ({"a": torch.ones(2), "b": None}, {}),
    ],
    ids=["header is not JSON", "a tensor without values", "not a tensor"],
)
def test_an_existing_folder_stays_whole_when_writing_fails(tensors, header, folder):
    before = contents(folder)
    with pytest.raises((SlimError, NotImplementedError, AttributeError)):
        write_tensors(folder, "model", KIND, tensors, header)
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["saved"]


def test_a_file_in_the_place_of_the_folder_stays(tmp_path):
    (tmp_path / "saved").write_text("mine")
    with pytest.raises(SlimError, match="saved is a file; give a folder"):
        write_tensors(tmp_path / "saved", "model", KIND, TENSORS, {})
    assert contents(tmp_path) == {"saved": b"mine"}


def test_the_header_carries_format_version_and_checksum(folder):
    header = json.loads((folder / "config.json").read_text())
    assert (header["format"], header["version"]) == (KIND, 2)
    assert len(header["sha256"]) == 64


def test_text_is_replaced_as_one_step(tmp_path):
    path = tmp_path / "front.csv"
    write_text_atomic(path, "old\n")
    write_text_atomic(path, "new\r\n")
    assert contents(tmp_path) == {"front.csv": b"new\r\n"}


def test_text_stays_when_writing_fails(tmp_path):
    path = tmp_path / "front.csv"
    write_text_atomic(path, "old\n")
    with pytest.raises(UnicodeEncodeError):
        write_text_atomic(path, "new\ud800")
    assert contents(tmp_path) == {"front.csv": b"old\n"}


@pytest.mark.parametrize("name", ["saved", "with.dots"])
def test_a_replacement_that_a_kill_stopped_half_way_loses_nothing(name, tmp_path, monkeypatch):
    folder = write_tensors(tmp_path / name, "model", KIND, TENSORS, {"note": "first"})
    before, renamed = contents(folder), Path.rename

    def killed(path: Path, target: Path) -> Path:
        if path.name.startswith(".") and target == folder:
            raise KeyboardInterrupt
        return renamed(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        write_tensors(folder, "model", KIND, {"c": torch.ones(1)}, {})
    monkeypatch.undo()
    assert not folder.exists()
    restore_folders(tmp_path)
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_files_and_folders_have_the_modes_that_the_user_gives(tmp_path):
    old = os.umask(0o027)
    try:
        write_tensors(tmp_path / "saved", "model", KIND, TENSORS, {})
    finally:
        os.umask(old)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "saved").iterdir()}
    assert modes == {"model.safetensors": 0o640, "config.json": 0o640}
    (tmp_path / "saved").chmod(0o2775)
    write_tensors(tmp_path / "saved", "model", KIND, TENSORS, {})
    assert (tmp_path / "saved").stat().st_mode & 0o7777 == 0o2775


@pytest.mark.parametrize("below", [".", "deeper"])
def test_the_working_folder_stays_the_one_it_is(below, folder, monkeypatch):
    (folder / "deeper").mkdir()
    (folder / "notes.txt").write_text("mine")
    monkeypatch.chdir(folder / below)
    given = "." if below == "." else ".."
    write_tensors(given, "model", KIND, {"c": torch.ones(1)}, {"note": 2})
    assert Path.cwd() == folder / below
    Path("new.txt").write_text("here")
    tensors, header = read_tensors(given, "model", KIND)
    assert (list(tensors), header["note"]) == (["c"], 2)
    assert (folder / "notes.txt").read_text() == "mine"
    assert {path.name for path in folder.parent.iterdir()} == {"saved"}


def test_numbers_of_numpy_and_torch_are_kept_as_numbers(tmp_path):
    header = {"a": np.float32(0.5), "b": torch.tensor(2), "c": [np.int64(3)]}
    write_tensors(tmp_path / "saved", "model", KIND, TENSORS, header)
    _, read = read_tensors(tmp_path / "saved", "model", KIND)
    assert {name: read[name] for name in header} == {"a": 0.5, "b": 2, "c": [3]}
    with pytest.raises(SlimError, match="a value of ndarray cannot be kept"):
        write_tensors(tmp_path / "saved", "model", KIND, TENSORS, {"a": np.ones(2)})


def test_a_folder_is_replaced_where_the_working_folder_is_gone(folder, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    write_tensors(folder, "model", KIND, {"c": torch.ones(1)}, {})
    assert list(read_tensors(folder, "model", KIND)[0]) == ["c"]


def test_an_older_pair_stays_in_the_working_folder_where_moving_the_new_one_fails(
    folder, monkeypatch
):
    before = contents(folder)
    monkeypatch.chdir(folder)
    rename, left = Path.rename, [3]

    def rename_until_full(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_until_full)
    with pytest.raises(StorageError):
        write_tensors(".", "model", KIND, {"c": torch.ones(1)}, {})
    assert contents(folder) == before
