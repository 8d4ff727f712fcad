"""A network gets a classifier for another task, and nothing else of it changes."""

import copy

import pytest
import torch
from torch import nn

import slim
from slim.errors import SlimError
from slim.heads import with_new_head
from slim.subnetwork import architecture_of
from tests.slim.architectures import uneven
from tests.slim.bars import assert_equal, copy_of
from tests.slim.families import FAMILIES, checkpoint, classifiers, dense, images, spec_of

CLASSES = 7


def small(family: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    return slim.extract(checkpoint(family, dtype=dtype), uneven(spec_of(family)))


def width(family: str) -> int:
    """Of what enters the classifier."""
    return spec_of(family).blocks[-1].embed_dim


def body(vit: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t for n, t in copy_of(vit).items() if not n.startswith(("head.", "head_dist."))}


@pytest.mark.parametrize("build", [small, dense])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_number_of_classes_changes_and_every_other_weight_stays(family, build):
    vit = build(family)
    before = body(vit)
    torch.manual_seed(0)
    assert with_new_head(vit, CLASSES) is vit
    assert_equal(body(vit), before)
    assert vit.num_classes == CLASSES
    if build is small:
        assert vit.architecture.spec.num_classes == CLASSES
        assert slim.count(vit.architecture) == slim.count(architecture_of(vit))
    with torch.no_grad():
        logits = vit.eval()(images(spec_of(family)))
    assert logits.shape == (2, CLASSES)
    assert bool(logits.isfinite().all())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_new_head_is_fresh(family):
    vit = small(family)
    torch.manual_seed(0)
    with_new_head(vit, CLASSES)
    for head in classifiers(vit):
        assert head.weight.shape == (CLASSES, width(family))
        assert bool((head.bias == 0).all())
        assert 0.01 < float(head.weight.detach().std()) < 0.03
        assert len(head.weight.unique()) > 80
        assert head.weight.requires_grad
    again = with_new_head(copy.deepcopy(vit), CLASSES)
    for head, before in zip(classifiers(again), classifiers(vit), strict=True):
        assert not torch.equal(head.weight, before.weight)


def test_even_for_as_many_classes_as_before():
    vit = small("vit")
    before = vit.head.weight.clone()
    assert not torch.equal(with_new_head(vit, 5).head.weight, before)


@pytest.mark.parametrize("build", [small, dense])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_cost_counts_the_new_head(family, build):
    vit = build(family)
    before = slim.count(architecture_of(vit))
    after = slim.count(architecture_of(with_new_head(vit, CLASSES)))
    more = len(classifiers(vit)) * (CLASSES - spec_of(family).num_classes)
    assert after.macs - before.macs == more * width(family)
    assert after.params - before.params == more * (width(family) + 1)
    assert after.params == sum(p.numel() for p in vit.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("build", [small, dense])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_saved_and_comes_back(family, build, dtype, tmp_path):
    vit = with_new_head(build(family, dtype=dtype), CLASSES).eval()
    assert {p.dtype for p in vit.parameters()} == {dtype}
    loaded = slim.load(slim.save(vit, tmp_path / "small"))
    assert_equal(copy_of(loaded), copy_of(vit))
    assert loaded.num_classes == CLASSES
    assert architecture_of(loaded) == architecture_of(vit)
    again = with_new_head(loaded, 3)
    assert architecture_of(again).spec.num_classes == 3


def test_fewer_classes_than_none_are_refused():
    with pytest.raises(SlimError, match="num_classes -1 is below 0"):
        with_new_head(small("vit"), -1)
