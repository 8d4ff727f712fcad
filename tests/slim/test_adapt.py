"""A network is carried to other images and classes as timm carries the dense model."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models import adapt_input_conv
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import slim
from slim.adapt import resized
from slim.subnetwork import architecture_of
from tests.slim.architectures import NAMED, architectures, uneven
from tests.slim.bars import assert_equal, copy_of
from tests.slim.families import FAMILIES, SWINS, VITS, checkpoint, classifiers, dense, spec_of

CLASSES = 7


def sizes_of(family: str) -> list[tuple[int, int, int]]:
    """More and fewer patches, another shape, other channels."""
    spec = spec_of(family)
    rows, columns = spec.patch_size
    channels, height, width = spec.input_size
    return [
        (channels, 2 * height, 2 * width),
        (channels, height + rows, width + 3 * columns),
        (channels, height - rows, width - columns),
        (4 - channels, height, width),
        (4 - channels, height + rows, width),
    ]


def images(size: tuple[int, int, int], batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, *size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("family", FAMILIES)
def test_a_dense_network_becomes_what_timm_makes_of_it(family, which):
    vit, size = dense(family), sizes_of(family)[which]
    # a window larger than its grid is known here, and built anew, as one of the grid's size
    theirs: Any = spec_of(family).build().eval()
    theirs.load_state_dict(vit.state_dict())
    theirs.set_input_size(img_size=size[1:])
    proj = theirs.patch_embed.proj
    weight = adapt_input_conv(size[0], proj.weight.detach(), base_chans=proj.in_channels)
    proj.weight, proj.in_channels = nn.Parameter(weight), size[0]
    ours = slim.adapt(vit, size)
    with torch.no_grad():
        torch.testing.assert_close(ours(images(size)), theirs(images(size)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("which", [2, 4])
@pytest.mark.parametrize("build", [uneven, NAMED["with_fewest_tokens"], NAMED["without_block"]])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapted_network_is_counted_saved_and_loaded(family, build, which, tmp_path):
    vit = slim.extract(checkpoint(family), build(spec_of(family)))
    before, size = copy_of(vit), sizes_of(family)[which]
    torch.manual_seed(0)
    adapted = slim.adapt(vit, size, CLASSES)
    assert_equal(copy_of(vit), before)
    assert (adapted.input_size, adapted.num_classes) == (size, CLASSES)
    with torch.no_grad():
        logits = adapted(images(size))
    assert logits.shape == (2, CLASSES)
    assert bool(logits.isfinite().all())
    architecture = architecture_of(adapted)
    assert architecture.heads == vit.architecture.heads
    assert architecture.units == vit.architecture.units
    cost = slim.count(architecture)
    assert cost.params == sum(p.numel() for p in adapted.parameters())
    assert cost.macs == counted(adapted, size)
    loaded = slim.load(slim.save(adapted, tmp_path / "small"))
    assert_equal(copy_of(loaded), copy_of(adapted))
    assert architecture_of(loaded) == architecture


def counted(vit: nn.Module, size: tuple[int, int, int]) -> int:
    """MACs of one image by torch's own counter."""
    meta = copy.deepcopy(vit).to("meta").requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        meta(torch.empty(1, *size, device="meta"))
    return counter.get_total_flops() // 2


@given(data=st.data())
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("family", ["vit", "deit_distilled", "avg_no_class_token"])
def test_kept_positions_follow_the_grid(family, data):
    spec = spec_of(family)
    old = data.draw(architectures(spec))
    grid = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    size = (spec.in_chans, grid[0] * spec.patch_size[0], grid[1] * spec.patch_size[1])
    new = resized(old, size)  # whose indices an architecture checks: ascending, nested, in range
    rows, columns = spec.grid_size
    for kept, chosen in zip(old.tokens, new.tokens, strict=True):
        assert bool(kept) == bool(chosen)
        under = {
            (2 * row + 1) * rows // (2 * grid[0]) * columns
            + (2 * column + 1) * columns // (2 * grid[1])
            for row, column in (divmod(position, grid[1]) for position in chosen)
        }
        assert under <= set(kept) or len(chosen) == 1
        if grid[0] >= rows and grid[1] >= columns:  # no place of the old grid is passed over
            assert under == set(kept)


