"""The dense model: fresh, named with local weights, or a saved network."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import slim
from slim.tasks import Task, load_task
from sweeps.config import SweepConfig, dense_epochs
from sweeps.dense import make_dense, preprocessing_for
from sweeps.errors import InputError
from sweeps.stage_config import DenseConfig, VitConfig


@pytest.fixture(scope="module")
def digits() -> Task:
    return load_task("digits")


def test_a_fresh_model_fits_the_task_and_is_trained(digits: Task) -> None:
    config = SweepConfig(vit=VitConfig(img_size=16, patch_size=4, embed_dim=32, num_heads=2))
    model = make_dense(config, digits)
    assert model(torch.zeros(1, 1, 16, 16)).shape == (1, 10)
    assert dense_epochs(config) == 20
    mean, std = digits.statistics()
    preprocessing = preprocessing_for(config, model, digits)
    assert (preprocessing.mean, preprocessing.std) == (mean, std)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_named_model_takes_local_weights(digits: Task, tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(5)
    theirs = timm.create_model("test_vit", num_classes=10)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(theirs.state_dict(), path)
    else:
        save_file(theirs.state_dict(), path)
    config = SweepConfig(model="test_vit", weights=str(path))
    model = make_dense(config, digits)
    assert dense_epochs(config) == 0
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name
    preprocessing = preprocessing_for(config, model, digits)
    assert preprocessing.input_size == (3, 160, 160)


def test_the_classes_of_a_swins_local_weights_must_be_the_tasks(
    digits: Task, tmp_path: Path
) -> None:
    save_file({"head.fc.weight": torch.zeros(7, 768)}, tmp_path / "swin.safetensors")
    config = SweepConfig(
        model="swin_tiny_patch4_window7_224", weights=str(tmp_path / "swin.safetensors")
    )
    with pytest.raises(InputError, match="has 7 classes but data digits has 10"):
        make_dense(config, digits)


def test_weights_of_another_architecture_are_refused_before_anything_starts(
    digits: Task, tmp_path: Path
) -> None:
    path = tmp_path / "deeper.safetensors"
    save_file(timm.create_model("test_vit2", num_classes=10).state_dict(), path)
    config = SweepConfig(model="test_vit", weights=str(path))
    with pytest.raises(InputError, match=r"it is of another architecture .*of this model"):
        make_dense(config, digits, weights=False)
    (tmp_path / "empty.pth").touch()
    with pytest.raises(InputError, match="it is empty; give safetensors or a state dict"):
        make_dense(replace(config, weights=str(tmp_path / "empty.pth")), digits, weights=False)


def test_weights_that_run_code_are_not_loaded(digits: Task, tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (marker,)  # type: ignore[return-value]

    torch.save({"head.weight": Payload()}, tmp_path / "bad.pth")
    config = SweepConfig(model="test_vit", weights=str(tmp_path / "bad.pth"))
    with pytest.raises(InputError, match="holds more than tensors; give safetensors"):
        make_dense(config, digits)
    assert not marker.exists()


def test_a_saved_network_comes_back_as_plain_timm(digits: Task, tmp_path: Path) -> None:
    first = make_dense(SweepConfig(vit=VitConfig(img_size=8, patch_size=2)), digits).eval()
    preprocessing = preprocessing_for(SweepConfig(), first, digits)
    about = {"preprocessing": preprocessing.to_json()}
    slim.save(first, tmp_path / "saved", about)
    config = SweepConfig(model=str(tmp_path / "saved"))
    model = make_dense(config, digits)
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(model.eval()(images), first(images))
    assert preprocessing_for(config, model, digits) == preprocessing
    assert dense_epochs(config) == 0


def test_a_slimmed_network_is_refused_as_dense_model(digits: Task, tmp_path: Path) -> None:
    first = make_dense(SweepConfig(vit=VitConfig(img_size=8, patch_size=2)), digits)
    checkpoint = slim.MaskCheckpoint.from_model(slim.attach_masks(first))
    vit = slim.extract(checkpoint, checkpoint.select(slim.Budget(0.5, 0.5, 0.5)))
    slim.save(vit, tmp_path / "slim")
    with pytest.raises(InputError, match="slimmed"):
        make_dense(SweepConfig(model=str(tmp_path / "slim")), digits)


def test_a_named_model_is_given_a_head_for_the_task_when_it_is_trained(digits: Task) -> None:
    config = SweepConfig(model="test_vit", dense=DenseConfig(epochs=2))
    assert make_dense(config, digits, weights=False).num_classes == 10
    assert dense_epochs(config) == 2
