"""Top-1 accuracy is the percentage of a split that is classified right."""

import pytest
import torch
from torch import Tensor, nn

from slim.evaluation import top1
from slim.tasks import SPLITS
from tests.slim.bars import PREPROCESSING, bars, copy_of, tiny_vit


class RowReader(nn.Module):
    """Answers the brightest of the first rows, and is wrong where the corner is dark."""

    def __init__(self, classes: int, dark: float = -torch.inf) -> None:
        super().__init__()
        self.classes, self.dark = classes, dark
        self.modes: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.modes.append(self.training)
        logits = images[:, 0, : self.classes].mean(dim=-1)  # (B, classes)
        wrong = images[:, 0, 7, 7] < self.dark
        return torch.where(wrong[:, None], -logits, logits)


@pytest.mark.parametrize("split", SPLITS)
def test_all_right_is_100_and_all_wrong_is_0(split):
    task = bars(classes=4)
    assert top1(RowReader(4), task, split, PREPROCESSING) == 100.0
    assert top1(RowReader(4, dark=torch.inf), task, split, PREPROCESSING) == 0.0


@pytest.mark.parametrize("batch_size", [1, 7, 256])
@pytest.mark.parametrize("split", SPLITS)
def test_it_is_the_share_of_right_answers_whatever_the_batch(split, batch_size):
    task = bars(classes=3)
    corners = task.images[task.splits[split], 0, 7, 7]
    right = sum(int(corner) >= 50 for corner in corners)
    dark = (50 / 255 - 0.3) / 0.3 - 1e-4  # 50, normalised as the images are
    accuracy = top1(RowReader(3, dark), task, split, PREPROCESSING, batch_size)
    assert 0 < right < len(corners)
    assert accuracy == pytest.approx(100 * right / len(corners), rel=1e-12)


@pytest.mark.parametrize(("amp", "dtype"), [("none", torch.float32), ("bfloat16", torch.bfloat16)])
def test_it_computes_in_the_type_of_autocast(amp, dtype):
    vit, seen = tiny_vit(), []
    vit.head.register_forward_hook(lambda head, given, logits: seen.append(logits.dtype))
    top1(vit, bars(), "val", PREPROCESSING, amp=amp)
    assert set(seen) == {dtype}


@pytest.mark.parametrize("training", [True, False])
def test_it_evaluates_in_eval_mode_and_restores_the_mode(training):
    model = RowReader(2).train(training)
    top1(model, bars(), "val", PREPROCESSING, batch_size=5)
    assert set(model.modes) == {False}
    assert model.training is training


@pytest.mark.parametrize("training", [True, False])
def test_every_part_of_a_network_gets_its_mode_back(training):
    model = tiny_vit(drop_rate=0.5).train(training)
    first = top1(model, bars(), "val", PREPROCESSING)
    assert {part.training for part in model.modules()} == {training}
    assert top1(model, bars(), "val", PREPROCESSING) == first


def test_the_network_is_not_changed():
    model = tiny_vit()
    before = copy_of(model)
    top1(model, bars(), "val", PREPROCESSING)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