@pytest.mark.parametrize("family", VITS)
def test_a_grid_twice_as_fine_keeps_four_tokens_for_each(family):
    old = uneven(spec_of(family))
    channels, height, width = old.spec.input_size
    new = resized(old, (channels, 2 * height, 2 * width))
    assert [len(kept) for kept in new.tokens] == [4 * len(kept) for kept in old.tokens]


@pytest.mark.parametrize("family", ["vit", "square_grey", "swin"])
def test_grey_images_are_seen_alike_in_one_channel_and_in_three(family):
    spec = spec_of(family)
    channels, height, width = spec.input_size
    vit = slim.extract(checkpoint(family), uneven(spec))
    grey = images((1, height, width))
    with torch.no_grad():
        expected = vit(grey.expand(-1, channels, -1, -1))
        for other in (1, 3):
            ours = slim.adapt(vit, (other, height, width))(grey.expand(-1, other, -1, -1))
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["vit", "swin_always_partition"])
def test_nothing_asked_changes_nothing(family):
    vit = slim.extract(checkpoint(family), uneven(spec_of(family))).train()
    same = slim.adapt(vit)
    assert same is not vit
    assert_equal(copy_of(same), copy_of(vit))
    assert architecture_of(same) == vit.architecture
    assert same.training
    with torch.no_grad():
        next(same.parameters()).add_(1)
    assert not torch.equal(next(same.parameters()), next(vit.parameters()))


def test_a_new_classifier_is_fresh_and_leaves_the_old_one():
    vit = slim.extract(checkpoint("deit_distilled"), uneven(spec_of("deit_distilled")))
    adapted = slim.adapt(vit, num_classes=vit.num_classes)
    for ours, theirs in zip(classifiers(adapted), classifiers(vit), strict=True):
        assert not torch.equal(ours.weight, theirs.weight)
        assert bool((ours.bias == 0).all())


def test_an_adapted_network_is_adapted_again():
    vit = slim.extract(checkpoint("vit"), uneven(spec_of("vit")))
    there = slim.adapt(vit, (3, 16, 24), CLASSES)
    back = slim.adapt(there, (3, 8, 12), 3)
    assert back.architecture.tokens == vit.architecture.tokens
    assert back.num_classes == 3


@pytest.mark.parametrize("size", [(3, 9, 12), (3, 8, 13), (3, 0, 12), (0, 8, 12)])
def test_images_that_patches_do_not_cut_are_refused(size):
    with pytest.raises(slim.UnsupportedModelError, match="give multiples of these"):
        slim.adapt(dense("vit"), size)


def test_windows_stay_in_reach_of_their_grid():
    for family in SWINS:
        spec = spec_of(family)
        for size in sizes_of(family):
            spec.with_input(size).check()


def test_a_model_of_the_registry_is_adapted_as_its_own_weights_are():
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=5).eval()
    adapted = slim.adapt(vit, (1, 96, 96), 3)
    assert replace(architecture_of(vit).spec, img_size=(96, 96), in_chans=1, num_classes=3) == (
        architecture_of(adapted).spec
    )


def test_a_compiled_network_is_adapted_as_the_network_itself():
    vit = dense("vit")
    size = (3, 16, 24)
    ours, theirs = slim.adapt(torch.compile(vit), size), slim.adapt(vit, size)
    assert_equal(copy_of(ours), copy_of(theirs))


def test_channels_alone_may_change_where_patches_do_not_divide_the_image():
    vit = VisionTransformer(img_size=30, patch_size=7, embed_dim=12, depth=1, num_heads=3)
    assert slim.adapt(vit, (1, 30, 30)).input_size == (1, 30, 30)
    with pytest.raises(slim.UnsupportedModelError, match="images of 31 x 31 are not cut"):
        slim.adapt(vit, (1, 31, 31))


@pytest.mark.parametrize("size", [64, (64, 64), (1, 3, 64, 64), (3, "a", 64), (3, 64.0, 64)])
def test_a_size_that_is_not_of_three_numbers_is_refused(size):
    with pytest.raises(slim.UnsupportedModelError, match=r"is not \(C, H, W\)"):
        slim.adapt(dense("vit"), size)
