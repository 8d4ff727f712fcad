"""Fashion-MNIST read from its IDX files."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from slim import TaskError
from slim.tasks import SPLITS, load_task
from tests.slim.messages import message_of

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def idx(array: np.ndarray) -> bytes:
    """The IDX format: magic with the number of dimensions, sizes, bytes."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    (folder / IMAGES).write_bytes(gzip.compress(idx(images), compresslevel=1))
    (folder / LABELS).write_bytes(gzip.compress(idx(labels), compresslevel=1))


def clothes(per_class: int = 301) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(10 * per_class) % 10
    images = np.zeros((len(labels), 28, 28), np.uint8)
    images[:, 0, 0] = labels
    images[:, 0, 1], images[:, 0, 2] = np.divmod(np.arange(len(labels)), 256)
    return images, labels


def test_fashion_mnist_takes_the_first_300_images_of_each_class(tmp_path):
    write_idx(tmp_path / "idx", *clothes())
    task = load_task(f"fashion-mnist:{tmp_path / 'idx'}")
    assert [task.size(split) for split in SPLITS] == [2100, 450, 450]
    assert (task.num_classes, task.images.shape) == (10, (3000, 1, 28, 28))
    assert np.array_equal(task.images[:, 0, 0, 0], task.labels)
    positions = task.images[:, 0, 0, 1].astype(int) * 256 + task.images[:, 0, 0, 2]
    assert np.array_equal(positions, np.arange(3000))


def test_fashion_mnist_takes_as_many_images_as_its_name_says(tmp_path):
    write_idx(tmp_path, *clothes())
    task = load_task(f"fashion-mnist-200:{tmp_path}")
    assert [task.size(split) for split in SPLITS] == [140, 30, 30]
    assert np.array_equal(np.bincount(task.labels), np.full(10, 20))


def test_more_images_of_fashion_mnist_are_for_val_and_test_alone(tmp_path):
    write_idx(tmp_path, *clothes())
    fewer = load_task(f"fashion-mnist-200:{tmp_path}")
    task = load_task(f"fashion-mnist-200+120:{tmp_path}")
    assert [task.size(split) for split in SPLITS] == [140, 90, 90]
    assert np.array_equal(np.sort(np.concatenate(list(task.splits.values()))), np.arange(320))
    assert np.array_equal(task.splits["train"], fewer.splits["train"])
    assert np.array_equal(task.images[:200], fewer.images)
    for split in ("val", "test"):
        assert np.array_equal(task.splits[split][:30], fewer.splits[split])
        assert np.array_equal(np.bincount(task.labels[task.splits[split]]), np.full(10, 9))
    assert np.array_equal(task.images[:, 0, 0, 0], task.labels)
    assert len(np.unique(task.images.reshape(320, -1), axis=0)) == 320


@pytest.mark.parametrize("more", ["", "many", "-20", "30"])
def test_a_number_of_more_images_that_cannot_be_is_named(more, tmp_path):
    write_idx(tmp_path, *clothes())
    with pytest.raises(TaskError, match="give a number that is a multiple of 20") as error:
        load_task(f"fashion-mnist-200+{more}:{tmp_path}")
    assert f"{more or 'no'} more images" in message_of(error)


@pytest.mark.parametrize("count", ["", "many", "0", "-10", "90", "205"])
def test_a_number_of_images_that_cannot_be_is_named(count, tmp_path):
    write_idx(tmp_path, *clothes())
    with pytest.raises(TaskError, match="give a number that is a multiple of 10") as error:
        load_task(f"fashion-mnist-{count}:{tmp_path}")
    assert count in message_of(error)


def test_more_images_than_there_are_are_refused(tmp_path):
    write_idx(tmp_path, *clothes())
    with pytest.raises(TaskError, match="fewer than the 302 images needed of each"):
        load_task(f"fashion-mnist-3020:{tmp_path}")
    with pytest.raises(TaskError, match="fewer than the 304 images needed of each"):
        load_task(f"fashion-mnist-3000+40:{tmp_path}")


def in_gzip(edit):
    return lambda path: path.write_bytes(gzip.compress(edit(gzip.decompress(path.read_bytes()))))


def in_file(edit):
    return lambda path: path.write_bytes(edit(path.read_bytes()))


def spoil_stream(packed: bytes) -> bytes:
    return packed[:20] + bytes(b ^ 0xFF for b in packed[20:60]) + packed[60:]


DAMAGE = {
    "missing": Path.unlink,
    "empty": in_file(lambda packed: b""),
    "not gzip": in_file(lambda packed: b"plain text"),
    "truncated gzip": in_file(lambda packed: packed[:-20]),
    "gzip of garbage": in_file(spoil_stream),
    "nothing inside": in_gzip(lambda raw: b""),
    "half a header": in_gzip(lambda raw: raw[:7]),
    "a byte short": in_gzip(lambda raw: raw[:-1]),
    "a byte long": in_gzip(lambda raw: raw + b"\0"),
    "wrong magic": in_gzip(lambda raw: b"\x00\x00\x0d" + raw[3:]),
    "other dimensions": in_gzip(lambda raw: raw[:3] + b"\x02" + raw[4:]),
    "sizes that overflow": in_gzip(lambda raw: raw[:4] + b"\xff" * (4 * raw[3]) + raw[16:]),
}


@pytest.mark.parametrize("name", [IMAGES, LABELS])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_idx_file_is_named(damage, name, tmp_path):
    images, labels = clothes(per_class=2)
    write_idx(tmp_path, images, labels)
    DAMAGE[damage](tmp_path / name)
    with pytest.raises(TaskError) as error:
        load_task(f"fashion-mnist:{tmp_path}")
    assert name in message_of(error)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ((20, 28, 28), 19, "20 images of 28 x 28 and 19 labels"),
        ((20, 28, 27), 20, "20 images of 28 x 27 and 20 labels"),
        ((20, 28, 28), 20, "a class of fewer than the 300 images"),
    ],
)
def test_idx_files_that_hold_something_else_are_refused(images, labels, message, tmp_path):
    write_idx(tmp_path, np.zeros(images), np.arange(labels) % 10)
    with pytest.raises(TaskError, match=message) as error:
        load_task(f"fashion-mnist:{tmp_path}")
    assert str(tmp_path) in message_of(error)
