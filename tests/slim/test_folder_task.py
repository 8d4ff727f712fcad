"""An image folder is a task, in three layouts, whatever its images are and however many read."""

import random
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from slim import TaskError
from slim.tasks import SPLITS, Augmentation, FolderTask, Preprocessing
from slim.tasks.order import epoch_order, rank_positions
from tests.slim.image_folders import files, fill, fill_flat
from tests.slim.messages import message_of

PLAIN = Augmentation()
# Under which a batch holds the images' own values divided by 255.
RAW = Preprocessing((3, 8, 8), (0.0,) * 3, (1.0,) * 3)
EVERYTHING = Augmentation(
    affine=True,
    hflip=0.5,
    auto_augment="rand-m9-mstd0.5-inc1",
    color_jitter=0.3,
    random_erasing=0.5,
    crop_scale=0.3,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of 20 images."""
    fill(tmp_path / "data" / "cat", 20)
    fill(tmp_path / "data" / "dog", 20, first=20)
    return tmp_path / "data"


def epoch_of(task: FolderTask, augmentation=PLAIN, seed=0, epoch=0, batch_size=8, **where):
    return list(task.train_batches(RAW, augmentation, batch_size, seed, epoch, **where))


def images_of(batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.cat([images for images, _ in batches])


def test_images_of_floats_are_refused(root):
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(root / "cat" / "float.tiff")
    task = FolderTask("pets", root, workers=0)
    batches = (batch for split in SPLITS for batch in task.eval_batches(split, RAW, 8))
    with pytest.raises(TaskError, match=r"float\.tiff cannot be read: its values are floats"):
        list(batches)


# Layouts


@pytest.mark.parametrize("ending", ["webp", "BMP", "tiff"])
def test_images_of_other_formats_are_read_beside_the_usual_ones(ending, root):
    Image.new("RGB", (8, 8), (0, 0, 255)).save(root / "cat" / f"blue.{ending}", lossless=True)
    task = FolderTask("pets", root)
    assert sum(task.size(split) for split in SPLITS) == 41
    found = [path for split in task.samples.values() for path, _ in split]
    assert f"blue.{ending}" in {Path(path).name for path in found}
    shown = [epoch for split in SPLITS for epoch in task.eval_batches(split, RAW, 8)]
    blue = images_of(shown).mean((2, 3)).sub(torch.tensor([0.0, 0.0, 1.0])).abs().amax(1) < 0.01
    assert blue.sum() == 1


@pytest.mark.parametrize(("batch_size", "world_size"), [(29, 1), (15, 2)])
def test_a_batch_larger_than_the_split_is_refused(batch_size, world_size, root):
    with pytest.raises(TaskError, match="28 training images, fewer than one batch") as error:
        epoch_of(FolderTask("pets", root), batch_size=batch_size, world_size=world_size)
    assert "pets" in message_of(error)


@pytest.mark.parametrize("policy", ["randy", "rand-k3", "best"])
def test_a_policy_that_timm_does_not_know_is_named(policy, root):
    with pytest.raises(TaskError, match=repr(policy)) as error:
        epoch_of(FolderTask("pets", root), Augmentation(auto_augment=policy))
    message_of(error)


# Images that cannot be read


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + b"\0\0\0\0"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:150])


def claim_a_size(path: Path) -> None:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))


def break_a_chunk(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:33] + b"\xff" * 12 + content[33:])


SPOIL: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("not\nan image"),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": truncate,
    "gigantic": claim_a_size,
    "broken": break_a_chunk,
    "gone": Path.unlink,
}


@pytest.mark.parametrize(
    ("spoil", "workers"), [*((name, 0) for name in SPOIL), ("text", 2), ("gigantic", 2)]
)
def test_an_image_that_cannot_be_read_is_named_in_one_line(spoil, workers, root):
    task = FolderTask("pets", root, workers=workers)
    for split in ("train", "val"):
        bad = Path(task.samples[split][1][0])
        SPOIL[spoil](bad)
        with pytest.raises(TaskError, match="cannot be read") as error:
            epoch_of(task, batch_size=7) if split == "train" else list(
                task.eval_batches(split, RAW, 8)
            )
        assert message_of(error).startswith(f"image {bad} cannot be read: ")


def test_a_link_to_nowhere_is_named_before_anything_starts(root):
    (root / "cat" / "20.png").symlink_to(root / "nowhere.png")
    with pytest.raises(TaskError, match=r"cat/20\.png cannot be read: No such file") as error:
        FolderTask("pets", root).fingerprint()
    message_of(error)


# Images of all kinds


def middle_grey(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.full((8, 8), 128 * 257, np.uint16))
    grey = Image.new("RGB", (8, 8), (128, 128, 128))
    return grey.quantize() if mode == "P" else grey.convert(mode)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        ("RGB", "png"),
        ("RGB", "jpg"),
        ("L", "png"),
        ("LA", "png"),
        ("RGBA", "png"),
        ("P", "png"),
        ("CMYK", "jpg"),
        ("I;16", "png"),
    ],
)
def test_a_middle_grey_is_one_whatever_the_file_holds(mode, ending, channels, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(3):
            middle_grey(mode).save(tmp_path / name / f"{number}.{ending}")
    expected = Preprocessing((channels, 8, 8), (0.0,) * channels, (1.0,) * channels)
    task = FolderTask("greys", tmp_path, workers=0)
    (images, labels), *_ = task.train_batches(expected, EVERYTHING, 2, 0, 0)
    assert images.shape == (2, channels, 8, 8)
    ((images, labels),) = task.eval_batches("val", expected, 8)
    assert labels.tolist() == [0, 1]
    torch.testing.assert_close(
        images, torch.full((2, channels, 8, 8), 128 / 255), rtol=0, atol=2.5 / 255
    )


# Batches


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_determined_by_seed_and_epoch(workers, root):
    task = FolderTask("pets", root, workers=workers)

    def epoch(seed: int, number: int) -> Tensor:
        torch.manual_seed(random.randrange(1000))  # the global generators do not matter
        np.random.seed(random.randrange(1000))
        return images_of(epoch_of(task, EVERYTHING, seed, number))

    first = epoch(0, 0)
    assert torch.equal(epoch(0, 0), first)
    assert not torch.equal(epoch(0, 1), first)
    assert not torch.equal(epoch(1, 0), first)


def test_batches_do_not_depend_on_the_number_of_workers(root):
    alone, pair = (FolderTask("pets", root, workers=workers) for workers in (0, 2))
    ours, theirs = epoch_of(alone, EVERYTHING), epoch_of(pair, EVERYTHING)
    assert torch.equal(images_of(ours), images_of(theirs))
    assert [labels.tolist() for _, labels in ours] == [labels.tolist() for _, labels in theirs]


def test_global_generators_stay_as_they_are(root):
    task = FolderTask("pets", root, workers=0)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    epoch_of(task, EVERYTHING)
    list(task.eval_batches("val", RAW, 8))
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_each_image_has_draws_of_its_own(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / name, 1)
        for number in range(1, 8):  # the same image again
            (tmp_path / name / f"{number}.png").write_bytes(
                (tmp_path / name / "0.png").read_bytes()
            )
    task = FolderTask("twins", tmp_path, workers=0)
    images = images_of(epoch_of(task, Augmentation(crop_scale=0.1, hflip=0.5), batch_size=12))
    assert len({tuple(image.flatten().tolist()) for image in images}) == 12


def test_training_images_are_those_of_evaluation_when_no_distortion_is_asked(root):
    task = FolderTask("pets", root, workers=0)
    trained = images_of(epoch_of(task, batch_size=28))
    evaluated = images_of(list(task.eval_batches("train", RAW, 28)))
    order = [int((evaluated == image).flatten(1).all(dim=1).nonzero()[0, 0]) for image in trained]
    assert sorted(order) == list(range(28))
    assert order != sorted(order)


def test_epochs_shuffle_differently(root):
    task = FolderTask("pets", root, workers=0)
    first, second = (images_of(epoch_of(task, epoch=epoch)) for epoch in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_share_an_epoch_without_overlap(world_size, tmp_path):
    fill_flat(tmp_path / "cat", range(30))
    fill_flat(tmp_path / "dog", range(30, 60))
    task = FolderTask("numbers", tmp_path, workers=0)
    seen = []
    for rank in range(world_size):
        for images, labels in epoch_of(task, batch_size=5, rank=rank, world_size=world_size):
            numbers = (images[:, 0, 0, 0] * 255).round().int().tolist()
            assert [int(number >= 30) for number in numbers] == labels.tolist()
            seen += numbers
    assert len(seen) == len(set(seen)) == task.steps_per_epoch(5, world_size) * 5 * world_size
    assert {f"{name}/{n}.png" for n in seen for name in [("cat", "dog")[n >= 30]]} <= files(
        task, "train"
    )


def test_processes_see_together_what_one_sees_in_a_batch_as_large(root):
    task = FolderTask("pets", root, workers=0)
    alone = epoch_of(task, EVERYTHING, batch_size=8)
    for rank in range(2):
        mine = torch.from_numpy(rank_positions(4, rank, 2))
        batches = epoch_of(task, EVERYTHING, batch_size=4, rank=rank, world_size=2)
        for (images, labels), (all_images, all_labels) in zip(batches, alone, strict=True):
            torch.testing.assert_close(images, all_images[mine])
            assert torch.equal(labels, all_labels[mine])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_that_begins_later_reads_no_earlier_image(workers, root):
    task = FolderTask("pets", root, workers=workers)
    whole = epoch_of(task, EVERYTHING)
    order = epoch_order(28, 0, 0, EVERYTHING.aug_repeats)
    for index in set(order[:16]) - set(order[16:]):
        Path(task.samples["train"][index][0]).unlink()
    rest = epoch_of(task, EVERYTHING, start_step=2)
    assert torch.equal(images_of(rest), images_of(whole[2:]))
    assert [labels.tolist() for _, labels in rest] == [labels.tolist() for _, labels in whole[2:]]


def test_repeats_show_fewer_images_in_as_many_steps(root):
    task = FolderTask("pets", root, workers=0)
    repeated = epoch_of(task, Augmentation(aug_repeats=2), batch_size=7)
    assert len(repeated) == 4
    shown = Counter(tuple(image.flatten().tolist()) for image in images_of(repeated))
    assert sorted(shown.values()) == [2] * 14
    distorted = Augmentation(aug_repeats=2, crop_scale=0.1)
    images = images_of(epoch_of(task, distorted, batch_size=7))
    assert len({tuple(image.flatten().tolist()) for image in images}) == 28


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_an_evaluation(world_size, workers, root):
    task = FolderTask("pets", root, workers=workers)
    parts = [
        images_of(list(task.eval_batches("val", RAW, 2, rank, world_size)))
        for rank in range(world_size)
    ]
    together = {tuple(image.flatten().tolist()) for part in parts for image in part}
    whole = images_of(list(task.eval_batches("val", RAW, 8)))
    assert sum(map(len, parts)) == len(whole)
    assert together == {tuple(image.flatten().tolist()) for image in whole}


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_takes_a_split_once_and_in_its_order(workers, tmp_path):
    fill_flat(tmp_path / "cat", range(30))
    fill_flat(tmp_path / "dog", range(30, 60))
    task = FolderTask("numbers", tmp_path, workers=workers)
    for _ in range(2):
        batches = list(task.eval_batches("val", RAW, 3))
        assert [len(labels) for _, labels in batches] == [3, 3, 2]
        numbers = (images_of(batches)[:, 0, 0, 0] * 255).round().int().tolist()
        assert numbers == [int(Path(path).stem) for path, _ in task.samples["val"]]


def test_images_are_normalised_as_the_network_expects(tmp_path):
    fill_flat(tmp_path / "cat", range(100, 103))
    fill_flat(tmp_path / "dog", range(100, 103))
    task = FolderTask("flat", tmp_path, workers=0)
    expected = Preprocessing((3, 4, 6), (0.1, 0.2, 0.3), (0.5, 1.0, 2.0), "bicubic", 0.9)
    for batches in (
        task.train_batches(expected, PLAIN, 2, 0, 0),
        task.eval_batches("train", expected, 2),
    ):
        (images, _), *_ = batches
        assert images.shape == (2, 3, 4, 6)
        red, green, blue = images[0, :, 0, 0].tolist()
        assert red * 0.5 + 0.1 == pytest.approx(green + 0.2) == pytest.approx(blue * 2 + 0.3)
        assert 100 <= round(255 * (green + 0.2)) <= 102
