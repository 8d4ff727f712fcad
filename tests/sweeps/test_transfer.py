"""Each network goes to each task once, by each method and seed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

import slim
import sweeps.transfer
from slim.subnetwork import architecture_of
from slim.tasks import FolderTask, Task, load_task
from sweeps.config import SweepConfig
from sweeps.dense import saved_preprocessing
from sweeps.errors import InputError
from sweeps.run_folder import RunFolder
from sweeps.stage_config import TransferConfig
from sweeps.transfer import (
    TransferJob,
    Transferred,
    finished_transfer,
    network_for,
    plan_transfer,
    preprocessing_on,
    recipe_for,
    run_transfer,
    tasks_beside,
    transfer_methods,
    transfer_tasks,
)

ALL = SweepConfig(transfer=TransferConfig(methods="finetune, probe,scratch", seeds=2, epochs=1))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network cut from a tiny ViT for 8 x 8 grey images of 3 classes."""
    torch.manual_seed(0)
    sizes = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 3}
    small = {"embed_dim": 16, "num_heads": 2, "depth": 2}
    dense = timm.create_model("vit_tiny_patch16_224", **sizes, **small)
    checkpoint = slim.MaskCheckpoint.from_model(slim.attach_masks(dense))
    vit = slim.extract(checkpoint, checkpoint.select(slim.Budget(0.75, 0.5, 0.5)))
    folder = tmp_path_factory.mktemp("network")
    preprocessing = {
        "input_size": [1, 8, 8],
        "mean": [0.3],
        "std": [0.3],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
    }
    return slim.save(vit, folder / "small", {"preprocessing": preprocessing})


def job(saved: Path, method: str, results: Path = Path()) -> TransferJob:
    return TransferJob("digits", "3", method, 0, saved, results)


def run(one: TransferJob, task: Task, config: SweepConfig) -> Transferred:
    """What a worker gives at the end of all epochs."""
    *epochs, result = run_transfer(one, task, config)
    assert epochs == [None] * config.transfer.epochs
    assert result is not None
    return result


