"""A run goes on with the images that it began with, or not at all."""

from pathlib import Path

import pytest

import slim
from slim.tasks import load_task
from sweeps.errors import InputError
from sweeps.inputs import check_images
from sweeps.run_folder import RunFolder
from tests.slim.bars import tiny_vit
from tests.sweeps.images import write_image_folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_image_folder(tmp_path / "images", ("cat", "dog"), 4, size=8)
    return tmp_path / "images"


@pytest.fixture
def folder(images: Path, tmp_path: Path) -> RunFolder:
    """Of a run whose dense model is done."""
    folder = RunFolder(tmp_path / "runs", "mine")
    folder.state.mkdir(parents=True)
    slim.save(tiny_vit(), folder.dense, {"data": load_task(str(images)).fingerprint()})
    folder.remember("dense_done", True)
    return folder


def test_the_same_images_are_gone_on_with(folder: RunFolder, images: Path) -> None:
    check_images(folder, load_task(str(images)))


def test_other_images_are_refused(folder: RunFolder, images: Path) -> None:
    first = sorted(images.rglob("*.png"))[0]
    first.rename(first.with_name("other.png"))
    with pytest.raises(InputError, match="other images or classes than run mine began with"):
        check_images(folder, load_task(str(images)))


def test_before_the_dense_model_is_done_there_is_nothing_to_compare(
    folder: RunFolder, images: Path
) -> None:
    folder.remember("dense_done", False)
    check_images(folder, load_task("digits"))


def test_a_damaged_dense_model_is_told(folder: RunFolder, images: Path) -> None:
    (folder.dense / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"run mine cannot go on: .*config\.json is not JSON"):
        check_images(folder, load_task(str(images)))
