"""Data sets of torchvision are tasks by their names, where their files lie; nothing is fetched."""

import pickle
import socket
from collections import Counter
from pathlib import Path

import pytest
import torch
from torchvision.datasets import Flowers102

from slim import TaskError
from slim.tasks import SPLITS, Augmentation, Preprocessing, load_task
from slim.tasks.torchvision_sets import NAMES
from tests.slim.messages import message_of
from tests.slim.torchvision_files import WRITERS, Evil, batch_file, cifar10, food101, image

RAW = Preprocessing((3, 8, 8), (0.0,) * 3, (1.0,) * 3)
# train, val, test: of sets that have a val, of sets whose val is a tenth of train, of whole sets.
SIZES = {
    "cifar10": (90, 10, 20),
    "cifar100": (18, 2, 20),
    "country211": (8, 8, 8),
    "dtd": (8, 8, 8),
    "eurosat": (28, 6, 6),
    "fashionmnist": (180, 20, 30),
    "fgvcaircraft": (8, 8, 8),
    "flowers102": (6, 3, 3),
    "food101": (18, 2, 20),
    "gtsrb": (18, 2, 6),
    "inaturalist": (18, 2, 20),
    "kmnist": (180, 20, 30),
    "mnist": (180, 20, 30),
    "oxfordiiitpet": (18, 2, 20),
    "stanfordcars": (36, 4, 40),
    "sun397": (28, 6, 6),
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set is read without a connection, and our own label files stand in for the real ones."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "create_connection", refuse)
    sums = {key: (file, None) for key, (file, _) in Flowers102._file_dict.items()}
    monkeypatch.setattr(Flowers102, "_file_dict", sums)


def test_every_set_has_a_layout_here():
    assert tuple(sorted(WRITERS)) == NAMES == tuple(SIZES)


@pytest.mark.parametrize("kind", NAMES)
def test_a_set_is_read_with_its_splits_and_classes(kind, tmp_path):
    WRITERS[kind](tmp_path)
    task = load_task(f"torch/{kind}:{tmp_path}")
    assert tuple(task.size(split) for split in SPLITS) == SIZES[kind]
    references = [reference for split in SPLITS for reference, _ in task.samples[split]]
    assert len(set(references)) == sum(SIZES[kind])
    labels = {label for split in SPLITS for _, label in task.samples[split]}
    assert labels <= set(range(task.num_classes))
    assert all(isinstance(name, str) and name for name in task.classes)
    preprocessing = Preprocessing((task.channels, 8, 8), *task.statistics())
    for split in ("val", "test"):
        batches = list(task.eval_batches(split, preprocessing, 64))
        assert sum(len(images) for images, _ in batches) == task.size(split)
        given = [label for _, label in task.samples[split]]
        assert torch.cat([labels for _, labels in batches]).tolist() == given


@pytest.mark.parametrize("kind", ["cifar10", "food101", "inaturalist"])
def test_the_set_stays_when_it_is_read_again_or_sent_to_a_worker(kind, tmp_path):
    WRITERS[kind](tmp_path)
    task = load_task(f"torch/{kind}:{tmp_path}")
    again = load_task(f"torch/{kind}:{tmp_path}")
    sent = pickle.loads(pickle.dumps(task))
    assert task.samples == again.samples == sent.samples
    assert task.fingerprint() == again.fingerprint() == sent.fingerprint()


def test_a_fingerprint_changes_with_a_pixel_or_a_file(tmp_path):
    cifar10(tmp_path)
    food101(tmp_path)
    before = [
        load_task(f"torch/{kind}:{tmp_path}").fingerprint() for kind in ("cifar10", "food101")
    ]
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes().replace(bytes([200]), bytes([201]), 1))
    (tmp_path / "food-101/images/sushi/train1.jpg").write_bytes(b"other")
    after = [
        load_task(f"torch/{kind}:{tmp_path}").fingerprint() for kind in ("cifar10", "food101")
    ]
    assert before[0]["sha256"] != after[0]["sha256"]
    assert before[1]["sha256"] != after[1]["sha256"]


def test_images_of_cifar_keep_their_colours_and_labels(tmp_path):
    cifar10(tmp_path)
    task = load_task(f"torch/CIFAR10:{tmp_path}")
    assert (task.classes, task.channels) == (("cat", "dog"), 3)
    for images, labels in task.eval_batches("test", RAW, 8):
        for image_, label in zip(images, labels, strict=True):
            colours = (image_ * 255).round().flatten(1).unique(dim=1)
            assert colours.flatten().tolist() == [200 * label, 7, 200 * label]


def test_statistics_are_those_of_the_train_split(tmp_path):
    cifar10(tmp_path)
    mean, std = load_task(f"torch/cifar10:{tmp_path}").statistics()
    half = 100 / 255
    assert mean == pytest.approx((half, 7 / 255, half))
    assert std == pytest.approx((half, 1e-6, half), rel=1e-3)


