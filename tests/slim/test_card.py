"""The card says what a network is, whatever it was told about it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from slim import Architecture, FileFormatError, add_about, count, extract, load, save
from slim.card import MARK, model_card
from slim.serving import load_about
from tests.slim import damage
from tests.slim.architectures import architectures, uneven, without_block
from tests.slim.families import FAMILIES, checkpoint, images, spec_of

ABOUT = {
    "trial": 8,
    "budget": {"tokens": 0.7, "mhsa": 0.5, "mlp": 0.6},
    "val_top1": 81.256,
    "data": {"name": "digits", "train": 1257},
    "preprocessing": {"input_size": [3, 8, 12], "interpolation": "bicubic"},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([*ABOUT, "test_top1"]) | st.text(max_size=20)
NASTY = "](http://x.y) <b>\n\n# Title\n| a | `` b ` \u202e \ud800 |\n---\n```"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    vit = extract(checkpoint("vit"), uneven(spec_of("vit")))
    return save(vit, tmp_path / "small", ABOUT)


def card(about: dict[str, Any] | None = None, family: str = "vit") -> str:
    return model_card(uneven(spec_of(family)), about or {})


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ (.*)$", text.split("---\n", 2)[2], re.MULTILINE)


def table(text: str, heading: str) -> list[list[str]]:
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_it_begins_with_the_header_that_a_hub_reads():
    _, header, _ = card().split("---\n", 2)
    values = yaml.safe_load(header)
    assert values["pipeline_tag"] == "image-classification"
    assert {"timm", "vit-slim"} <= set(values["tags"])
    features = yaml.safe_load(card(family="no_classifier").split("---\n", 2)[1])
    assert features["pipeline_tag"] == "image-feature-extraction"


@pytest.mark.parametrize("family", FAMILIES)
def test_costs_stand_beside_those_of_the_dense_model(family):
    spec = spec_of(family)
    ours, dense = count(uneven(spec)), count(Architecture.dense(spec))
    rows = {row[0]: row[1:] for row in table(card(family=family), "Cost")}
    share = f"{100 * ours.macs / dense.macs:.1f}%"
    assert rows["MACs for one image"] == [f"{ours.macs:,}", f"{dense.macs:,}", share]
    share = f"{100 * ours.params / dense.params:.1f}%"
    assert rows["parameters"] == [f"{ours.params:,}", f"{dense.params:,}", share]


def test_the_spread_of_repeats_stands_beside_the_accuracies():
    spread = {"val_top1_mean": 80.0, "val_top1_std": 0.5, "test_top1_mean": 79.0}
    repeats = {"trainings": 3, "test_top1_std": 1.25} | spread
    text = card(ABOUT | {"test_top1": 80.5, "repeats": repeats})
    head, _, val, test = table(text, "Accuracy")
    assert head[2] == "mean and standard deviation of 3 trainings"
    assert val == ["validation", "81.26 %", "80.00 ± 0.50 %"]
    assert test == ["test", "80.50 %", "79.00 ± 1.25 %"]
    assert "trainings`" not in text
    for damaged in (ABOUT | {"repeats": repeats}, ABOUT | {"test_top1": 1.0, "repeats": spread}):
        text = card(damaged)
        assert len(table(text, "Accuracy")[0]) == 2
        assert "- `repeats`: `{" in text


def test_shares_of_the_three_dimensions_are_those_kept():
    rows = {row[0]: row[1:] for row in table(card(), "Cost")}
    assert rows["token slots"] == ["12", "18", "66.7%"]
    assert rows["attention dimensions"] == ["18", "36", "50.0%"]
    assert rows["MLP units"] == ["18", "36", "50.0%"]


def test_each_block_has_a_row():
    rows = table(card(), "Structure")[2:]
    assert rows == [
        ["0", "5 of 6", "6 of 12", "2, 3, 1", "6 of 12"],
        ["1", "4 of 6", "6 of 12", "2, 3, 1", "6 of 12"],
        ["2", "3 of 6", "6 of 12", "2, 3, 1", "6 of 12"],
    ]
    pruned = table(model_card(without_block(spec_of("vit")), {}), "Structure")[3]
    assert pruned == ["1", "6 of 6", "0 of 12", "0, 0, 0", "0 of 12"]


def test_accuracy_is_told_for_the_splits_it_was_measured_on():
    assert table(card({"val_top1": 81.256}), "Accuracy")[2:] == [["validation", "81.26 %"]]
    both = table(card({"test_top1": 80, "val_top1": 81.256}), "Accuracy")[2:]
    assert both == [["validation", "81.26 %"], ["test", "80.00 %"]]
    assert "Accuracy" not in headings(card())


def test_what_was_told_has_its_section():
    text = card(ABOUT)
    assert headings(text) == [
        "Slimmed Vision Transformer",
        "Cost",
        "Accuracy",
        "Budget",
        "Data",
        "Preprocessing",
        "Structure",
        "Load it",
        "Also kept beside it",
    ]
    for line in (
        "- `tokens`: `0.7`",
        "- `name`: `digits`",
        "- `train`: `1257`",
        "- `interpolation`: `bicubic`",
        "- `trial`: `8`",
    ):
        assert line in text.splitlines()


def test_a_dense_model_is_not_called_slimmed():
    text = model_card(Architecture.dense(spec_of("vit")), {})
    assert headings(text)[0] == "Vision Transformer"
    assert "100.0%" in text


@pytest.mark.parametrize("place", [*ABOUT, "test_top1", "note"])
def test_a_value_from_a_user_cannot_become_markup(place):
    expected = len(card({place: "harmless"}).splitlines())
    for about in ({place: NASTY}, {place: {"name": NASTY}}, {place: {NASTY: 1}}):
        text = card(about)
        text.encode()
        assert headings(text) == headings(card({place: "harmless"}))
        assert len(text.splitlines()) == expected
        (line,) = [line for line in text.splitlines() if "http" in line]
        assert re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", line) in ("- : ", "-: ")


@settings(max_examples=100)
@given(data=st.data(), about=st.dictionaries(NAMES, JSON, max_size=4))
def test_any_network_and_any_values_have_a_card_of_known_headings(data, about):
    text = model_card(data.draw(architectures(spec_of("vit"))), about)
    text.encode()
    known = set(headings(card(ABOUT))) | {"Vision Transformer"}
    assert set(headings(text)) <= known
    assert all(line.isprintable() for line in text.split("\n"))


def test_its_lines_load_the_network(folder):
    text = (folder / "README.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {"images": images(spec_of("vit"))}
    exec(program.replace("FOLDER", str(folder)), names)
    assert names["logits"].shape == (2, 5)


def test_the_card_of_a_network_is_replaced_with_it(folder):
    before = (folder / "README.md").read_text()
    save(load(folder), folder, {"val_top1": 12.0})
    after = (folder / "README.md").read_text()
    assert "12.00 %" in after
    assert "81.26 %" not in after
    assert before == model_card(uneven(spec_of("vit")), ABOUT)


@pytest.mark.parametrize("theirs", ["# Mine\n", "", "---\nlicense: mit\n---\n" + "x" * 500 + MARK])
def test_a_card_that_someone_else_wrote_stays(theirs, folder):
    (folder / "README.md").write_text(theirs)
    save(load(folder), folder, {"val_top1": 12.0})
    add_about(folder, {"test_top1": 11.0})
    assert (folder / "README.md").read_text() == theirs
    assert load_about(folder) == {"val_top1": 12.0, "test_top1": 11.0}


def test_what_is_found_later_is_added_and_the_weights_stay(folder):
    weights = (folder / "model.safetensors").read_bytes()
    header = json.loads((folder / "config.json").read_text())
    before = load(folder).state_dict()
    add_about(folder, {"test_top1": 80.5, "trial": 9})
    assert load_about(folder) == ABOUT | {"test_top1": 80.5, "trial": 9}
    assert (folder / "README.md").read_text() == model_card(
        uneven(spec_of("vit")), ABOUT | {"test_top1": 80.5, "trial": 9}
    )
    assert (folder / "model.safetensors").read_bytes() == weights
    after = json.loads((folder / "config.json").read_text())
    assert after | {"about": None} == header | {"about": None}
    assert all(torch.equal(tensor, before[k]) for k, tensor in load(folder).state_dict().items())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "README.md").unlink(),
        lambda folder: (folder / "README.md").write_bytes(b"\xff\x00"),
        lambda folder: damage.edit_header(folder, about=[1]),
    ],
    ids=["no card", "a card of noise", "another about"],
)
def test_a_folder_loads_whatever_happened_to_its_card(spoil, folder):
    spoil(folder)
    assert load(folder).architecture == uneven(spec_of("vit"))


@pytest.mark.parametrize("spoil", damage.HEADER.values(), ids=damage.HEADER)
def test_nothing_is_added_to_a_damaged_header(spoil, folder):
    spoil(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FileFormatError) as refused:
        add_about(folder, {"test_top1": 80.5})
    assert str(folder / "config.json") in str(refused.value)
    assert "\n" not in str(refused.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_damaged_weights_are_noticed_after_something_was_added(folder):
    damage.flip_bit(damage.weights_of(folder), -1)
    add_about(folder, {"test_top1": 80.5})
    with pytest.raises(FileFormatError, match=r"model\.safetensors is damaged"):
        load(folder)
