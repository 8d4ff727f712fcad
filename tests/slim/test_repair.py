"""Repair brings a fresh subnetwork nearer to its reference, without training."""

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import slim
from slim.calibration import Calibration
from slim.repair import repair_towards


def dense_model(**changes: object) -> nn.Module:
    torch.manual_seed(0)
    shape = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 3}
    shape |= {"num_heads": 2, "num_classes": 5}
    vit = VisionTransformer(**(shape | changes)).double().eval()
    for parameter in vit.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2
    return vit


def dense_swin() -> nn.Module:
    torch.manual_seed(0)
    shape = {"img_size": 16, "patch_size": 2, "embed_dim": 32, "depths": (2, 1), "window_size": 3}
    swin = SwinTransformer(**shape, num_heads=(2, 4), num_classes=5).double().eval()
    for parameter in swin.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2
    return swin


def checkpoint_of(vit: nn.Module) -> slim.MaskCheckpoint:
    masked = slim.attach_masks(vit)
    masked.set_masks(masked.masks().map(lambda mask: torch.rand_like(mask) * 0.5 + 0.5))
    return slim.MaskCheckpoint.from_model(masked)


def batches(count: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(16, 3, 16, 16, generator=generator, dtype=torch.float64) for _ in range(count)
    ]


def distance(vit: nn.Module, reference: nn.Module) -> float:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(64, 3, 16, 16, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        return float((vit(images) - reference(images)).square().mean())


@pytest.mark.parametrize(
    "changes",
    [{}, {"global_pool": "avg", "class_token": False}, {"init_values": 0.1}, {"qk_norm": True}],
    ids=["cls", "avg", "layer scale", "qk-norm"],
)
@pytest.mark.parametrize("budget", [(1, 0.5, 0.5), (0.7, 0.5, 0.5), (0.5, 0.3, 0.3)])
def test_a_repaired_network_is_nearer_to_the_dense_one(
    changes: dict[str, object], budget: tuple[float, float, float]
) -> None:
    dense = dense_model(**changes)
    checkpoint = checkpoint_of(dense)
    vit = slim.extract(checkpoint, checkpoint.select(slim.Budget(*budget)))
    before = distance(vit, dense)
    slim.repair(vit, dense, batches())
    assert distance(vit, dense) < 0.8 * before


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("share", [0.5, 0.3])
def test_a_repaired_swin_is_nearer_to_its_reference(share: float, masked: bool) -> None:
    dense = dense_swin()
    checkpoint = checkpoint_of(dense)
    reference = checkpoint.masked_model().double() if masked else dense
    swin = slim.extract(checkpoint, checkpoint.select(slim.Budget(1, share, share)))
    before = distance(swin, reference)
    slim.repair(swin, reference, batches())
    assert distance(swin, reference) < 0.8 * before


def test_least_squares_finds_the_exact_output_layers_of_a_swin() -> None:
    checkpoint = checkpoint_of(dense_swin())
    dense = slim.extract(checkpoint, slim.Architecture.dense(checkpoint.spec))
    swin = slim.extract(checkpoint, slim.Architecture.dense(checkpoint.spec))
    for stage in swin.layers:
        for block in stage.blocks:
            nn.init.normal_(block.mlp.fc2.weight)
            nn.init.normal_(block.attn.proj.bias)
    slim.repair(swin, dense, batches(20), ridge=1e-12)
    assert distance(swin, dense) < 1e-8


def test_a_network_that_lacks_nothing_is_left_as_it_is() -> None:
    checkpoint = checkpoint_of(dense_model())
    dense = slim.extract(checkpoint, slim.Architecture.dense(checkpoint.spec))
    vit = slim.extract(checkpoint, slim.Architecture.dense(checkpoint.spec))
    slim.repair(vit, dense, batches())
    for name, tensor in vit.state_dict().items():
        torch.testing.assert_close(tensor, dense.state_dict()[name], atol=1e-9, rtol=0)


def test_a_repair_in_float32_is_that_in_float64() -> None:
    dense = dense_model()
    checkpoint = checkpoint_of(dense)
    architecture = checkpoint.select(slim.Budget(0.7, 0.5, 0.5))
    before = distance(slim.extract(checkpoint, architecture).double(), dense)
    repaired = []
    for dtype in (torch.float32, torch.float64):
        vit = slim.extract(checkpoint, architecture).to(dtype)
        slim.repair(vit, dense.to(dtype), [batch.to(dtype) for batch in batches(40)], ridge=1e-4)
        repaired.append(vit.double())
    assert distance(*repaired) < 1e-11 * before


def test_autocast_does_not_change_a_repair() -> None:
    dense = dense_model()
    checkpoint = checkpoint_of(dense)
    images = [batch.float() for batch in batches()]
    repaired = []
    for autocast in (False, True):
        vit = slim.extract(checkpoint, checkpoint.select(slim.Budget(0.7, 0.5, 0.5))).float()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            slim.repair(vit, dense.float(), images)
        repaired.append(vit.state_dict())
    torch.testing.assert_close(*repaired, atol=0, rtol=0)


def test_products_beyond_float16_repair_a_float16_network() -> None:
    dense = dense_model()
    for block in dense.blocks:
        block.mlp.fc1.bias.data += 40  # so are the squares of a batch's features, summed
    checkpoint = checkpoint_of(dense)
    vit = slim.extract(checkpoint, checkpoint.select(slim.Budget(0.7, 0.5, 0.5))).half()
    before = [block.mlp.fc2.weight.clone() for block in vit.blocks]
    slim.repair(vit, dense.half(), [batch.half() for batch in batches()])
    for block, weight in zip(vit.blocks, before, strict=True):
        assert bool(block.mlp.fc2.weight.isfinite().all())
        assert not torch.equal(block.mlp.fc2.weight, weight)


def test_least_squares_finds_the_exact_output_layer_when_there_is_one() -> None:
    checkpoint = checkpoint_of(dense_model())
    dense = slim.extract(checkpoint, slim.Architecture.dense(checkpoint.spec))
    vit = slim.extract(checkpoint, slim.Architecture.dense(checkpoint.spec))
    for block in vit.blocks:
        nn.init.normal_(block.mlp.fc2.weight)
        nn.init.normal_(block.attn.proj.bias)
    slim.repair(vit, dense, batches(20), ridge=1e-12)
    assert distance(vit, dense) < 1e-8


def test_a_branch_pruned_whole_gets_the_mean_of_what_is_missing() -> None:
    dense = dense_model()
    checkpoint = checkpoint_of(dense)
    full = slim.Architecture.dense(checkpoint.spec)
    empty = slim.Architecture(
        spec=full.spec, tokens=full.tokens, heads=full.heads, units=((), *full.units[1:])
    )
    vit = slim.extract(checkpoint, empty)
    reference = slim.extract(checkpoint, full)
    images = batches(2)
    slim.repair(vit, reference, images)
    added = []
    with torch.no_grad():
        for batch in images:
            x = reference._pos_embed(reference.patch_embed(batch))
            block = reference.blocks[0]
            x = x + block.attn(block.norm1(x))
            added.append(block.mlp(block.norm2(x)).flatten(0, 1))
    expected = torch.cat(added).mean(dim=0)
    torch.testing.assert_close(vit.blocks[0].mlp.bias.data, expected, atol=1e-9, rtol=0)


def test_the_masked_model_serves_as_reference() -> None:
    checkpoint = checkpoint_of(dense_model())
    reference = checkpoint.masked_model().double()
    vit = slim.extract(checkpoint, checkpoint.select(slim.Budget(0.7, 0.5, 0.5)))
    before = distance(vit, reference)
    slim.repair(vit, reference, batches())
    assert distance(vit, reference) < 0.8 * before


@pytest.mark.parametrize("pool", ["token", "avg", "max", "avgmax", "map"])
def test_a_masked_reference_pools_by_its_masks(pool: str) -> None:
    checkpoint = checkpoint_of(dense_model(global_pool=pool))
    reference = checkpoint.masked_model().double()
    logits = list(Calibration(reference, batches(2)).walk())[-1]
    with torch.no_grad():
        expected = [reference(images) for images in batches(2)]
    torch.testing.assert_close(logits, expected)


def test_a_layer_scale_of_zero_leaves_the_rest_of_its_branch_in_reach() -> None:
    dense = dense_model(init_values=0.1)
    dense.blocks[1].ls2.gamma.data[3] = 0.0
    checkpoint = checkpoint_of(dense)
    vit = slim.extract(checkpoint, checkpoint.select(slim.Budget(1, 1, 0.5)))
    before = vit.blocks[1].mlp.fc2.weight.detach().clone()
    slim.repair(vit, dense, batches())
    moved = (vit.blocks[1].mlp.fc2.weight.detach() - before).abs().amax(dim=1)
    assert float(moved[3]) == 0.0
    assert float(moved[torch.arange(32) != 3].min()) > 1e-4


def test_the_reference_and_the_images_are_not_changed() -> None:
    dense = dense_model()
    checkpoint = checkpoint_of(dense)
    weights = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    images = batches(2)
    kept = [batch.clone() for batch in images]
    slim.repair(
        slim.extract(checkpoint, checkpoint.select(slim.Budget(0.5, 0.5, 0.5))), dense, images
    )
    assert all(torch.equal(dense.state_dict()[name], tensor) for name, tensor in weights.items())
    assert all(torch.equal(a, b) for a, b in zip(images, kept, strict=True))


def test_one_calibration_serves_many_networks_and_runs_its_model_once() -> None:
    dense = dense_model()
    checkpoint, passes = checkpoint_of(dense), count_passes(dense)
    kept = Calibration(dense, batches(2), keep_bytes=10**7)
    assert passes.pop(0) == passes.pop(0) == 16  # images of the two batches
    for budget in (slim.Budget(0.7, 0.5, 0.5), slim.Budget(0.5, 0.3, 0.3)):
        vit, alone = (slim.extract(checkpoint, checkpoint.select(budget)) for _ in range(2))
        repair_towards(vit, kept)
        assert not passes
        slim.repair(alone, dense, batches(2))
        assert len(passes) == 2
        passes.clear()
        torch.testing.assert_close(vit.state_dict(), alone.state_dict(), atol=0, rtol=0)


def test_streams_larger_than_the_limit_are_not_kept() -> None:
    dense = dense_model()
    passes = count_passes(dense)
    whole = Calibration(dense, batches(2), keep_bytes=10**7).kept_bytes
    stream, images, logits = 17 * 32, 3 * 16 * 16, 5
    assert whole == 2 * 16 * 8 * (7 * stream + images + logits)  # float64; 3 blocks, 2 branches
    calibration = Calibration(dense, batches(2), keep_bytes=whole - 1)
    assert calibration.kept_bytes == 0
    passes.clear()
    for _ in range(2):
        assert len(list(calibration.walk())) == 3 * 3 + 1
    assert passes == [16] * 4


def test_a_reference_of_another_model_is_refused() -> None:
    checkpoint = checkpoint_of(dense_model())
    vit = slim.extract(checkpoint, checkpoint.select(slim.Budget(0.7, 0.5, 0.5)))
    for other in ({"depth": 2}, {"num_classes": 4}, {"embed_dim": 16}):
        (name, value), *_ = other.items()
        with pytest.raises(slim.SlimError, match=rf"\({name}: {value}, not \d+\); give that"):
            slim.repair(vit, dense_model(**other), batches(1))


def count_passes(dense: nn.Module) -> list[int]:
    """The images of each batch that comes to a model's first MLP from now on."""
    passes: list[int] = []
    dense.blocks[0].mlp.register_forward_hook(lambda _, inputs, out: passes.append(len(out)))
    return passes


def test_the_head_is_refitted_to_the_logits_of_the_reference() -> None:
    dense = dense_model()
    checkpoint = checkpoint_of(dense)
    whole = slim.Architecture.dense(checkpoint.spec)
    vit = slim.extract(checkpoint, whole)
    same = slim.extract(checkpoint, whole)
    torch.nn.init.normal_(vit.head.weight)
    torch.nn.init.normal_(vit.head.bias)
    assert distance(vit, same) > 1
    slim.repair(vit, same, batches(), ridge=1e-9)
    assert distance(vit, same) < 1e-9


def test_images_may_come_with_their_labels():
    dense = dense_model()
    checkpoint = checkpoint_of(dense)
    architecture = checkpoint.select(slim.Budget(0.6, 0.5, 0.5))
    alone, labelled = (slim.extract(checkpoint, architecture) for _ in range(2))
    slim.repair(alone, dense, batches(2))
    slim.repair(labelled, dense, [(batch, torch.zeros(len(batch))) for batch in batches(2)])
    for name, tensor in alone.state_dict().items():
        assert torch.equal(labelled.state_dict()[name], tensor)


def test_a_repair_without_images_is_refused():
    dense = dense_model()
    checkpoint = checkpoint_of(dense)
    vit = slim.extract(checkpoint, checkpoint.select(slim.Budget(0.6, 0.5, 0.5)))
    once = iter(batches(2))
    slim.repair(vit, dense, once)
    with pytest.raises(slim.SlimError, match="no images to repair with"):
        slim.repair(vit, dense, once)


def test_a_slimmed_reference_is_refused():
    dense = dense_model()
    checkpoint = checkpoint_of(dense)
    slimmed = slim.extract(checkpoint, checkpoint.select(slim.Budget(0.5, 0.5, 0.5)))
    with pytest.raises(slim.SlimError, match="slimmed itself; give the dense model"):
        slim.repair(slimmed, slimmed, batches())
