"""Which weights decay, and which learn slower."""

import re
from dataclasses import replace

import pytest
import torch

from slim.masks import attach_masks
from slim.parameter_groups import weight_groups
from slim.search import Penalty, search_training
from tests.slim.bars import PREPROCESSING, a_batch, bars, copy_of, tiny_swin, tiny_vit
from tests.slim.trainings import PLAIN, STEPS, networks, no_loss, training_of


@pytest.mark.parametrize("network", ["dense", "small"])
def test_weight_decay_shrinks_matrices_and_nothing_else(network):
    model = networks()[network]
    before = copy_of(model)
    recipe = replace(PLAIN, opt="adamw", weight_decay=0.1)
    list(training_of(model, recipe, objective=no_loss).epochs())
    shrunk = (1 - PLAIN.lr * 0.1) ** STEPS
    decayed = set()
    for name, tensor in model.state_dict().items():
        if not torch.equal(tensor, before[name]):
            torch.testing.assert_close(tensor, before[name] * shrunk)
            decayed.add(name)
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    expected = {f"blocks.{block}.{layer}.weight" for block in range(3) for layer in layers}
    assert decayed == expected | {"patch_embed.proj.weight", "head.weight"}


DECAY = 0.5
# Of 3 blocks: patches and embeddings, then the blocks, then the final norm with the last block,
# then the classifier.
SCALES = {"patch_embed": 1 / 16, "pos_embed": 1 / 16, "cls_token": 1 / 16, "head": 1.0}
SCALES |= {"blocks.0": 1 / 8, "blocks.1": 1 / 4, "blocks.2": 1 / 2, "norm": 1 / 2}


def layer_of(name: str) -> str:
    match = re.match(r"blocks\.\d+|\w+", name.removeprefix("vit."))
    assert match
    return match[0]


@pytest.mark.parametrize("network", ["dense", "masked", "small"])
def test_each_block_learns_slower_than_the_next(network):
    model = networks()[network]
    names = {id(p): name for name, p in model.named_parameters()}
    scales = {}
    for group in weight_groups(model, 0.05, DECAY):
        scales |= {names[id(p)]: group["lr_scale"] for p in group["params"]}
    assert scales == {name: SCALES[layer_of(name)] for name in names.values()}


@pytest.mark.parametrize("network", ["dense", "masked", "small"])
@pytest.mark.parametrize("layer_decay", [1.0, 0.75])
def test_what_decays_does_not_depend_on_the_layer_decay(network, layer_decay):
    model = networks()[network]
    for name, p in model.named_parameters():
        p.requires_grad_(not name.endswith("mask"))  # as a search leaves masks out
    decayed = {
        id(p)
        for group in weight_groups(model, 0.05, layer_decay)
        if group["weight_decay"]
        for p in group["params"]
    }
    matrices = {n: p for n, p in model.named_parameters() if n.endswith("weight") and p.ndim > 1}
    assert decayed == {id(p) for p in matrices.values()}


@pytest.mark.parametrize("sched", ["constant", "cosine", "none"])
def test_the_first_steps_are_as_long_as_the_layers_rates(sched):
    model = networks()["dense"]
    before = copy_of(model)
    recipe = replace(PLAIN, sched=sched, layer_decay=DECAY)  # Adam's first step is the rate
    training_of(model, recipe).step(*a_batch(), update=1)
    for name in ("head.weight", "blocks.2.mlp.fc2.weight", "blocks.0.attn.proj.weight"):
        moved = (model.state_dict()[name] - before[name]).abs().max()
        assert float(moved) == pytest.approx(PLAIN.lr * SCALES[layer_of(name)], rel=1e-2), name


@pytest.mark.parametrize("layer_decay", [1.0, 0.75])
def test_tables_of_relative_positions_are_no_matrices_for_muon(layer_decay):
    swin = tiny_swin(window_size=4, num_heads=(4, 4))
    names = {id(p): name for name, p in swin.named_parameters()}
    fallback = {
        names[id(p)]
        for group in weight_groups(swin, 0.05, layer_decay)
        if group.get("use_fallback")
        for p in group["params"]
    }
    assert fallback == {name for name in names.values() if "relative_position_bias" in name}


@pytest.mark.parametrize("opt", ["adamw", "muon"])
def test_masks_learn_at_their_own_rate_in_every_layer(opt):
    masked = attach_masks(tiny_vit(depth=3, num_heads=4))  # 4 x 4: large enough for Muon
    recipe = replace(PLAIN, layer_decay=DECAY, opt=opt)
    training = search_training(
        masked, bars(), PREPROCESSING, recipe, Penalty(1.0, 1.0, 1.0), 0.03, no_loss
    )
    before = masked.masks()
    training.step(*a_batch(), update=1)
    expected = before.map(lambda old: old - 0.03)
    torch.testing.assert_close(vars(masked.masks()), vars(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize("layer_decay", [1.0, DECAY])
def test_a_compiled_model_has_the_groups_of_the_model_itself(layer_decay):
    vit = tiny_vit()
    for model in (vit, attach_masks(vit)):
        groups, compiled = (
            weight_groups(one, 0.05, layer_decay) for one in (model, torch.compile(model))
        )
        assert len(compiled) == len(groups)
        for ours, theirs in zip(compiled, groups, strict=True):
            assert {k: v for k, v in ours.items() if k != "params"} == {
                k: v for k, v in theirs.items() if k != "params"
            }
            assert [id(p) for p in ours["params"]] == [id(p) for p in theirs["params"]]
