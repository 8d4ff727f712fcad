"""Pretrained weights are trained gently, fresh ones and what the user gives as they are."""

from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.cli import parse
from sweeps.config import SweepConfig, flatten
from sweeps.inputs import resumed_config
from sweeps.run_folder import RunFolder

WITHOUT = ["--model", "vit_small_patch16_18x2_224"]  # for which timm has no weights
STAGES = ("dense", "search", "share", "finetune", "transfer")
NAMED = ["--model", "deit_small_patch16_224"]


def rates(arguments: list[str]) -> dict[str, tuple[str, float]]:
    config = parse(arguments).config
    return {s: (getattr(config, s).opt, getattr(config, s).lr) for s in STAGES}


USUAL = {s: (getattr(SweepConfig(), s).opt, getattr(SweepConfig(), s).lr) for s in STAGES}
GENTLE = dict.fromkeys(STAGES, ("adamw", 1e-4)) | {"search": ("adamw", 5e-5)}


@pytest.mark.parametrize("weights", [[], ["--pretrained=false", "--weights", "w.safetensors"]])
def test_pretrained_weights_are_trained_by_adamw_at_low_rates(weights: list[str]) -> None:
    assert rates([*NAMED, *weights]) == GENTLE
    changed = flatten(parse([*NAMED, *weights]).config.to_dict())
    ours = {f"{stage}.{name}" for stage in STAGES for name in ("opt", "lr")}
    others = flatten(parse([]).config.to_dict())
    named = {"model", "pretrained", "weights", "dense.epochs"}
    assert {n for n, v in changed.items() if v != others[n]} <= ours | named


@pytest.mark.parametrize(
    "model", [[], ["--model", "saved/net"], [*NAMED, "--pretrained=false"], WITHOUT]
)
def test_other_models_are_trained_as_by_default(model: list[str]) -> None:
    assert rates(model) == USUAL


def test_what_the_user_gives_stays(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("finetune: {lr: 0.005}\nsearch: {lr: 0.0005}\n")
    given = [*NAMED, "--config", str(values), "--finetune.opt", "muon", "--dense.lr", "0.01"]
    changed = {
        "finetune": ("muon", 5e-3),
        "search": ("adamw", 5e-4),
        "dense": ("adamw", 1e-2),
    }
    assert rates(given) == GENTLE | changed


@pytest.mark.parametrize(
    "given",
    [
        ["--finetune", '{"opt": "muon", "lr": 0.005}'],
        ["--finetune={opt: muon, lr: 0.005}"],
        ["--finetune", "stage.yaml"],
        ["--config", "whole.yaml"],
    ],
)
def test_a_stage_given_as_one_value_stays(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stage.yaml").write_text("{opt: muon, lr: 0.005}\n")
    Path("whole.yaml").write_text("finetune: stage.yaml\n")
    assert rates([*NAMED, *given]) == GENTLE | {"finetune": ("muon", 5e-3)}


def test_a_part_of_a_stage_leaves_the_rest_gentle() -> None:
    assert rates([*NAMED, "--finetune", "{epochs: 3}"]) == GENTLE


def test_a_resumed_run_keeps_what_it_began_with(tmp_path: Path) -> None:
    begun = parse([*NAMED, "--storage", str(tmp_path), "--finetune.opt", "muon"]).config
    RunFolder.create(replace(begun, name="net"), "net")
    resumed = resumed_config(parse(["--resume", "net", "--storage", str(tmp_path)]))
    assert (resumed.finetune, resumed.dense) == (begun.finetune, begun.dense)
    assert resumed.finetune.opt == "muon" != resumed.dense.opt


def test_the_name_of_a_method_is_not_a_stage_that_is_given() -> None:
    assert rates([*NAMED, "--method", "share"]) == GENTLE
