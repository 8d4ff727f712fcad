"""Labels are smoothed, and images and labels are mixed alike, as the recipe asks."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from slim.targets import smooth_labels
from tests.slim.trainings import PLAIN, seen_in


def test_smoothed_labels_are_distributions():
    soft = smooth_labels(torch.tensor([0, 2]), 4, 0.2)
    expected = [[0.85, 0.05, 0.05, 0.05], [0.05, 0.05, 0.85, 0.05]]
    torch.testing.assert_close(soft, torch.tensor(expected))


def test_label_smoothing_softens_the_targets():
    hard, soft = seen_in(PLAIN), seen_in(replace(PLAIN, label_smoothing=0.2))
    for labels, targets in zip(hard.targets, soft.targets, strict=True):
        assert torch.equal(targets, smooth_labels(labels, 2, 0.2))


@pytest.mark.parametrize("batch_size", [16, 15])
def test_mixup_mixes_images_and_targets_alike(batch_size):
    recipe = replace(PLAIN, batch_size=batch_size)
    plain, mixed = seen_in(recipe), seen_in(replace(recipe, mixup=0.8))
    even = batch_size // 2 * 2
    shares = []
    for i, images in enumerate(plain.images):
        hard = F.one_hot(plain.targets[i], 2).float()
        first, partner = images[:even], images[:even].flip(0)
        difference = first - partner
        share = float(
            ((mixed.images[i][:even] - partner) * difference).sum() / difference.square().sum()
        )
        torch.testing.assert_close(
            mixed.images[i][:even], share * first + (1 - share) * partner, rtol=1e-4, atol=1e-4
        )
        targets = share * hard[:even] + (1 - share) * hard[:even].flip(0)
        torch.testing.assert_close(mixed.targets[i][:even], targets, rtol=1e-4, atol=1e-4)
        assert torch.equal(mixed.images[i][even:], images[even:])
        assert torch.equal(mixed.targets[i][even:], hard[even:])
        shares.append(round(share, 3))
    assert len(set(shares)) > 1
    assert all(0 <= share <= 1 for share in shares)


@pytest.mark.parametrize("batch_size", [16, 15])
def test_cutmix_swaps_boxes_and_weighs_targets_by_their_area(batch_size):
    recipe = replace(PLAIN, batch_size=batch_size, epochs=3)
    plain, cut = seen_in(recipe), seen_in(replace(recipe, cutmix=1.0))
    even = batch_size // 2 * 2
    areas = set()
    for i, images in enumerate(plain.images):
        partner = images[:even].flip(0)
        foreign = (cut.images[i][:even] != images[:even]).any(dim=0)  # the box: (1, 8, 8)
        expected = torch.where(foreign, partner, images[:even])
        assert torch.equal(cut.images[i][:even], expected)
        area = float(foreign.float().mean())
        hard = F.one_hot(plain.targets[i], 2).float()
        targets = (1 - area) * hard[:even] + area * hard[:even].flip(0)
        torch.testing.assert_close(cut.targets[i][:even], targets)
        assert torch.equal(cut.images[i][even:], images[even:])
        areas.add(area)
    assert len(areas) > 2


@pytest.mark.parametrize("batch_size", [16, 15, 1])
def test_mixed_targets_are_smoothed_too(batch_size):
    recipe = replace(PLAIN, batch_size=batch_size, mixup=0.5, cutmix=0.5, label_smoothing=0.2)
    for targets in seen_in(recipe).targets:
        assert targets.shape == (batch_size, 2)
        assert float(targets.min()) >= 0.1 - 1e-6
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(batch_size))
