"""A latency says what it was measured with, and measuring leaves no trace."""

import dataclasses

import pytest
import torch
from torch import nn

from slim import Latency, SlimError, UnsupportedModelError, extract, latency
from tests.slim.architectures import uneven
from tests.slim.families import FAMILIES, checkpoint, dense, spec_of


def network(family: str = "vit") -> nn.Module:
    return extract(checkpoint(family), uneven(spec_of(family)))


class Watched:
    """Notes what a network is run with."""

    def __init__(self, vit: nn.Module) -> None:
        self.batches: list[int] = []
        self.modes: set[tuple[bool, bool]] = set()
        vit.register_forward_pre_hook(self.note)

    def note(self, vit: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        self.batches.append(len(inputs[0]))
        self.modes.add((vit.training, torch.is_inference_mode_enabled()))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_network_is_measured_as_it_will_serve(family):
    for vit in (network(family), dense(family)):
        measured = latency(vit, batch_size=2, runs=3, warmup=0)
        assert 0 < measured.low_ms <= measured.median_ms <= measured.high_ms
        said = (measured.batch_size, measured.device, measured.threads, measured.runs)
        assert said == (2, "cpu", torch.get_num_threads(), 3)


def test_it_runs_what_was_asked_in_eval_and_inference_mode():
    vit = network().train()
    watched = Watched(vit)
    latency(vit, batch_size=3, runs=4, warmup=2)
    assert watched.batches == [3] * 6
    assert watched.modes == {(False, True)}


def test_every_module_is_left_in_the_mode_it_came_in():
    vit = network().train()
    vit.blocks[1].eval()
    before = {name: module.training for name, module in vit.named_modules()}
    latency(vit, runs=1, warmup=0)
    assert {name: module.training for name, module in vit.named_modules()} == before
    assert all(p.requires_grad and p.grad is None for p in vit.parameters())


def test_even_when_a_run_fails():
    vit = network().train()

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    vit.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        latency(vit)
    assert vit.training


def test_a_network_is_measured_in_its_own_type():
    assert latency(network().double(), runs=1, warmup=0).runs == 1
    assert latency(network().bfloat16(), runs=1, warmup=0).runs == 1


def test_a_compiled_network_is_measured_too():
    vit = torch.compile(network(), backend="eager")
    watched = Watched(vit._orig_mod)
    assert latency(vit, runs=2, warmup=1).runs == 2
    assert watched.modes == {(False, True)}


def test_elsewhere_a_copy_is_measured_from_one_synchronisation_to_the_next(monkeypatch):
    vit, waited = network(), []
    watched = Watched(vit)
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    assert latency(vit, device="meta", runs=2, warmup=0).device == "meta"
    assert watched.batches == []  # its copy ran
    assert waited == [torch.device("meta")] * 4
    assert {p.device.type for p in vit.parameters()} == {"cpu"}


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"runs": 0}, {"warmup": -1}], ids=lambda wrong: next(iter(wrong))
)
def test_numbers_that_measure_nothing_are_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(SlimError, match=f"{name}={value} is not a number of at least"):
        latency(network(), **wrong)


def test_so_is_a_model_of_another_kind():
    with pytest.raises(UnsupportedModelError, match="Linear"):
        latency(nn.Linear(3, 2))


def test_a_latency_does_not_change():
    measured = Latency(2.0, 1.0, 3.0, 1, "cpu", 1, 50)
    with pytest.raises(dataclasses.FrozenInstanceError):
        measured.runs = 1  # type: ignore[misc]
