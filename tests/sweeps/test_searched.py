"""A sweep that takes another run's search: what it copies and refuses, that it stands alone."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

import run_sweep
from slim.serving import add_about
from sweeps.cli import parse
from sweeps.config import FinetuneConfig, SweepConfig, resolved
from sweeps.errors import InputError
from sweeps.run_folder import RunFolder
from sweeps.searched import stages_taken, with_search_of
from tests.sweeps.conftest import FinishedSweep, run_sweep_process

SECOND = [
    *("--searched", "small", "--name", "second", "--method", "share", "--cluster", "local"),
    *("--trials", "2", "--tasks", "none", "--finetune.epochs", "1", "--space.uniform", "[0.5]"),
    *("--judge.budgets", "4", "--judge.batch", "4", "--judge.extra_trials", "0"),
]


@pytest.fixture
def searched(sweep: FinishedSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small sweep's run, in the storage of the folder that a test works in."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(sweep.folder, tmp_path / "runs" / "small"))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_second_sweep_begins_with_the_first_ones_networks_and_needs_it_no_more(
    searched: Path, tmp_path: Path
) -> None:
    second = tmp_path / "runs" / "second"
    done = run_sweep_process(tmp_path, *SECOND)
    for part in ("dense", "search", "shared"):
        assert files(second / part) == files(searched / part)
        assert "epoch 1/" not in done.stdout.split("judge: started")[0]
    assert len(pd.read_csv(second / "judged.csv")) == 4
    shutil.rmtree(searched)
    run_sweep_process(tmp_path, "--resume", "second", "--trials", "3")
    trials = pd.read_csv(second / "trials.csv")
    assert trials["trial"].tolist() == [0, 1, 2]
    assert (trials["state"] == "COMPLETE").all()


def test_the_plan_leaves_out_what_is_taken(
    searched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_sweep.main([*SECOND, "--dry-run=json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in plan["stages"]] == ["judge", "sweep", "test"]
    assert plan["searched"] == "small"
    assert run_sweep.main([*SECOND, "--dry-run"]) == 0
    assert "dense model and search of run small\n" in capsys.readouterr().out


def test_weights_are_shared_anew_or_not_at_all_where_only_the_search_is_taken(
    searched: Path,
) -> None:
    judged = with_search_of(parse(["--searched", "small"]))
    assert set(stages_taken(judged)) == {"dense", "search"}
    assert (judged.data, judged.vit.depth, judged.share.epochs) == ("digits", 3, 0)
    shutil.copytree(searched, searched.parent / "judged")
    folder = RunFolder(searched.parent, "judged")
    folder.write_config(with_search_of(parse(["--searched", "small", "--name", "judged"])))
    shared = with_search_of(parse(["--searched", "judged", "--method", "share"]))
    folder.remember("share_done", False)
    assert set(stages_taken(shared)) == {"dense", "search"}
    assert shared.share.epochs == 5


def test_values_of_the_search_may_be_given_again_and_not_changed(searched: Path) -> None:
    again = parse(["--searched", "small", "--search.epochs", "1", "--vit.depth", "3"])
    assert with_search_of(again).search.epochs == 1
    other = parse(["--searched", "small", "--search.epochs", "2", "--seed", "4"])
    with pytest.raises(InputError, match=r"search\.epochs was 1, is 2"):
        with_search_of(other)
    sharing = ["--searched", "small", "--method", "share", "--share.epochs", "2"]
    with pytest.raises(InputError, match=r"share\.epochs was 1, is 2"):
        with_search_of(parse(sharing))


def test_the_rates_are_those_for_the_other_runs_model(tmp_path: Path) -> None:
    command = ["--model", "deit_tiny_patch16_224", "--storage", str(tmp_path), "--name", "deit"]
    config = parse(command).config
    folder = RunFolder.create(config, "deit")
    folder.remember("search_done", True)
    taken = with_search_of(parse(["--searched", "deit", "--storage", str(tmp_path)]))
    assert taken.finetune == config.finetune
    assert taken.finetune.lr < FinetuneConfig().lr
    assert taken.search == config.search
    kept = ["--searched", "deit", "--storage", str(tmp_path), "--finetune.lr", "0.003"]
    assert with_search_of(parse(kept)).finetune.lr == 0.003


def test_a_search_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    folder = RunFolder.create(resolved(SweepConfig(storage=str(tmp_path))), "half")
    folder.remember("dense_done", True)
    with pytest.raises(InputError, match="has not finished its search; go on with --resume half"):
        with_search_of(parse(["--searched", "half", "--storage", str(tmp_path)]))


def test_a_search_on_other_images_is_refused(
    searched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_about(searched / "dense", {"data": {"name": "digits", "images": 7}})
    assert run_sweep.main(SECOND) == 2
    assert "data digits has other images than that run began with" in capsys.readouterr().err
    assert not (searched.parent / "second").exists()
