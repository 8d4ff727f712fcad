"""The plan that a dry run prints: what is judged, trained and tested, and what each costs."""

import json
from pathlib import Path

import pytest

import run_sweep
from slim.tasks import load_task
from tests.sweeps.conftest import SMALL


def test_a_dry_run_prints_the_plan_and_starts_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_sweep.main([*SMALL, "--trials", "3", "--dry-run=json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [b["trial"] for b in plan["budgets"]] == list(range(15))
    smallest = {name: plan["budgets"][2][name] for name in ("tokens", "mhsa", "mlp")}
    assert smallest == {"tokens": 0.2, "mhsa": 0.1, "mlp": 0.05}
    assert sum(stage["fraction"] for stage in plan["stages"]) == pytest.approx(1)
    assert plan["budgets"][0]["gmacs"] == plan["dense_gmacs"]
    assert plan["seconds"] > 0
    assert not any(tmp_path.iterdir())
    assert run_sweep.main([*SMALL, "--trials", "3", "--dry-run"]) == 0
    told = capsys.readouterr().out
    sizes = [f"{plan['images'][split]:,} images of {split}" for split in ("train", "val", "test")]
    assert told.startswith(f"data digits: 10 classes, {', '.join(sizes)}\n")
    assert "3 trials" in told
    assert "24 budgets judged, on 200 images of val" in told


@pytest.mark.parametrize(
    ("options", "trained", "carried"),
    [
        (["--trials", "1"], 0, 1),
        (["--trials", "9"], 8, 5),
        (["--trials", "9", "--finetune.dense", "true"], 9, 5),
        (["--trials", "1", "--finetune.dense", "true", "--repeats", "3"], 1, 2),
    ],
)
def test_the_plan_counts_the_dense_budget_where_it_is_trained(
    options: list[str],
    trained: int,
    carried: int,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_sweep.main([*SMALL, *options, "--judge.images", "0", "--dry-run=json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    jobs = {stage["name"]: stage["jobs"] for stage in plan["stages"]}
    assert jobs.get("sweep", 0) == trained
    assert jobs["transfer mnist"] == carried
    assert jobs.get("repeats", 0) == 2 * ("--repeats" in options)
    assert plan["judged_images"] == plan["images"]["val"]


def test_the_plan_counts_the_dense_model_for_trials_that_do_not_read_its_outputs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    planned = []
    for room in ("1", "0"):
        asked = ["--trials", "9", "--concurrency", "2", "--kept-outputs-gb", room]
        assert run_sweep.main([*SMALL, *asked, "--dry-run=json"]) == 0
        planned.append(json.loads(capsys.readouterr().out))
    kept, run = (plan["stages"][4] for plan in planned)
    assert kept["name"] == "sweep"
    more = (8 - 2) * planned[0]["dense_gmacs"] * kept["epochs"] * load_task("digits").size("train")
    assert run["gmacs_images"] - kept["gmacs_images"] == pytest.approx(more)
