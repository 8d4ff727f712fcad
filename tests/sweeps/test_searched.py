"""A sweep that takes another run's search: what it copies and refuses, that it stands alone."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import run_sweep
import slim
from analysis.runs import load_run
from slim.serving import add_about, load_about
from sweeps.cli import parse
from sweeps.config import SweepConfig, resolved
from sweeps.errors import InputError
from sweeps.run_folder import RunFolder
from sweeps.searched import stages_taken, take_search, with_search_of
from sweeps.stage_config import FinetuneConfig
from tests.slim import damage
from tests.sweeps.conftest import FinishedSweep, run_sweep_process

SECOND = [
    *("--searched", "small", "--name", "second", "--method", "share", "--seed", "1"),
    *("--cluster", "local", "--trials", "2", "--tasks", "none", "--finetune.epochs", "1"),
    *("--judge.budgets", "4", "--judge.batch", "4", "--judge.extra_trials", "0"),
    *("--space.uniform", "[0.5]"),
]


@pytest.fixture
def searched(sweep: FinishedSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small sweep's run, in the storage of the folder that a test works in."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(sweep.folder, tmp_path / "runs" / "small"))


def test_a_second_sweep_begins_with_the_first_ones_networks_and_needs_it_no_more(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = tmp_path / "runs" / "second"
    done = run_sweep_process(tmp_path, *SECOND)
    for part in ("dense/model", "search/checkpoint", "shared/checkpoint"):
        ours, theirs = (run / f"{part}.safetensors" for run in (second, searched))
        assert ours.read_bytes() == theirs.read_bytes()
    assert "epoch 1/" not in done.stdout.split("judge: started")[0]
    assert len(pd.read_csv(second / "judged.csv")) == 4
    assert (pd.read_csv(second / "trials.csv")["state"] == "COMPLETE").all()
    shutil.rmtree(searched)
    assert run_sweep.main(["--resume", "second", "--trials", "3", "--dry-run=json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["taken"] == ["dense", "search", "share"]
    assert plan["finished"]["stages"] == ["dense", "search", "share", "judge"]
    assert (plan["finished"]["trials"], plan["finished"]["tested"]) == (2, 3)
    assert [(stage["name"], stage["jobs"]) for stage in plan["stages"]] == [
        ("sweep", 1),
        ("test", 1),
    ]
    assert load_run(f"sqlite:///{tmp_path}/mlflow.db", "second").stages["val_top1"].tolist() == [
        load_about(second / "dense")["val_top1"],
        *(slim.MaskCheckpoint.load(second / p).metrics["val_top1"] for p in ("search", "shared")),
    ]


def test_the_plan_leaves_out_what_is_taken(
    searched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_sweep.main([*SECOND, "--dry-run=json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in plan["stages"]] == ["judge", "sweep", "test"]
    assert run_sweep.main([*SECOND, "--dry-run"]) == 0
    assert "taken from another run: dense, search, share\n" in capsys.readouterr().out


def test_what_is_copied_tells_nothing_of_the_test_split(searched: Path) -> None:
    config = with_search_of(parse(SECOND))
    assert "test_top1" in load_about(searched / "dense")
    folder = RunFolder.create(config, "second")
    take_search(config, folder)
    assert load_about(folder.dense).keys() == load_about(searched / "dense").keys() - {"test_top1"}
    shutil.rmtree(searched)
    assert stages_taken(config) == ("dense", "search", "share")
    take_search(config, folder)


@pytest.mark.parametrize(
    ("given", "stages"),
    [
        ([], ("dense", "search")),
        (["--method", "share"], ("dense", "search", "share")),
        (["--method", "share", "--space.mlp_min", "0.3"], ("dense", "search", "share")),
        (["--method", "share", "--space.mlp_min", "0.01"], ("dense", "search")),
        (["--method", "share", "--share.epochs", "2"], ("dense", "search")),
    ],
)
def test_shared_weights_are_taken_where_they_suit(
    given: list[str], stages: tuple[str, ...], searched: Path
) -> None:
    config = with_search_of(parse(["--searched", "small", *given]))
    assert stages_taken(config) == stages
    assert (config.data, config.vit.depth) == ("digits", 3)


def test_weights_are_shared_anew_after_a_run_that_shared_none(searched: Path) -> None:
    shutil.rmtree(searched / "shared")
    RunFolder(searched.parent, "small").write_config(with_search_of(parse(SECOND[:2])))
    config = with_search_of(parse(["--searched", "small", "--method", "share"]))
    assert stages_taken(config) == ("dense", "search")
    assert config.share.epochs == 5


@pytest.mark.parametrize(
    "option", [[], ["--workers-per-trial", "3", "--finetune.batch_size", "96"]]
)
def test_what_only_taken_stages_would_need_is_not_asked_for(
    option: list[str], searched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(searched.parent, "small")
    folder.write_config(replace(folder.read_config(), model="/gone/network"))
    assert run_sweep.main([*SECOND, *option, "--dry-run=json"]) == 0
    dense = slim.count(slim.load(searched / "models" / "0").architecture)
    assert json.loads(capsys.readouterr().out)["dense_gmacs"] == dense.macs / 1e9


@pytest.mark.parametrize("part", ["dense/model", "search/checkpoint", "shared/checkpoint"])
def test_damaged_files_are_refused_and_nothing_is_left(
    part: str, searched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage.WEIGHTS["truncated"](searched / part.split("/")[0])
    assert run_sweep.main(SECOND) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert part in err
    assert not (searched.parent / "second").exists()


def test_values_of_the_search_may_be_given_again_and_not_changed(searched: Path) -> None:
    again = parse(["--searched", "small", "--search.epochs", "1", "--vit.depth", "3"])
    assert with_search_of(again).search.epochs == 1
    other = parse(["--searched", "small", "--search.epochs", "2", "--seed", "4"])
    with pytest.raises(InputError, match=r"search\.epochs was 1, is 2"):
        with_search_of(other)


def test_the_rates_are_those_for_the_other_runs_model(tmp_path: Path) -> None:
    command = ["--model", "deit_tiny_patch16_224", "--storage", str(tmp_path), "--name", "deit"]
    config = parse(command).config
    RunFolder.create(config, "deit").search.mkdir()
    taken = with_search_of(parse(["--searched", "deit", "--storage", str(tmp_path)]))
    assert taken.finetune == config.finetune
    assert taken.finetune.lr < FinetuneConfig().lr
    assert taken.search == config.search
    kept = ["--searched", "deit", "--storage", str(tmp_path), "--finetune.lr", "0.003"]
    assert with_search_of(parse(kept)).finetune.lr == 0.003


def test_a_search_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    RunFolder.create(resolved(SweepConfig(storage=str(tmp_path))), "half").dense.mkdir()
    with pytest.raises(InputError, match="its search; first go on with --resume half"):
        with_search_of(parse(["--searched", "half", "--storage", str(tmp_path)]))


def test_a_search_on_other_images_is_refused(
    searched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_about(searched / "dense", {"data": {"name": "digits", "images": 7}})
    assert run_sweep.main(SECOND) == 2
    assert "data digits has other images than that run began with" in capsys.readouterr().err
    assert not (searched.parent / "second").exists()
