"""The layers of a subnetwork are timm's, with less in them."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from timm.layers import DropPath
from torch.utils.flop_counter import FlopCounterMode

from slim import (
    Architecture,
    Budget,
    MaskCheckpoint,
    UnsupportedModelError,
    attach_masks,
    count,
    extract,
)
from slim.aligned import AlignedLinear
from slim.subnetwork import architecture_of, build_subnetwork
from slim.vit.subnetwork import token_index
from tests.slim.architectures import NAMED, uneven, without_block
from tests.slim.families import FAMILIES, checkpoint, dense, images, spec_of


@pytest.mark.parametrize("family", FAMILIES)
def test_its_parameters_have_timms_names(family):
    dense_names = spec_of(family).build().state_dict().keys()
    assert build_subnetwork(uneven(spec_of(family))).state_dict().keys() == dense_names


@pytest.mark.parametrize("case", NAMED)
@pytest.mark.parametrize("family", ["deit3", "swin"])
def test_fresh_weights_are_those_of_a_layout_that_extraction_fills(family, case):
    source = checkpoint(family)
    architecture = NAMED[case](source.spec)
    fresh = build_subnetwork(architecture).state_dict()
    cut = extract(source, architecture).state_dict()
    assert {k: t.shape for k, t in fresh.items()} == {k: t.shape for k, t in cut.items()}


def test_networks_without_memory_have_parameters_of_their_own():
    with torch.device("meta"):
        build_subnetwork(uneven(spec_of("vit"))).requires_grad_(False).half()
        after = build_subnetwork(uneven(spec_of("vit")))
    assert all(p.requires_grad and p.dtype == torch.float32 for p in after.parameters())


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_what_is_done_to_a_network_is_not_seen_in_the_next(family):
    source = checkpoint(family)
    architecture = uneven(source.spec)
    before = extract(source, architecture)
    before.norm.register_forward_hook(lambda *args: None)
    before.norm.register_buffer("seen", torch.zeros(1), persistent=False)
    before.feature_info[0]["reduction"] = -1
    before.reset_classifier(3)
    after = extract(source, architecture)
    after.norm.register_buffer("seen", torch.zeros(1))
    assert not after.norm._forward_hooks
    assert "norm.seen" in after.state_dict()
    assert after.feature_info[0]["reduction"] > 0
    assert after.num_classes == source.spec.num_classes


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_the_first_layers_of_its_branches_write_aligned_rows(family):
    aligned = [
        name
        for name, module in extract(checkpoint(family), uneven(spec_of(family))).named_modules()
        if type(module) is AlignedLinear
    ]
    assert {name.rpartition(".")[2] for name in aligned} == {"qkv", "fc1"}


def test_a_block_gathers_prefix_tokens_and_what_is_left_of_the_kept():
    architecture = uneven(spec_of("deit_distilled"))  # keeps 1 to 5, then 1 to 4, then 1 to 3
    assert token_index(architecture, 0).tolist() == [0, 1, 3, 4, 5, 6, 7]
    assert token_index(architecture, 1).tolist() == [0, 1, 2, 3, 4, 5]
    assert token_index(without_block(spec_of("vit")), 1) is None


def test_stochastic_depth_drops_a_pruned_branch_for_whole_samples():
    block = build_subnetwork(without_block(spec_of("vit"))).blocks[1].train()
    with torch.no_grad():
        block.attn.bias.fill_(1.0)
        block.mlp.bias.fill_(1.0)
    for path in (block.drop_path1, block.drop_path2):
        assert isinstance(path, DropPath)
        path.drop_prob = 0.5
    torch.manual_seed(0)
    out = block(torch.zeros(64, 7, 12))
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    assert set(out[:, 0, 0].tolist()) == {0.0, 2.0, 4.0}  # either, both or none, scaled by 1 / 0.5


def test_its_architecture_follows_its_classifier():
    source = checkpoint("vit")
    vit = extract(source, source.select(Budget(0.5, 0.5, 0.5)))
    assert architecture_of(vit) == vit.architecture
    vit.reset_classifier(2)
    assert architecture_of(vit).spec.num_classes == 2
    assert vit.architecture == architecture_of(vit) == architecture_of(torch.compile(vit))
    assert vit.architecture.units == source.select(Budget(0.5, 0.5, 0.5)).units


def test_the_architecture_of_a_dense_model_keeps_everything():
    assert architecture_of(dense("vit")) == Architecture.dense(spec_of("vit"))


@pytest.mark.parametrize("family", ["vit", "deit_distilled", "swin"])
def test_it_is_of_timms_class_and_is_copied_and_pickled_whole(family):
    vit = extract(checkpoint(family), uneven(spec_of(family)))
    assert isinstance(vit, type(dense(family)))
    for again in (copy.deepcopy(vit), pickle.loads(pickle.dumps(vit))):
        assert again.architecture == vit.architecture
        x = images(spec_of(family))
        with torch.no_grad():
            assert torch.equal(again(x), vit(x))


def test_its_features_are_tokens_where_some_were_dropped():
    vit = extract(checkpoint("vit"), uneven(spec_of("vit")))  # 5, 4 and 3 of 6 patches
    x = images(spec_of("vit"))
    with torch.no_grad():
        for asked in (None, 1, [0]):
            with pytest.raises(
                UnsupportedModelError, match=r"of 6 patch tokens.*output_fmt='NLC'"
            ):
                vit.forward_intermediates(x, asked)
        last, tokens = vit.forward_intermediates(x, output_fmt="NLC")
        assert torch.equal(vit.forward_head(last), vit(x))
    assert [tuple(t.shape) for t in tokens] == [(2, 5, 12), (2, 4, 12), (2, 3, 12)]


@pytest.mark.parametrize("family", ["vit", "deit_distilled"])
def test_its_features_are_maps_where_all_tokens_are_kept(family):
    model = dense(family)
    spec = spec_of(family)
    kept = replace(uneven(spec), tokens=Architecture.dense(spec).tokens)
    x = images(spec)
    source = MaskCheckpoint.from_model(attach_masks(model))
    with torch.no_grad():
        whole = extract(source, Architecture.dense(spec)).forward_intermediates(
            x, [0, 2], norm=True, intermediates_only=True
        )
        theirs = model.forward_intermediates(x, [0, 2], norm=True, intermediates_only=True)
        narrow = extract(source, kept).get_intermediate_layers(x, 1, reshape=True)
    torch.testing.assert_close(whole, theirs, rtol=1e-5, atol=1e-5)
    assert [tuple(t.shape) for t in narrow] == [(2, 12, 2, 3)]


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_it_refuses_to_be_set_to_another_size_in_place(family):
    vit = extract(checkpoint(family), uneven(spec_of(family)))
    with pytest.raises(UnsupportedModelError, match=r"use slim\.adapt"):
        vit.set_input_size((16, 24))


def test_its_flops_are_counted_where_a_branch_is_pruned_whole():
    vit = extract(checkpoint("vit"), without_block(spec_of("vit")))
    totals = set()
    for grad in (False, True):
        with torch.set_grad_enabled(grad), FlopCounterMode(display=False) as counter:
            vit(images(spec_of("vit"), batch=1))
        totals.add(counter.get_total_flops())
    assert len(totals) == 1
    assert totals.pop() <= 2 * count(vit.architecture).macs  # attention on a CPU is not counted


def test_its_features_need_no_head():
    source = checkpoint("vit")
    vit = extract(source, source.select(Budget(0.5, 0.5, 0.5)))
    vit.reset_classifier(0, "")
    x = images(source.spec)
    with torch.no_grad():
        *_, last = vit.forward_intermediates(x, output_fmt="NLC", intermediates_only=True)
    assert last.shape[1] == len(vit._built.tokens[-1])
