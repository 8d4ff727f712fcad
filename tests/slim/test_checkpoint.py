"""A mask checkpoint comes back from disk and from shared memory as it was."""

import json
import warnings
from pathlib import Path

import pytest
import torch

from slim import Budget, FileFormatError, MaskCheckpoint, extract
from slim.ranking import select
from tests.slim import damage
from tests.slim.architectures import uneven
from tests.slim.families import FAMILIES, checkpoint, images, masked, spec_of


def assert_same(ours: MaskCheckpoint, theirs: MaskCheckpoint) -> None:
    assert ours.spec == theirs.spec
    assert ours.weights.keys() == theirs.weights.keys()
    assert all(torch.equal(ours.weights[name], t) for name, t in theirs.weights.items())
    assert (ours.scores is None) == (theirs.scores is None)
    for mine, its in ((ours.masks, theirs.masks), (ours.ranking, theirs.ranking)):
        for part in ("tokens", "mhsa", "mlp"):
            pairs = zip(getattr(mine, part), getattr(its, part), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
    assert (ours.data, ours.metrics) == (theirs.data, theirs.metrics)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoint("vit").save(tmp_path / "search")


@pytest.mark.parametrize("family", FAMILIES)
def test_it_comes_back_from_disk_bit_for_bit(family, tmp_path):
    source = checkpoint(family)
    loaded = MaskCheckpoint.load(source.save(tmp_path / "search"))
    assert_same(loaded, source)
    architecture, x = uneven(source.spec), images(source.spec)
    with torch.no_grad():
        assert torch.equal(extract(loaded, architecture)(x), extract(source, architecture)(x))


def test_data_and_metrics_come_back(tmp_path):
    data, metrics = {"name": "digits", "sha": ["a", 1]}, {"val_top1": 81.25, "epochs": 3}
    source = MaskCheckpoint.from_model(masked("vit"), data=data, metrics=metrics)
    assert_same(MaskCheckpoint.load(source.save(tmp_path / "search")), source)


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_scores_rank_instead_of_the_masks_and_come_back(family, tmp_path):
    model = masked(family)
    source = MaskCheckpoint.from_model(model, scores=model.masks().map(torch.neg))
    budget = Budget(1, 0.5, 0.5)
    assert source.select(budget) == select(source.spec, source.ranking, budget)
    assert source.select(budget) != MaskCheckpoint.from_model(model).select(budget)
    assert_same(MaskCheckpoint.load(source.save(tmp_path / "search")), source)


def test_scores_that_are_announced_but_missing_are_refused(folder):
    damage.edit_header(folder, scored=True)
    with pytest.raises(FileFormatError, match="score"):
        MaskCheckpoint.load(folder)


@pytest.mark.parametrize("scored", [None, 1, "yes"])
def test_a_header_that_does_not_say_what_ranks_is_refused(folder, scored):
    damage.edit_header(folder, scored=scored)
    with pytest.raises(FileFormatError, match="scored is missing"):
        MaskCheckpoint.load(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_shared_as_arrays_without_a_copy(family):
    model = masked(family)
    source = MaskCheckpoint.from_model(model, scores=model.masks().map(torch.neg))
    arrays = source.to_arrays()
    header = json.loads(json.dumps(source.header()))
    view = MaskCheckpoint.from_arrays(arrays, header)
    assert_same(view, source)
    for name, tensor in source.weights.items():
        assert view.weights[name].data_ptr() == tensor.data_ptr()


def test_read_only_arrays_are_cut_from_without_a_warning_or_a_write():
    source = checkpoint("qk_layernorm")
    arrays = {name: array.copy() for name, array in source.to_arrays().items()}
    for array in arrays.values():
        array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vit = extract(MaskCheckpoint.from_arrays(arrays, source.header()), uneven(source.spec))
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.fill_(9.0)
    for name, array in source.to_arrays().items():
        assert (arrays[name] == array).all()


def test_it_selects_what_its_masks_rank_first():
    source = checkpoint("vit")
    chosen = source.select(Budget(0.5, 0.25, 1 / 3))
    assert chosen.kept() == {"tokens": 9, "mhsa": 9, "mlp": 12}
    flat = torch.cat(source.masks.mlp)
    kept = [b * 12 + unit for b, units in enumerate(chosen.units) for unit in units]
    assert float(flat[kept].min()) >= float(flat.sort(descending=True).values[12])


@pytest.mark.parametrize("spoil", damage.WEIGHTS.values(), ids=damage.WEIGHTS)
def test_damaged_weights_are_refused_in_one_line_that_names_them(spoil, folder):
    spoil(folder)
    with pytest.raises(FileFormatError) as refused:
        MaskCheckpoint.load(folder)
    assert str(folder / "checkpoint.safetensors") in str(refused.value)
    assert "\n" not in str(refused.value)


HEADER = damage.HEADER | {
    "no spec": lambda folder: damage.drop_from_header(folder, "spec"),
    "no metrics": lambda folder: damage.drop_from_header(folder, "metrics"),
    "spec of text": lambda folder: damage.edit_header(folder, spec="vit"),
    "spec with less": lambda folder: damage.edit_header(folder, spec={"depth": 3}),
    "spec with more": lambda folder: damage.edit_header(
        folder, spec=spec_of("vit").to_json() | {"new\nline": 1}
    ),
    "data of text": lambda folder: damage.edit_header(folder, data="digits"),
    "metrics as a list": lambda folder: damage.edit_header(folder, metrics=[]),
    "NaN in the spec": lambda folder: damage.edit_header(
        folder, spec=spec_of("vit").to_json() | {"norm_eps": float("nan")}
    ),
}


@pytest.mark.parametrize("spoil", HEADER.values(), ids=HEADER)
def test_a_damaged_header_is_refused_in_one_line_that_names_it(spoil, folder):
    spoil(folder)
    with pytest.raises(FileFormatError) as refused:
        MaskCheckpoint.load(folder)
    assert str(folder / "checkpoint.json") in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("stamped", [True, False])
def test_a_pickle_in_the_place_of_weights_is_refused_and_not_run(stamped, folder, tmp_path):
    damage.put_pickle(folder, tmp_path / "trace")
    if stamped:
        damage.stamp(folder)
    with pytest.raises(FileFormatError, match=r"checkpoint\.safetensors"):
        MaskCheckpoint.load(folder)
    assert not (tmp_path / "trace").exists()


def test_the_weights_of_another_model_are_refused(folder):
    damage.edit_header(folder, spec=spec_of("deit3").to_json())
    with pytest.raises(FileFormatError, match=r"blocks\.0\.ls1\.gamma' is missing"):
        MaskCheckpoint.load(folder)


def test_a_checkpoint_follows_a_new_classifier(tmp_path):
    model = masked("vit")
    model.vit.reset_classifier(7)
    again = MaskCheckpoint.load(MaskCheckpoint.from_model(model).save(tmp_path / "searched"))
    assert again.spec.num_classes == 7
    assert extract(again, again.select(Budget(0.5, 0.5, 0.5))).num_classes == 7


def test_bfloat16_is_shared_as_arrays_without_a_copy():
    source = checkpoint("vit", dtype=torch.bfloat16)
    view = MaskCheckpoint.from_arrays(source.to_arrays(), source.header())
    assert_same(view, source)
    for name, tensor in source.weights.items():
        assert view.weights[name].dtype == torch.bfloat16
        assert view.weights[name].data_ptr() == tensor.data_ptr()


def test_scores_are_copied_in_the_precision_of_the_weights(tmp_path):
    model = masked("vit", dtype=torch.float16)
    scores = model.masks().map(lambda mask: mask.float())
    taken = MaskCheckpoint.from_model(model, scores=scores)
    assert {score.dtype for score in taken.ranking.mhsa} == {torch.float16}
    assert_same(MaskCheckpoint.load(taken.save(tmp_path / "saved")), taken)
    alone = MaskCheckpoint.from_model(masked("vit"), scores=scores)
    before = alone.ranking.mhsa[0].clone()
    scores.mhsa[0].zero_()
    assert torch.equal(alone.ranking.mhsa[0], before)
