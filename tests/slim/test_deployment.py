"""A saved network runs wherever torch's networks run: ONNX, torch.compile, torch.export, bfloat16.

Exporting takes about three seconds a network, so each family is exported as its smallest network
that still has uneven heads, dropped tokens and blocks pruned whole.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from slim import SlimError, export_onnx, extract, load, save
from tests.slim.architectures import NAMED, one_block_left, uneven
from tests.slim.families import FAMILIES, checkpoint, images, spec_of

FEW = ["vit", "deit_distilled", "qk_layernorm", "siglip"]
CASES = ["uneven", "without_block", "with_fewest_tokens"]


def smallest(family: str) -> nn.Module:
    return extract(checkpoint(family), one_block_left(spec_of(family)))


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def assert_same_for_any_batch(program: Any, vit: nn.Module) -> None:
    for batch in (1, 2, 5):
        x = images(vit.architecture.spec, batch=batch)
        with torch.no_grad():
            assert_close(program(x), vit(x))


@pytest.mark.parametrize("family", FAMILIES)
def test_onnx_computes_what_a_loaded_network_does_for_any_batch(family, tmp_path):
    vit = load(save(smallest(family), tmp_path / "small"))
    path = export_onnx(vit, tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert_same_for_any_batch(
        lambda x: torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0]), vit
    )


class WrongRuntime:
    """Right for one image, wrong for more, in the place of onnxruntime and of the exporter."""

    def __init__(self, vit: nn.Module, error: float) -> None:
        self.vit, self.error = vit, error

    def save(self, path: str) -> None:
        Path(path).write_text("a program")

    def run(self, names: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        logits = self.vit(torch.from_numpy(inputs["images"])).detach().numpy()
        return [logits + (self.error if len(logits) > 1 else 0.0)]


def replace_onnx(monkeypatch: pytest.MonkeyPatch, runtime: WrongRuntime) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: runtime)
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: runtime)


@pytest.mark.parametrize("error", [0.1, float("nan")])
def test_an_onnx_file_that_computes_something_else_is_not_left(error, tmp_path, monkeypatch):
    vit = smallest("vit").train()
    wrong = WrongRuntime(vit, error)
    replace_onnx(monkeypatch, wrong)
    with pytest.raises(SlimError, match=f"differs from torch by {error} on a batch of 3"):
        export_onnx(vit, tmp_path / "small.onnx")
    assert not list(tmp_path.iterdir())
    assert all(module.training for module in vit.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_it_compiles_as_one_graph(family, fresh_compiler):
    vit = smallest(family)
    compiled = torch.compile(vit, backend="aot_eager", fullgraph=True, dynamic=False)
    x = images(vit.architecture.spec)
    with torch.inference_mode():
        assert_close(compiled(x), vit(x))


@pytest.mark.parametrize("case", CASES)
def test_a_batch_of_another_size_compiles_once_more_at_most(case, fresh_compiler):
    vit = extract(checkpoint("vit"), NAMED[case](spec_of("vit")))
    graphs = []

    def remember(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(vit, backend=remember, fullgraph=True)
    with torch.inference_mode():
        for batch in (2, 3, 4, 7):
            x = images(vit.architecture.spec, batch=batch)
            assert_close(compiled(x), vit(x))
    assert len(graphs) <= 2


def test_a_compiled_network_trains(fresh_compiler):
    vit, same = (extract(checkpoint("deit3"), uneven(spec_of("deit3"))) for _ in range(2))
    x = images(spec_of("deit3"))
    torch.compile(vit, backend="aot_eager", fullgraph=True)(x).square().sum().backward()
    same(x).square().sum().backward()
    for ours, theirs in zip(vit.parameters(), same.parameters(), strict=True):
        assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not strict"])
@pytest.mark.parametrize("family", FEW)
def test_torch_export_keeps_the_batch_open(family, strict, fresh_compiler):
    vit = smallest(family)
    batch = {0: torch.export.Dim("batch")}
    x = images(vit.architecture.spec)
    program = torch.export.export(vit, (x,), dynamic_shapes=(batch,), strict=strict)
    assert_same_for_any_batch(program.module(), vit)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_near_under_autocast_and_in_the_weights(family, case):
    vit = extract(checkpoint(family), NAMED[case](spec_of(family)))
    x = images(spec_of(family))
    with torch.inference_mode():
        exact = vit(x)
        with torch.autocast("cpu", torch.bfloat16):
            cast = vit(x)
        halved = vit.bfloat16()(x.bfloat16())
    if spec_of(family).num_classes:  # else the last layer is a norm, which stays float32
        assert cast.dtype == torch.bfloat16
    for ours in (cast, halved):
        assert float((ours.float() - exact).abs().max() / exact.abs().max()) < 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_it_trains_under_autocast(family):
    vit = extract(checkpoint(family), uneven(spec_of(family))).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = sum(out.float().square().sum() for out in as_list(vit(images(spec_of(family)))))
    loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in vit.parameters() if p.grad is not None)
    assert bool(vit.patch_embed.proj.weight.grad.abs().sum() > 0)


def as_list(out: Any) -> list[Tensor]:
    """In training, a distilled network gives the outputs of both classifiers."""
    return list(out) if isinstance(out, tuple) else [out]


def test_an_onnx_file_that_is_there_stays_where_another_cannot_be_made(tmp_path, monkeypatch):
    vit = smallest("vit")
    path = tmp_path / "small.onnx"
    path.write_text("mine")
    replace_onnx(monkeypatch, WrongRuntime(vit, 0.1))
    with pytest.raises(SlimError, match="differs from torch"):
        export_onnx(vit, path)
    assert [one.name for one in tmp_path.iterdir()] == ["small.onnx"]
    assert path.read_text() == "mine"


def test_weights_in_a_file_of_their_own_go_where_the_onnx_file_goes(tmp_path, monkeypatch):
    vit = smallest("vit")
    runtime = WrongRuntime(vit, 0.0)
    monkeypatch.setattr(
        runtime, "save", lambda path: [Path(path + end).write_text(end) for end in ("", ".data")]
    )
    replace_onnx(monkeypatch, runtime)
    export_onnx(vit, tmp_path / "small.onnx")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["small.onnx", "small.onnx.data"]


def test_what_cannot_be_exported_is_refused_before_it_is_tried(tmp_path):
    with pytest.raises(SlimError, match=r"does not compute in torch\.bfloat16"):
        export_onnx(smallest("vit").bfloat16(), tmp_path / "small.onnx")
    with pytest.raises(SlimError, match="its folder does not exist"):
        export_onnx(smallest("vit"), tmp_path / "gone" / "small.onnx")
