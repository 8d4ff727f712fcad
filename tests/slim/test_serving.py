"""A saved network comes back the same, holds nothing it does not need, and runs in ONNX."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.data import resolve_model_data_config
from torch import nn

from slim import (
    Architecture,
    FileFormatError,
    MaskCheckpoint,
    UnsupportedModelError,
    adapt,
    attach_masks,
    count,
    extract,
    load,
    save,
)
from slim.served import ServedNetwork
from slim.serving import load_about
from slim.tasks import Preprocessing
from tests.slim import damage
from tests.slim.architectures import NAMED, uneven
from tests.slim.families import FAMILIES, SIZES, checkpoint, dense, images, spec_of


def network(family: str, case: str = "uneven", dtype: torch.dtype = torch.float32) -> nn.Module:
    return extract(checkpoint(family, dtype=dtype), NAMED[case](spec_of(family)))


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    """Bit for bit: tensors, and outputs."""
    state = theirs.state_dict()
    assert ours.state_dict().keys() == state.keys()
    assert all(torch.equal(ours.state_dict()[name], tensor) for name, tensor in state.items())
    x = images(ours.architecture.spec, ours.patch_embed.proj.weight.dtype)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(network("vit"), tmp_path / "small")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_comes_back_bit_for_bit(family, tmp_path):
    vit = network(family)
    loaded = load(save(vit, tmp_path / "small"))
    assert_same(loaded, vit)
    assert loaded.architecture == vit.architecture
    assert loaded.input_size == spec_of(family).input_size
    assert loaded.num_classes == spec_of(family).num_classes
    assert not loaded.training


@pytest.mark.parametrize("case", NAMED)
@pytest.mark.parametrize("family", ["deit3", "no_proj_bias", "qk_rmsnorm", "swin"])
def test_so_does_one_with_parts_pruned_whole(family, case, tmp_path):
    vit = network(family, case, torch.float64)
    assert_same(load(save(vit, tmp_path / "small")), vit)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dense_model_of_timm_comes_back_as_the_same_function(family, tmp_path):
    model = dense(family)
    loaded = load(save(model, tmp_path / "dense"))
    assert loaded.architecture == Architecture.dense(spec_of(family))
    x = images(spec_of(family))
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_holds_the_counted_parameters_and_no_padding(family, tmp_path):
    folder = save(network(family), tmp_path / "small")
    cost = count(uneven(spec_of(family)))
    tensors = load_file(folder / "model.safetensors")
    header = json.loads((folder / "config.json").read_text())
    assert sum(tensor.numel() for tensor in tensors.values()) == cost.params == header["params"]
    assert header["macs"] == cost.macs


@pytest.mark.parametrize("family", ["vit", "deit_distilled", "siglip", "swin"])
def test_a_network_with_a_new_classifier_comes_back(family, tmp_path):
    vit = network(family)
    vit.reset_classifier(2)
    loaded = load(save(vit.eval(), tmp_path / "transferred"))
    assert loaded.num_classes == loaded.architecture.spec.num_classes == 2
    assert_same(loaded, vit)


def test_a_network_with_another_pooling_comes_back(tmp_path):
    vit = network("vit")
    vit.reset_classifier(5, global_pool="avg")
    loaded = load(save(vit.eval(), tmp_path / "pooled"))
    assert loaded.global_pool == loaded.architecture.spec.global_pool == "avg"
    assert_same(loaded, vit)
    vit.reset_classifier(5, global_pool="")
    with pytest.raises(UnsupportedModelError, match=r"head cannot be kept: .*pool=''"):
        save(vit, tmp_path / "unpooled")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_network_kept_in_half_precision_is_served(dtype, tmp_path):
    vit = network("avg").to(dtype)
    served = ServedNetwork(save(vit, tmp_path / "half"))
    pictures = images(vit.architecture.spec)
    with torch.no_grad():
        expected = vit.float()(pictures).softmax(dim=-1)
    assert torch.equal(torch.from_numpy(served.predict(pictures.numpy())), expected)


def test_what_is_told_about_it_is_kept_beside_it(tmp_path):
    about = {"task": "digits", "val_top1": 81.5, "budget": [0.7, 0.5, 0.6]}
    assert load_about(save(network("avg"), tmp_path / "small", about)) == about
    assert load_about(save(network("avg"), tmp_path / "other")) == {}
    assert not hasattr(load(tmp_path / "other"), "pretrained_cfg")


def test_what_cannot_be_slimmed_cannot_be_saved(tmp_path):
    with torch.device("meta"):
        model = timm.create_model("resnet18")
    with pytest.raises(UnsupportedModelError, match="ResNet"):
        save(model, tmp_path / "resnet")
    assert not (tmp_path / "resnet").exists()


@pytest.mark.parametrize("spoil", damage.WEIGHTS.values(), ids=damage.WEIGHTS)
def test_damaged_weights_are_refused_in_one_line_that_names_them(spoil, folder):
    spoil(folder)
    with pytest.raises(FileFormatError) as refused:
        load(folder)
    assert str(folder / "model.safetensors") in str(refused.value)
    assert "\n" not in str(refused.value)


DENSE = Architecture.dense(spec_of("vit")).to_json()
HEADER = damage.HEADER | {
    "no architecture": lambda folder: damage.drop_from_header(folder, "architecture"),
    "no indices": lambda folder: damage.edit_header(folder, architecture={"spec": DENSE["spec"]}),
    "indices of text": lambda folder: damage.edit_header(
        folder, architecture=DENSE | {"units": ["0", "1", "2"]}
    ),
    "indices out of range": lambda folder: damage.edit_header(
        folder, architecture=DENSE | {"units": [[0], [1], [12]]}
    ),
    "an unknown field": lambda folder: damage.edit_header(
        folder, architecture=DENSE | {"spec": DENSE["spec"] | {"new\nline": 1}}
    ),
}


@pytest.mark.parametrize("spoil", HEADER.values(), ids=HEADER)
def test_a_damaged_header_is_refused_in_one_line_that_names_it(spoil, folder):
    spoil(folder)
    with pytest.raises(FileFormatError) as refused:
        load(folder)
    assert str(folder / "config.json") in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("stamped", [True, False])
def test_a_pickle_in_the_place_of_weights_is_refused_and_not_run(stamped, folder, tmp_path):
    damage.put_pickle(folder, tmp_path / "trace")
    if stamped:
        damage.stamp(folder)
    with pytest.raises(FileFormatError, match=r"model\.safetensors"):
        load(folder)
    assert not (tmp_path / "trace").exists()


def test_the_weights_of_another_architecture_are_refused(folder):
    damage.edit_header(folder, architecture=DENSE)
    with pytest.raises(FileFormatError, match=r"has shape \(12, 6\), expected \(12, 12\)"):
        load(folder)


def test_a_mask_checkpoint_is_not_a_network(tmp_path):
    folder = checkpoint("vit").save(tmp_path / "search")
    with pytest.raises(FileFormatError, match=r"config\.json is missing"):
        load(folder)
    (folder / "checkpoint.json").rename(folder / "config.json")
    with pytest.raises(FileFormatError, match="does not describe a vit-slim network"):
        load(folder)


def changed_head(vit: nn.Module) -> None:
    vit.head = nn.Linear(vit.head.in_features, 4)


def broken_weight(vit: nn.Module) -> None:
    vit.head.weight.data[0, 0] = torch.nan


def foreign_parameter(vit: nn.Module) -> None:
    vit.blocks[0].attn.register_parameter("more", nn.Parameter(torch.zeros(1)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (changed_head, "head.(weight|bias) has shape"),
        (broken_weight, "head.weight holds values that are not finite"),
        (foreign_parameter, "'blocks.0.attn.more' is not expected"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved_over_what_can(change, named, folder):
    vit = load(folder)
    change(vit)
    with pytest.raises(FileFormatError, match=f"^the network cannot be saved: tensor {named}"):
        save(vit, folder)
    assert_same(load(folder), network("vit"))


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_a_compiled_network_is_saved_as_the_network_itself(family, tmp_path):
    vit = network(family)
    assert_same(load(save(torch.compile(vit), tmp_path / "small")), vit)


def augreg() -> nn.Module:
    """A tiny model of a name whose images are normalised by 0.5."""
    return timm.create_model("vit_small_patch16_224.augreg_in21k_ft_in1k", **SIZES)


def test_timm_finds_the_dense_models_preprocessing_on_all_that_comes_of_it(tmp_path):
    model = augreg()
    expected = resolve_model_data_config(model) | {"input_size": (3, 8, 12)}
    assert expected["mean"] == expected["std"] == (0.5, 0.5, 0.5)
    source = MaskCheckpoint.load(
        MaskCheckpoint.from_model(attach_masks(model)).save(tmp_path / "searched")
    )
    vit = extract(source, uneven(source.spec))
    loaded = load(save(vit, tmp_path / "small"))
    again = attach_masks(load(save(model, tmp_path / "dense"))).vit
    arrays = MaskCheckpoint.from_arrays(source.to_arrays(), source.header())
    broadcast = extract(arrays, uneven(source.spec))
    for network_of_it in (vit, loaded, again, source.masked_model().vit, broadcast):
        assert resolve_model_data_config(network_of_it) == expected
    larger = adapt(loaded, (3, 16, 24))
    assert resolve_model_data_config(larger) == expected | {"input_size": (3, 16, 24)}
    assert torch.equal(ServedNetwork(tmp_path / "small").mean, torch.full((3, 1, 1), 0.5))


def test_preprocessing_that_is_told_beside_the_weights_counts_more(tmp_path):
    told = Preprocessing((3, 8, 12), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), "nearest", 0.5, "squash")
    folder = save(augreg(), tmp_path / "dense", {"preprocessing": told.to_json()})
    assert load_about(folder)["preprocessing"]["mean"] == [0.1, 0.2, 0.3]
    assert resolve_model_data_config(load(folder)) == vars(told)
