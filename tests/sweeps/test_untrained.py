"""A fresh network is repaired on a few training images, and judged on val."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import slim
from slim.evaluation import top1
from slim.repair import repair_towards
from slim.tasks import Preprocessing, Task, load_task
from sweeps.config import SweepConfig, VitConfig
from sweeps.dense import make_dense
from sweeps.untrained import calibration_for, images_before_training, repaired_top1

PREPROCESSING = Preprocessing((1, 8, 8), (0.5,), (0.5,))
CONFIG = replace(
    SweepConfig(),
    data="digits",
    vit=VitConfig(img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2),
)
FEW = replace(CONFIG, finetune=replace(CONFIG.finetune, repair_images=100))


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("digits")


def model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return make_dense(CONFIG, load_task("digits"))


def fresh() -> nn.Module:
    """A subnetwork of an untrained model, which says much the same of every image."""
    checkpoint = slim.MaskCheckpoint.from_model(slim.attach_masks(model(0)))
    return slim.extract(checkpoint, checkpoint.select(slim.Budget(1, 0.5, 0.5)))


def test_without_images_nothing_is_repaired(task: Task) -> None:
    vit, as_cut = fresh(), fresh().state_dict()
    accuracy = repaired_top1(vit, None, task, PREPROCESSING)
    assert accuracy == top1(vit, task, "val", PREPROCESSING)
    torch.testing.assert_close(vit.state_dict(), as_cut, atol=0, rtol=0)


def test_a_network_is_evaluated_with_its_repair(task: Task) -> None:
    vit, by_hand = fresh(), fresh()
    calibration = calibration_for(FEW, model(0), task, PREPROCESSING)
    accuracy = repaired_top1(vit, calibration, task, PREPROCESSING)
    repair_towards(by_hand, calibration)
    torch.testing.assert_close(vit.state_dict(), by_hand.state_dict(), atol=0, rtol=0)
    assert accuracy == top1(vit, task, "val", PREPROCESSING)
    assert not torch.equal(vit.head.weight, fresh().head.weight)


def test_a_run_repairs_on_its_own_number_of_training_images(task: Task) -> None:
    calibration = calibration_for(FEW, model(0), task, PREPROCESSING)
    assert [len(batch) for batch in calibration.batches] == [64, 64]


def test_the_plan_counts_what_a_fresh_network_sees() -> None:
    none = replace(CONFIG, finetune=replace(CONFIG.finetune, repair_images=0))
    assert images_before_training(none, model(0), 270) == (270, 0)
    assert images_before_training(FEW, model(0), 270) == (270 + 100, 0)
    many = replace(CONFIG, finetune=replace(CONFIG.finetune, repair_images=10**6))
    assert images_before_training(many, model(0), 270) == (270 + 10**6, 10**6)
