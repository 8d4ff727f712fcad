"""What cannot be recorded stops a sweep, and nothing that ended is trained again."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from tests.sweeps.conftest import SMALL, run_sweep_process
from tests.sweeps.test_interruption import run_states, start, wait_for

PATIENT = ["--patience", "3", "--min-gain", "100"]  # so the resumed run ends early, too


@pytest.mark.faults
def test_a_trial_whose_end_cannot_be_written_down_is_not_trained_again(tmp_path: Path) -> None:
    small = ["--tasks", "none", "--method", "judge", "--share.epochs", "0", "--concurrency", "1"]
    process = start(tmp_path, *SMALL, *small, "--name", "stuck", "--trials", "6", *PATIENT)
    wait_for(process, "trial 0 complete")
    front = tmp_path / "runs" / "stuck" / "front.csv"
    front.unlink()
    (front / "in the way").mkdir(parents=True)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.count("\n") == 1
    assert "front.csv" in errors
    assert "--resume stuck" in errors
    assert "Traceback" not in output + errors

    shutil.rmtree(front)
    done = run_sweep_process(tmp_path, "--resume", "stuck", "--cluster", "local")
    assert "4 trials: the last 3 added less than 100 % to the front's hypervolume" in done.stdout
    trials = pd.read_csv(front.with_name("trials.csv"))
    assert trials["trial"].tolist() == [0, 1, 2, 3]
    assert set(run_states(tmp_path).values()) == {"FINISHED"}
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("vit-slim")
    for run in client.search_runs([experiment.experiment_id], "tags.kind = 'trial'"):
        told = client.get_metric_history(run.info.run_id, "val_top1")
        last = max(one.step for one in told)
        assert last == (run.data.tags["trial"] != "0")
        assert len({one.value for one in told if one.step == last}) == 1  # not of two trainings