def test_the_augmentation_of_image_folders_is_taken(tmp_path):
    cifar10(tmp_path)
    task = load_task(f"torch/cifar10:{tmp_path}")
    everything = Augmentation(True, 0.5, "rand-m9-mstd0.5-inc1", 0.3, 0.5, 0.3)
    task.check_augmentation(RAW, everything)
    first, again = (next(iter(task.train_batches(RAW, everything, 8, 0, 0))) for _ in range(2))
    assert torch.equal(first[0], again[0])
    plain = next(iter(task.train_batches(RAW, Augmentation(), 8, 0, 0)))
    assert torch.equal(first[1], plain[1])
    assert not torch.equal(first[0], plain[0])


@pytest.mark.parametrize("kind", ["oxford_iiit_pet", "OxfordIIITPet", "oxford-iiit-pet"])
def test_a_name_is_known_in_timms_and_in_torchvisions_spelling(kind, tmp_path):
    WRITERS["oxfordiiitpet"](tmp_path)
    assert load_task(f"torchvision/{kind}:{tmp_path}").classes == ("Beagle", "Bengal")


def test_files_that_come_in_any_order_keep_their_labels(tmp_path):
    WRITERS["inaturalist"](tmp_path)
    task = load_task(f"torch/inaturalist:{tmp_path}")
    for split in SPLITS:
        for path, label in task.samples[split]:
            assert path.rpartition("/")[0].endswith(task.classes[label])
    assert Counter(label for _, label in task.samples["val"]) == {0: 1, 1: 1}


# Refusals


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cifar10(tmp_path)
    batch_file(tmp_path / "cifar-10-batches-py" / "data_batch_2", {"data": Evil()})
    with pytest.raises(TaskError) as error:
        load_task(f"torch/cifar10:{tmp_path}")
    assert "mkdir, which is no array" in message_of(error)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("data_batch_1", ["no", "batch"], "is no batch of CIFAR"),
        ("data_batch_1", {"data": [1, 2], "labels": [0, 1]}, "its data or labels are odd"),
        ("test_batch", {"labels": [0]}, "its data or labels are odd"),
        ("batches.meta", {"label_names": "cat"}, "holds no label_names"),
    ],
)
def test_batches_that_hold_something_else_are_refused(file, content, said, tmp_path):
    cifar10(tmp_path)
    batch_file(tmp_path / "cifar-10-batches-py" / file, content)
    with pytest.raises(TaskError) as error:
        load_task(f"torch/cifar10:{tmp_path}")
    assert said in message_of(error)
    assert file in message_of(error)


@pytest.mark.parametrize("keep", [0, 1, 100, 5000])
def test_a_batch_that_breaks_off_is_named(keep, tmp_path):
    cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TaskError) as error:
        load_task(f"torch/cifar10:{tmp_path}")
    assert "data_batch_1 cannot be read" in message_of(error)


@pytest.mark.parametrize("kind", NAMES)
def test_missing_files_are_told_with_what_to_do(kind, tmp_path):
    with pytest.raises(TaskError) as error:
        load_task(f"torch/{kind}:{tmp_path}")
    message = message_of(error)
    assert str(tmp_path) in message
    assert "give the folder that torchvision calls root, or --download true" in message


@pytest.mark.parametrize("where", ["", ":", ":/nowhere"])
def test_a_set_needs_its_folder(where):
    with pytest.raises(TaskError) as error:
        load_task(f"torch/food101{where}")
    assert "needs an existing folder with its files, as torch/food101:FOLDER" in message_of(error)


def test_an_unknown_set_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(TaskError) as error:
        load_task(f"torch/food102:{tmp_path}")
    assert "'food102' is not one of cifar10, cifar100, country211" in message_of(error)


def test_a_split_of_other_classes_is_refused(tmp_path):
    WRITERS["country211"](tmp_path)
    image(tmp_path / "country211" / "test" / "BE" / "0.jpg", 0)
    with pytest.raises(TaskError) as error:
        load_task(f"torch/country211:{tmp_path}")
    assert "has other classes in its test split than in train" in message_of(error)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("wds/imagenet:/data", "unpack its tar files into an image folder"),
        ("tfds/cifar10", "write it into an image folder"),
        ("hfids/cifar10", "give hfds/ of the same name"),
    ],
)
def test_streams_are_refused_with_what_to_do_instead(name, instead):
    with pytest.raises(TaskError) as error:
        load_task(name)
    assert "is a stream" in message_of(error)
    assert instead in message_of(error)


def test_a_folder_of_a_prefixs_name_is_still_a_folder(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        for number in range(10):
            image(Path("torch/pets") / name / f"{number}.png", number)
    assert load_task("./torch/pets").classes == ("cat", "dog")
