"""A step on shared weights is a step on the extracted networks."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor
from torch.nn import functional as F

from slim import Architecture, Budget, MaskCheckpoint, attach_masks, extract
from slim.distillation import distill_from
from slim.evaluation import top1
from slim.extraction import cut
from slim.sharing import SharedModel, sandwich
from slim.training import Training
from tests.slim.architectures import uneven
from tests.slim.bars import PREPROCESSING, bars, tiny_swin, tiny_vit
from tests.slim.families import checkpoint, dense, images
from tests.slim.trainings import PLAIN

SHARED_FAMILIES = ["vit", "deit3", "qk_layernorm", "siglip", "swiglu", "swin"]


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    zeros = ((name, torch.zeros_like(p)) for name, p in model.named_parameters())
    known = ((name, p.grad) for name, p in model.named_parameters() if p.grad is not None)
    return dict(zeros) | dict(known)


@pytest.mark.parametrize("family", SHARED_FAMILIES)
def test_loss_and_gradients_of_a_slice_are_those_of_the_extracted_network(family):
    source = checkpoint(family, dtype=torch.float64)
    shared, architecture = SharedModel(source), uneven(source.spec)
    small = extract(source, architecture)
    x, labels = images(source.spec, torch.float64), torch.tensor([1, 3])
    (logits,) = shared(x, [architecture])
    loss, expected = F.cross_entropy(logits, labels), F.cross_entropy(small(x), labels)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    ones = source.masks.map(torch.ones_like)
    sliced = cut(MaskCheckpoint(source.spec, gradients(shared.vit), ones), architecture)
    torch.testing.assert_close(sliced, gradients(small), rtol=1e-9, atol=1e-12)
    total = sum(float(g.abs().sum()) for g in gradients(shared.vit).values())
    assert total == pytest.approx(sum(float(g.abs().sum()) for g in gradients(small).values()))


@pytest.mark.parametrize("family", SHARED_FAMILIES)
def test_the_full_size_network_is_the_searched_one(family):
    source = checkpoint(family)
    shared, x = SharedModel(source), images(source.spec)
    with torch.no_grad():
        torch.testing.assert_close(shared(x), extract(source, Architecture.dense(source.spec))(x))
        torch.testing.assert_close(shared(x, [Architecture.dense(source.spec)])[0], shared(x))


def test_its_checkpoint_keeps_the_ranking_and_has_no_mask_left(tmp_path):
    source = checkpoint("vit")
    shared = SharedModel(source)
    taken = MaskCheckpoint.load(shared.checkpoint(data={"name": "x"}).save(tmp_path / "shared"))
    budget = Budget(0.6, 0.5, 0.4)
    assert taken.select(budget) == source.select(budget) == shared.select(budget)
    assert all(bool((mask == 1).all()) for mask in taken.masks.mhsa)
    x = images(source.spec)
    with torch.no_grad():
        ours, theirs = (extract(c, c.select(budget))(x) for c in (taken, source))
    torch.testing.assert_close(ours, theirs)


def test_a_sandwich_is_the_mean_over_the_largest_the_smallest_and_those_between():
    source = checkpoint("vit", dtype=torch.float64)
    shared, teacher = SharedModel(source), dense("vit", 3, torch.float64)
    x, labels = images(source.spec, torch.float64), torch.tensor([0, 4])
    smallest = Budget(0.4, 0.2, 0.3)
    np.random.seed(5)
    loss = sandwich(teacher, smallest, networks=2, weight=0.6, temperature=3.0)(shared, x, labels)
    np.random.seed(5)
    lowest = np.array([0.4, 0.2, 0.3])
    draws = lowest + (1 - lowest) * np.random.rand(2, 3)
    budgets = [Budget(1, 1, 1), smallest, *(Budget(*draw) for draw in draws.tolist())]
    alone = distill_from(teacher, weight=0.6, temperature=3.0)
    losses = [alone(extract(source, source.select(b)), x, labels) for b in budgets]
    torch.testing.assert_close(loss, torch.stack(losses).mean())


def test_a_sandwich_in_parts_takes_the_same_step():
    def stepped(parts: int) -> dict[str, Tensor]:
        shared = SharedModel(checkpoint_of_bars())
        teacher = extract(checkpoint_of_bars(), Architecture.dense(shared.spec))
        recipe = replace(PLAIN, opt="sgd", lr=0.5, accumulation=parts)
        objective = sandwich(teacher, Budget(0.4, 0.2, 0.3), weight=0.5)
        list(Training(shared, bars(), PREPROCESSING, recipe, objective).epochs())
        return shared.state_dict()

    torch.testing.assert_close(stepped(4), stepped(1), rtol=1e-4, atol=1e-5)


def checkpoint_of_bars() -> MaskCheckpoint:
    return MaskCheckpoint.from_model(attach_masks(tiny_vit(drop_rate=0.0)))


@pytest.mark.parametrize("model", [tiny_vit(), tiny_swin()], ids=["vit", "swin"])
def test_shared_weights_learn_for_all_budgets_at_once(model):
    task, source = bars(), MaskCheckpoint.from_model(attach_masks(model))
    shared, smallest = SharedModel(source), Budget(1, 0.5, 0.5)
    objective = sandwich(extract(source, Architecture.dense(source.spec)), smallest, weight=0.0)
    training = Training(shared, task, PREPROCESSING, replace(PLAIN, epochs=6), objective)
    for _ in training.epochs():
        pass
    learned = shared.checkpoint()
    assert top1(extract(learned, learned.select(smallest)), task, "val", PREPROCESSING) > 80
    assert top1(extract(learned, Architecture.dense(source.spec)), task, "val", PREPROCESSING) > 80


def test_its_networks_are_told_the_preprocessing():
    vit = timm.create_model("test_vit", pretrained_cfg_overlay={"mean": (0.1, 0.2, 0.3)})
    source = MaskCheckpoint.from_model(attach_masks(vit))
    shared = SharedModel(source).checkpoint()
    assert shared.preprocessing == source.preprocessing
    network = extract(shared, shared.select(Budget(0.5, 0.5, 0.5)))
    assert resolve_model_data_config(network)["mean"] == (0.1, 0.2, 0.3)


def test_weights_in_half_precision_are_shared_saved_and_loaded(tmp_path):
    source = checkpoint("vit", dtype=torch.bfloat16)
    random = torch.Generator().manual_seed(0)
    scores = source.masks.map(lambda mask: torch.rand(mask.shape, generator=random))
    shared = SharedModel(replace(source, scores=scores))
    taken = MaskCheckpoint.load(shared.checkpoint().save(tmp_path / "shared"))
    assert {tensor.dtype for tensor in taken.weights.values()} == {torch.bfloat16}
    for share in (0.3, 0.5, 0.7):
        budget = Budget(share, share, share)
        assert taken.select(budget) == shared.select(budget)


def dense_runs(shared: SharedModel) -> list[int]:
    """How often a block of the full-size network runs in a step: kept, and recomputed."""
    runs = []
    block = shared.vit.get_submodule(shared.spec.block_names[0])
    block.register_forward_pre_hook(lambda *_: runs.append(1))
    counts = []
    for recomputed in (False, True):
        runs.clear()
        shared.train().vit.set_grad_checkpointing(recomputed)
        dense_alone = [Architecture.dense(shared.spec)]
        shared(images(shared.spec), dense_alone).square().sum().backward()
        counts.append(len(runs))
    return counts


def counted(held: list[int], tensor: Tensor) -> Tensor:
    held.append(tensor.numel())
    return tensor


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_subnetworks_are_computed_again_for_their_gradients(family):
    source = checkpoint(family)
    assert dense_runs(SharedModel(source)) == [1, 2]  # its blocks, not all of it once more
    architectures = [uneven(source.spec), source.select(Budget(1.0, 0.5, 0.5))]
    gradients, saved = [], []
    for recomputed in (False, True):
        shared = SharedModel(source).train()
        shared.vit.set_grad_checkpointing(recomputed)
        held: list[int] = []
        hooks = partial(counted, held), torch.Tensor.detach
        with torch.autograd.graph.saved_tensors_hooks(*hooks):
            logits = shared(images(source.spec, batch=8), architectures)
        saved.append(sum(held))
        logits.square().sum().backward()
        gradients.append([p.grad for p in shared.parameters() if p.grad is not None])
    assert saved[1] < saved[0] / 4
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