@pytest.mark.parametrize(
    ("data", "left"),
    [
        ("mnist", ["digits", "fashion-mnist", "animal-mnist"]),
        ("digits", ["fashion-mnist", "animal-mnist"]),
        ("fashion-mnist", ["digits", "animal-mnist"]),
        ("fashion-mnist-10000+12000", ["digits", "animal-mnist"]),
        ("fashion-mnist:/data/fashion", ["digits", "animal-mnist"]),
        ("/data/pets", []),
    ],
)
def test_no_task_has_images_of_the_source(
    data: str, left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for present in ("fashion_mnist_is_present", "animals_are_present"):
        monkeypatch.setattr(sweeps.transfer, present, lambda: True)
    assert tasks_beside(data) == left


def test_a_task_that_is_named_twice_is_one_task() -> None:
    tasks = transfer_tasks(replace(ALL, tasks="digits, digits"))
    assert [task.name for task in tasks] == ["digits"]
    jobs = plan_transfer(tasks, [4, 7], RunFolder("runs", "it"), ALL)
    assert len(jobs) == 3 * 3 * 2
    assert len({one.key for one in jobs}) == len(jobs)
    assert {one.model for one in jobs} == {
        Path("runs/it") / part for part in ("dense", "models/4", "models/7")
    }


def test_tasks_whose_names_differ_in_a_sign_keep_their_results_apart() -> None:
    one, other = (TransferJob(n, "1", "probe", 0, Path(), Path()).key for n in ("/a/b", "/a-b"))
    assert one != other


def test_an_unknown_method_is_refused() -> None:
    wrong = replace(ALL, transfer=replace(ALL.transfer, methods="finetune,probes"))
    with pytest.raises(InputError, match="'probes' is not one of finetune, probe, scratch"):
        transfer_methods(wrong)


def test_a_probe_trains_the_classifier_alone_with_a_rate_of_its_own(saved: Path) -> None:
    vit = network_for(job(saved, "probe"), 10)
    assert [n for n, p in vit.named_parameters() if p.requires_grad] == [
        "head.weight",
        "head.bias",
    ]
    assert recipe_for(job(saved, "probe"), ALL).lr == ALL.transfer.probe_lr
    assert recipe_for(job(saved, "finetune"), ALL).lr == ALL.transfer.lr
    gentle = replace(ALL, transfer=replace(ALL.transfer, lr=1e-4))
    assert recipe_for(job(saved, "scratch"), gentle).lr == gentle.transfer.scratch_lr == 1e-3


def test_from_scratch_nothing_but_the_architecture_is_taken(saved: Path) -> None:
    learned, fresh = slim.load(saved), network_for(job(saved, "scratch"), 3)
    assert fresh.architecture == learned.architecture
    matrices = [n for n, p in learned.named_parameters() if p.ndim > 1 and "head" not in n]
    states = learned.state_dict(), fresh.state_dict()
    assert not any(torch.equal(states[0][name], states[1][name]) for name in matrices)
    weights = states[1]["blocks.0.mlp.fc1.weight"]
    assert 0.015 < float(weights.std()) < 0.025


@pytest.mark.parametrize("method", ["finetune", "probe", "scratch"])
def test_each_method_gives_a_row_of_its_own(
    saved: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.transfer.worker_device", lambda: "cpu")
    task = load_task("digits")
    row, curve, _ = run(job(saved, method, tmp_path), task, ALL)
    assert (row.method, row.task, row.trial, len(curve)) == (method, "digits", "3", 1)
    assert row.test_top1 > 8
    assert slim.load(saved).num_classes == 3


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes that no grey network can tell apart."""
    root = tmp_path_factory.mktemp("colours")
    for name, colour in (("red", (97, 0, 0)), ("blue", (0, 0, 255))):
        (root / name).mkdir()
        image = Image.new("RGB", (8, 8), colour)
        assert image.convert("L").getpixel((0, 0)) == 29
        for number in range(120):
            image.save(root / name / f"{number}.png")
    return root


def test_a_task_in_colour_widens_a_grey_network(
    saved: Path, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.transfer.worker_device", lambda: "cpu")
    task = FolderTask(str(colours), colours, workers=0)
    given = saved_preprocessing(saved)
    expected = preprocessing_on(task, given, None)
    assert expected == replace(
        given, input_size=(3, 8, 8), mean=task.statistics()[0], std=task.statistics()[1]
    )
    config = replace(ALL, transfer=replace(ALL.transfer, epochs=8, warmup_epochs=0))
    row, _, _ = run(replace(job(saved, "finetune", tmp_path), task=task.name), task, config)
    assert row.test_top1 == 100
    grey = slim.count(slim.load(saved).architecture)
    two_channels, a_class = 2 * 16 * (4 * 4), 16 + 1  # of 16 units each
    assert round(row.params_m * 1e6) == grey.params + two_channels - a_class


def test_grey_images_go_as_they_are_to_a_network_in_colour(saved: Path, tmp_path: Path) -> None:
    wide = slim.adapt(slim.load(saved), (3, 8, 8))
    given = replace(
        saved_preprocessing(saved), input_size=(3, 8, 8), mean=(0.3,) * 3, std=(1,) * 3
    )
    folder = slim.save(wide, tmp_path / "wide", {"preprocessing": given.to_json()})
    assert preprocessing_on(load_task("digits"), saved_preprocessing(folder), None) == given


@pytest.mark.parametrize("method", ["finetune", "probe", "scratch"])
def test_networks_are_adapted_to_larger_images(
    saved: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.transfer.worker_device", lambda: "cpu")
    task = load_task("digits")
    larger = replace(ALL, transfer=replace(ALL.transfer, img_size=16))
    rows = [
        run(job(saved, method, tmp_path / str(i)), task, c)[0] for i, c in enumerate((ALL, larger))
    ]
    small = slim.load(saved).architecture
    vit = network_for(job(saved, method), 10, (1, 16, 16))
    assert [len(kept) for kept in architecture_of(vit).tokens] == [
        4 * len(kept) for kept in small.tokens
    ]
    assert rows[1].gmacs == slim.count(architecture_of(vit)).macs / 1e9 > 2 * rows[0].gmacs
    trained = [name for name, p in vit.named_parameters() if p.requires_grad]
    assert (trained == ["head.weight", "head.bias"]) is (method == "probe")


def test_the_data_of_a_transfer_are_kept_with_its_result(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.transfer.worker_device", lambda: "cpu")
    task, one = load_task("digits"), job(saved, "probe", tmp_path)
    row = run(one, task, ALL)[0]
    assert json.loads(one.result.read_text())["data"] == task.fingerprint()
    assert one.result.parent == tmp_path
    assert finished_transfer(one)[0] == row
