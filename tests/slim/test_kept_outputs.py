"""What a model gives for a batch is computed once; all that show it again read it as it was."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slim import kept_outputs
from slim.distillation import distill_from
from slim.kept_outputs import KeptOutputs, content_key, kept_bytes
from tests.slim.bars import a_batch, tiny_vit
from tests.slim.trainings import FULL, assert_same_training, training_of


class Counting(nn.Module):
    """A ViT that counts the batches it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.vit, self.shown = tiny_vit(1).eval(), 0

    def forward(self, images: Tensor) -> Tensor:
        self.shown += 1
        return self.vit(images)


def test_outputs_are_computed_once_and_read_to_the_bit(tmp_path: Path) -> None:
    images, _ = a_batch()
    model = Counting()
    expected = model.vit(images).detach()
    first, second = KeptOutputs(model, tmp_path / "new"), KeptOutputs(model, tmp_path / "new")
    for kept in (first, first, second):
        outputs = kept(images)
        assert torch.equal(outputs, expected)
        assert not outputs.requires_grad
    assert model.shown == 1


def test_another_batch_has_outputs_of_its_own(tmp_path: Path) -> None:
    images, _ = a_batch()
    model = Counting()
    kept = KeptOutputs(model, tmp_path)
    touched = images.clone()
    touched[1, 0, 2, 3] += 1e-6
    for other in (images, images.flip(0), images.flip(-1), images[:2], images[2:], touched):
        assert torch.equal(kept(other), model.vit(other))
    assert model.shown == 6


def test_the_key_depends_on_values_and_shape_not_on_how_they_lie_in_memory() -> None:
    images = torch.randn(40, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    key = content_key(images)
    assert key == content_key(images.to(memory_format=torch.channels_last))
    assert key != content_key(images.reshape(40, 3, 6, 4))
    assert len(key) == 32
    singles = {content_key(image[None]) for image in images}
    assert len(singles) == 40
    swapped, touched = images.clone(), images.clone()
    swapped[[33, 39]] = images[[39, 33]]
    touched[39, 0, 0, 0] += 1
    assert len({key, content_key(swapped), content_key(touched)}) == 3


@pytest.mark.parametrize("at", ["nothing", "short", "long", "value", "checksum"])
def test_a_damaged_file_costs_one_more_run_and_is_mended(tmp_path: Path, at: str) -> None:
    images, _ = a_batch()
    model = Counting()
    kept = KeptOutputs(model, tmp_path)
    expected = kept(images)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    flipped = {"value": 5, "checksum": len(content) - 1}
    if at in flipped:
        damaged = bytearray(content)
        damaged[flipped[at]] ^= 1
        path.write_bytes(damaged)
    else:
        path.write_bytes({"nothing": b"", "short": content[:-1], "long": content * 2}[at])
    for _ in range(2):
        assert torch.equal(kept(images), expected)
    assert model.shown == 2
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == content


def test_where_nothing_can_be_written_outputs_are_computed(tmp_path: Path) -> None:
    images, _ = a_batch()
    (tmp_path / "file").write_text("in the way")
    model = Counting()
    kept = KeptOutputs(model, tmp_path / "file")
    assert torch.equal(kept(images), kept(images))
    assert model.shown == 2


def test_a_disk_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = a_batch()
    model = Counting()
    monkeypatch.setattr(kept_outputs, "SPARE_BYTES", shutil.disk_usage(tmp_path).total)
    kept = KeptOutputs(model, tmp_path)
    assert torch.equal(kept(images), kept(images))
    assert model.shown == 2
    assert not list(tmp_path.iterdir())


def test_a_training_goes_as_if_its_teacher_ran(tmp_path: Path) -> None:
    """With mixtures, accumulated parts and everything else on; two others follow it."""
    model = Counting()
    running = training_of(recipe=FULL, objective=distill_from(model, 0.7, 2.0))
    list(running.epochs())
    shown, model.shown = model.shown, 0
    for student in (None, None):
        objective = distill_from(KeptOutputs(model, tmp_path), 0.7, 2.0)
        following = training_of(student, recipe=FULL, objective=objective)
        list(following.epochs())
        assert_same_training(following, running)
    assert model.shown == shown


@pytest.mark.parametrize("together", [1, 4, 64])
def test_kept_bytes_is_what_files_take_on_a_disk_of_blocks(tmp_path: Path, together: int) -> None:
    images, classes = torch.randn(64, 1, 8, 8), 40
    kept = KeptOutputs(tiny_vit(1, num_classes=classes).eval(), tmp_path)
    for batch in images.split(together):
        kept(batch)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 64 // together
    taken = sum(4096 * -(-size // 4096) for size in sizes)
    assert kept_bytes(64, classes, together) == taken


def test_outputs_are_those_of_the_same_precision(tmp_path: Path) -> None:
    images, _ = a_batch()
    kept = KeptOutputs(Counting(), tmp_path)
    with torch.autocast("cpu", torch.bfloat16):
        rough = kept(images)
        assert torch.equal(kept(images), rough)
    exact = kept(images)
    assert torch.equal(exact, kept.model.vit(images))
    assert not torch.equal(exact, rough)
    assert kept.model.shown == 2
