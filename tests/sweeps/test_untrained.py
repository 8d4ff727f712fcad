"""A fresh network is judged as it is or repaired, whichever is better on val."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import slim
from slim.evaluation import top1
from slim.tasks import Preprocessing, Task, load_task
from sweeps.config import SweepConfig, VitConfig
from sweeps.dense import make_dense
from sweeps.untrained import calibration_for, images_before_training, repair_where_it_helps

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


def weights(vit: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in vit.state_dict().items()}


def constant(label: int) -> nn.Module:
    """A model that always says the same."""
    vit = model(1)
    vit.head.weight.data.zero_()
    vit.head.bias.data = 10.0 * nn.functional.one_hot(torch.tensor(label), 10)
    return vit


def test_without_images_nothing_is_repaired(task: Task) -> None:
    vit = fresh()
    before = weights(vit)
    accuracy = repair_where_it_helps(vit, None, task, PREPROCESSING)
    assert accuracy == top1(vit, task, "val", PREPROCESSING)
    torch.testing.assert_close(weights(vit), before, atol=0, rtol=0)


def test_a_repair_is_taken_back_unless_val_gains_by_it(task: Task) -> None:
    kept = set()
    for label in range(10):
        vit = fresh()
        before, accuracy = weights(vit), top1(vit, task, "val", PREPROCESSING)
        calibration = calibration_for(CONFIG, constant(label), task, PREPROCESSING)
        after = repair_where_it_helps(vit, calibration, task, PREPROCESSING)
        changed = not torch.equal(vit.head.bias, before["head.bias"])
        assert after == top1(vit, task, "val", PREPROCESSING) >= accuracy
        if after == accuracy and not changed:
            torch.testing.assert_close(weights(vit), before, atol=0, rtol=0)
        kept.add(changed)
    assert kept == {True, False}


def test_a_run_repairs_on_its_own_number_of_training_images(task: Task) -> None:
    calibration = calibration_for(FEW, model(0), task, PREPROCESSING)
    assert [len(batch) for batch in calibration.batches] == [64, 64]


def test_the_plan_counts_what_a_fresh_network_sees() -> None:
    none = replace(CONFIG, finetune=replace(CONFIG.finetune, repair_images=0))
    assert images_before_training(none, model(0), 270) == (270, 0)
    assert images_before_training(FEW, model(0), 270) == (2 * 270 + 100, 0)
    many = replace(CONFIG, finetune=replace(CONFIG.finetune, repair_images=10**6))
    assert images_before_training(many, model(0), 270) == (2 * 270 + 10**6, 10**6)
