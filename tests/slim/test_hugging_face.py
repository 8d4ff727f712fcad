"""Data sets of Hugging Face's format are tasks, from folders of parquet; nothing is fetched."""

import io
import json
import pickle
import socket
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from PIL import Image

from slim import TaskError
from slim.tasks import SPLITS, Augmentation, Preprocessing, load_task
from tests.slim.messages import message_of

RAW = Preprocessing((3, 8, 8), (0.0,) * 3, (1.0,) * 3)
NAMES = ("cat", "dog")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "create_connection", refuse)


def png(shade: int) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade,) * 3).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def write(
    folder: Path,
    sizes: dict[str, int],
    image: str = "image",
    label: str = "label",
    kind: Any = None,
    values: tuple[Any, ...] = (0, 1),
) -> None:
    """One parquet file a split; image number N is of shade N, and its label is of N % 2."""
    folder.mkdir(parents=True, exist_ok=True)
    features = datasets.Features(
        {image: datasets.Image(), label: kind or datasets.ClassLabel(names=list(NAMES))}
    )
    for split, count in sizes.items():
        rows = [{image: png(n), label: values[n % len(values)]} for n in range(count)]
        data = datasets.Dataset.from_list(rows, features=features)
        data.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))


def read(tmp_path: Path, **given: Any) -> Any:
    write(tmp_path / "set", **given)
    return load_task(f"hfds/{tmp_path / 'set'}:{tmp_path / 'cache'}")


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ({"train": 40}, (28, 6, 6)),
        ({"train": 40, "test": 8}, (36, 4, 8)),
        ({"train": 40, "validation": 8}, (36, 4, 8)),
        ({"train": 40, "validation": 6, "test": 8}, (40, 6, 8)),
    ],
)
def test_splits_are_those_that_the_set_has(given, sizes, tmp_path):
    task = read(tmp_path, sizes=given)
    assert tuple(task.size(split) for split in SPLITS) == sizes
    assert (task.classes, task.channels) == (NAMES, 3)


def test_images_keep_their_labels_and_take_the_augmentation_of_folders(tmp_path):
    task = read(tmp_path, sizes={"train": 40, "test": 8})
    for images, labels in task.eval_batches("test", RAW, 3):
        shades = (images[:, 0, 0, 0] * 255).round().long()
        assert torch.equal(shades % 2, labels)
    everything = Augmentation(True, 0.5, "rand-m9-mstd0.5-inc1", 0.3, 0.5, 0.3)
    first, again = (next(iter(task.train_batches(RAW, everything, 8, 0, 0))) for _ in range(2))
    assert torch.equal(first[0], again[0])


@pytest.mark.parametrize(
    ("columns", "classes"),
    [
        ({"image": "img", "label": "fine_label"}, NAMES),
        ({"label": "labels", "kind": datasets.Value("string"), "values": ("b", "a")}, ("a", "b")),
        ({"kind": datasets.Value("int64"), "values": (7, 3)}, ("3", "7")),
        ({"label": "species"}, NAMES),  # found by its type
    ],
)
def test_columns_and_classes_are_found(columns, classes, tmp_path):
    task = read(tmp_path, sizes={"train": 40}, **columns)
    assert task.classes == classes
    assert {label for split in SPLITS for _, label in task.samples[split]} == {0, 1}


def test_hidden_labels_of_a_test_split_leave_it_out(tmp_path):
    write(tmp_path / "set", {"train": 40, "validation": 8})
    write(tmp_path / "other", {"test": 8}, values=(-1,))
    (tmp_path / "other" / "test-00000-of-00001.parquet").rename(
        tmp_path / "set" / "test-00000-of-00001.parquet"
    )
    task = load_task(f"hfds/{tmp_path / 'set'}:{tmp_path / 'cache'}")
    assert [task.size(split) for split in SPLITS] == [36, 4, 8]
    assert {word for (word, _), _ in task.samples["test"]} == {"validation"}


def test_the_set_stays_when_it_is_read_again_moved_or_sent_to_a_worker(tmp_path):
    task = read(tmp_path, sizes={"train": 40, "test": 8})
    sent = pickle.loads(pickle.dumps(task))
    (tmp_path / "set").rename(tmp_path / "moved")
    moved = load_task(f"hfds/{tmp_path / 'moved'}:{tmp_path / 'cache'}")
    assert task.samples == sent.samples == moved.samples
    assert task.fingerprint() == sent.fingerprint()
    assert task.fingerprint()["sha256"] == moved.fingerprint()["sha256"]
    batches = zip(task.eval_batches("val", RAW, 8), sent.eval_batches("val", RAW, 8), strict=True)
    assert all(torch.equal(ours[0], theirs[0]) for ours, theirs in batches)


def test_images_that_are_files_of_their_own_are_read(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(40):
        Image.new("RGB", (8, 8), (number,) * 3).save(folder / f"{number}.png")
    rows = [{"file_name": f"{n}.png", "label": n % 2} for n in range(40)]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    task = load_task(f"hfds/{folder}:{tmp_path / 'cache'}")
    for images, labels in task.eval_batches("val", RAW, 8):
        assert torch.equal((images[:, 0, 0, 0] * 255).round().long() % 2, labels)
    assert len(task.fingerprint()["sha256"]) == 64


# Refusals


def test_a_damaged_image_is_named_by_its_row(tmp_path):
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))}
    )
    rows = [{"image": png(n), "label": n % 2} for n in range(40)]
    write(tmp_path / "set", {"train": 40})
    rows[5]["image"]["bytes"] = b"no image"
    data = datasets.Dataset.from_list(rows, features=features)
    data.to_parquet(str(tmp_path / "set" / "test-00000-of-00001.parquet"))
    task = load_task(f"hfds/{tmp_path / 'set'}:{tmp_path / 'cache'}")
    with pytest.raises(TaskError) as error:
        list(task.eval_batches("test", RAW, 8))
    assert "image 5 of split test of hfds/" in message_of(error)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TaskError) as error:
        load_task(f"hfds/{tmp_path}")
    assert "needs the package datasets: pip install 'vit-slim-sweeps[hfds]'" in message_of(error)


@pytest.mark.parametrize("name", ["hfds/cifar10", "hfds/user/pets", "hfds//nowhere", "hfds/./no"])
def test_nothing_is_fetched_without_being_asked(name):
    with pytest.raises(TaskError) as error:
        load_task(name)
    assert "is no folder; give hfds/FOLDER of parquet or arrow files" in message_of(error)
    assert "--download true" in message_of(error)


def test_a_set_without_a_train_split_is_refused(tmp_path):
    with pytest.raises(TaskError) as error:
        read(tmp_path, sizes={"test": 8})
    assert "has the splits test, expected one named train" in message_of(error)


@pytest.mark.parametrize(
    "given",
    [
        {"label": "mood", "kind": datasets.Value("int64")},
        {"image": "label", "label": "other", "kind": datasets.Value("int64")},
    ],
)
def test_columns_that_are_no_images_and_labels_are_named(given, tmp_path):
    with pytest.raises(TaskError) as error:
        read(tmp_path, sizes={"train": 8}, **given)
    assert "expected one of images and one named label, labels" in message_of(error)


def test_a_folder_without_data_is_refused(tmp_path):
    (tmp_path / "set").mkdir()
    with pytest.raises(TaskError) as error:
        load_task(f"hfds/{tmp_path / 'set'}:{tmp_path / 'cache'}")
    assert "cannot be read" in message_of(error)
