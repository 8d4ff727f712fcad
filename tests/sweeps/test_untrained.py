"""A fresh network is repaired on a few training images, and judged on val."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import slim
from slim.evaluation import top1
from slim.repair import repair_towards
from slim.tasks import Preprocessing, Task, load_task
from sweeps.config import SweepConfig
from sweeps.dense import make_dense
from sweeps.stage_config import VitConfig
from sweeps.untrained import (
    calibration_for,
    calibration_images,
    images_before_training,
    judged_images,
    repaired_top1,
)

VAL = load_task("digits").size("val")
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
    """A subnetwork of an untrained model whose answers differ from image to image."""
    checkpoint = slim.MaskCheckpoint.from_model(slim.attach_masks(model(0)))
    vit = slim.extract(checkpoint, checkpoint.select(slim.Budget(1, 0.5, 0.5)))
    torch.manual_seed(1)
    for parameter in vit.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    return vit


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
    assert accuracy != top1(fresh(), task, "val", PREPROCESSING)


def test_a_judged_network_may_be_evaluated_on_a_part_of_val(task: Task) -> None:
    some, seen = repaired_top1(fresh(), None, task, PREPROCESSING, most=50), (task, PREPROCESSING)
    assert some == top1(fresh(), task, "val", PREPROCESSING, most=50)
    assert some == round(some / 2) * 2  # of 50 images
    assert repaired_top1(fresh(), None, *seen, most=VAL) == repaired_top1(fresh(), None, *seen)
    images = {asked: replace(CONFIG.judge, images=asked) for asked in (50, 10**6, 0)}
    judged = {n: judged_images(replace(CONFIG, judge=judge), task) for n, judge in images.items()}
    assert judged == {50: 50, 10**6: VAL, 0: VAL}


@pytest.mark.parametrize("images", [100, 10**6])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_run_repairs_on_its_own_number_of_training_images(
    images: int, accumulation: int, task: Task
) -> None:
    finetune = replace(CONFIG.finetune, repair_images=images, accumulation=accumulation)
    config = replace(CONFIG, finetune=finetune)
    calibration = calibration_for(config, model(0), task, PREPROCESSING)
    seen = [len(batch) for batch in calibration.batches]
    assert set(seen) == {finetune.batch_size // accumulation}
    assert sum(seen) == calibration_images(config, task)
    assert min(images, task.size("train")) - seen[0] < sum(seen) < images + seen[0]


def test_the_plan_counts_what_a_fresh_network_sees(task: Task) -> None:
    none = replace(CONFIG, finetune=replace(CONFIG.finetune, repair_images=0))
    assert images_before_training(none, model(0), task, VAL) == (VAL, 0)
    assert images_before_training(FEW, model(0), task, VAL) == (VAL + 128, 0)
    epoch = task.steps_per_epoch(CONFIG.finetune.batch_size) * CONFIG.finetune.batch_size
    all_there_are = replace(CONFIG, finetune=replace(CONFIG.finetune, repair_images=10**6))
    assert images_before_training(all_there_are, model(0), task, VAL) == (VAL + epoch, 0)


def test_the_plan_counts_the_dense_model_where_its_streams_are_too_many(task: Task) -> None:
    wide = replace(CONFIG, vit=replace(CONFIG.vit, embed_dim=4096, num_heads=1))
    with torch.device("meta"):
        dense = make_dense(wide, task)
    assert images_before_training(wide, dense, task, VAL) == (VAL + 1024, 1024)
