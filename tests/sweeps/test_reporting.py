"""Reports of runs that are there already, and one line for runs that are not."""

from functools import partial
from pathlib import Path

import pytest
import yaml

import run_sweep
from analysis.reports import make_reports
from sweeps.reporting import both_names
from tests.sweeps.conftest import FinishedSweep


def test_a_finished_runs_reports_are_made_again(
    sweep: FinishedSweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sweep.cwd)
    monkeypatch.setattr("sweeps.reporting.make_reports", partial(make_reports, names=["front"]))
    page = sweep.folder / "reports" / "front.html"
    page.unlink()
    assert run_sweep.main(["--report", "small"]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert "on the front" in page.read_text()


def test_pages_that_mlflow_does_not_take_are_there_all_the_same(
    sweep: FinishedSweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise ConnectionError("the store\nis away")

    monkeypatch.chdir(sweep.cwd)
    monkeypatch.setattr("sweeps.reporting.make_reports", partial(make_reports, names=["front"]))
    monkeypatch.setattr("mlflow.tracking.MlflowClient.log_artifact", refused)
    assert run_sweep.main(["--report", "small"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"the reports are in {sweep.folder / 'reports'}, but MLflow at" in told
    assert "ConnectionError: the store is away" in told


def test_two_names_of_any_length_make_one_that_a_file_may_have() -> None:
    assert both_names("a", "b") == "a-and-b"
    one, other = both_names("a" * 128, "b" * 128), both_names("a" * 128, "b" * 127 + "c")
    assert len(one) <= 200
    assert one != other


def write_run(storage: Path, name: str, tracking: str) -> None:
    (storage / name).mkdir(parents=True)
    (storage / name / "config.yaml").write_text(yaml.safe_dump({"tracking_uri": tracking}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--report", "nobody"], "there is no run nobody in"),
        (["--report", "one"], "no sweep named 'one' in experiment vit-slim"),
        (["--report", "../one"], "run name '../one' is not usable"),
        (["--report", "broken"], "config.yaml is damaged"),
        (["--report", "torn"], "progress.json is damaged"),
        (["--compare", "one", "nobody"], "there is no run nobody in"),
        (["--compare", "one", "one"], "two different runs, not one twice"),
        (["--compare", "one", "two"], "no sweep named 'one'"),
        (["--compare", "one", "elsewhere"], "give the --tracking-uri that holds both"),
        (["--compare", "one"], "--compare"),
    ],
)
def test_runs_that_are_not_there_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs", "one", f"sqlite:///{tmp_path / 'mlflow.db'}")
    write_run(tmp_path / "runs", "two", f"sqlite:///{tmp_path / 'mlflow.db'}")
    write_run(tmp_path / "runs", "elsewhere", "http://tracking:5000")
    write_run(tmp_path / "runs", "torn", f"sqlite:///{tmp_path / 'mlflow.db'}")
    (tmp_path / "runs" / "torn" / "state").mkdir()
    (tmp_path / "runs" / "torn" / "state" / "progress.json").write_text('{"dense_done": tr')
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "config.yaml").write_text("no mapping")
    assert run_sweep.main(arguments) == 2
    told = capsys.readouterr().err.strip()
    assert message in told
    assert "\n" not in told


def test_a_tracking_server_that_does_not_answer_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs", "one", "http://127.0.0.1:9")
    assert run_sweep.main(["--report", "one"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("run_sweep.py: tracking http://127.0.0.1:9 cannot be used: ")
    assert told.endswith("; give --tracking-uri\n")
