"""Each network goes to each task once, by each method and seed."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

import slim
from slim.tasks import load_task
from sweeps.config import SweepConfig, TransferConfig
from sweeps.errors import InputError
from sweeps.transfer import (
    TransferJob,
    network_for,
    plan_transfer,
    recipe_for,
    run_transfer,
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


def job(saved: Path, method: str) -> TransferJob:
    return TransferJob("digits", "3", method, 0, saved)


def test_a_task_that_is_named_twice_is_one_task() -> None:
    tasks = transfer_tasks(replace(ALL, tasks="digits, digits"))
    assert [task.name for task in tasks] == ["digits"]
    jobs = plan_transfer(tasks, [4, 7], Path("models"), Path("dense"), ALL)
    assert len(jobs) == 3 * 3 * 2
    assert len({one.key for one in jobs}) == len(jobs)
    assert {one.model for one in jobs} == {Path("dense"), Path("models/4"), Path("models/7")}


def test_tasks_whose_names_differ_in_a_sign_keep_their_results_apart() -> None:
    one, other = (TransferJob(n, "1", "probe", 0, Path()).key for n in ("/a/b", "/a-b"))
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
    row, curve, _ = run_transfer(job(saved, method), task, ALL, tmp_path)
    assert (row.method, row.task, row.trial, len(curve)) == (method, "digits", "3", 1)
    assert row.test_top1 > 8
    assert slim.load(saved).num_classes == 3
