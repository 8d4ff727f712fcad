"""The layers of a subnetwork are timm's, with less in them."""

import pytest
import torch
from timm.layers import DropPath

from slim import Architecture, Budget, extract
from slim.aligned import AlignedLinear
from slim.subnetwork import architecture_of, build_subnetwork
from slim.vit.subnetwork import token_index
from tests.slim.architectures import NAMED, uneven, without_block
from tests.slim.families import FAMILIES, checkpoint, dense, spec_of


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
    assert architecture_of(vit).units == vit.architecture.units


def test_the_architecture_of_a_dense_model_keeps_everything():
    assert architecture_of(dense("vit")) == Architecture.dense(spec_of("vit"))
