"""On resume the study is the one truth: MLflow, tables and folders are brought to it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
from mlflow.tracking import MlflowClient

from sweeps.recorder import Recorder
from sweeps.run_folder import RunFolder
from sweeps.stopping import StopRequest
from sweeps.study import BudgetStudy
from sweeps.tracking import KILLED, Tracker
from sweeps.trials import FAILED
from tests.sweeps.small_checkpoint import searched_checkpoint
from tests.sweeps.test_study import CONFIG, begun, row


def recorder_of(study: BudgetStudy, tracker: Tracker, folder: RunFolder) -> Recorder:
    stop = StopRequest(folder.stop)
    return Recorder(study, tracker, folder, searched_checkpoint(), 2, None, print, stop)


def test_what_only_the_study_was_told_is_told_everywhere_once(tmp_path: Path) -> None:
    uri, folder = f"sqlite:///{tmp_path / 'mlflow.db'}", RunFolder(tmp_path, "run")
    folder.state.mkdir(parents=True)
    study = begun(folder.journal, CONFIG)
    asked = [study.ask() for _ in range(4)]
    for proposal in asked:
        (folder.models / str(proposal.number)).mkdir(parents=True)
        (folder.models / str(proposal.number) / "config.json").write_text("{}")
    study.complete(row(asked[0]))
    study.complete(row(asked[1]))
    study.close(row(asked[2], FAILED), "it diverged")
    killed = Tracker(uri, folder.path)
    killed.begin("run")
    killed.child("trial-1", "trial", {"trial": "1"})  # of trials 0 and 2 it said nothing
    killed.finish_parent(KILLED)
    killed.flush()
    killed.close()
    for _ in range(2):
        tracker = Tracker(uri, folder.path)
        tracker.begin("run")
        recorder_of(begun(folder.journal, CONFIG), tracker, folder).reconcile()
        tracker.flush()
        tracker.close()
    found = MlflowClient(uri).search_runs([tracker.experiment], "tags.kind = 'trial'")
    runs = {run.info.run_name: run for run in found}
    assert len(found) == len(runs) == 3
    states = {name: (run.info.status, run.data.tags["state"]) for name, run in runs.items()}
    assert states == {
        "trial-0": ("FINISHED", "COMPLETE"),
        "trial-1": ("FINISHED", "COMPLETE"),
        "trial-2": ("FAILED", "FAILED"),
    }
    assert runs["trial-2"].data.tags["reason"] == "it diverged"
    assert {runs[f"trial-{n}"].data.tags["front"] for n in (0, 1)} == {"true"}
    table = pd.read_csv(folder.path / "trials.csv")
    assert table["trial"].tolist() == [0, 1, 2]
    assert sorted(path.name for path in folder.models.iterdir()) == ["0", "1", "3"]  # 3 runs


def test_epochs_that_a_killed_driver_did_not_hear_of_stand_in_their_place(tmp_path: Path) -> None:
    uri, folder = f"sqlite:///{tmp_path / 'mlflow.db'}", RunFolder(tmp_path, "run")
    folder.state.mkdir(parents=True)
    asked = begun(folder.journal, CONFIG).ask()
    budget = {"tokens": 0.5, "mhsa": 0.5, "mlp": 0.5}
    trial: Any = SimpleNamespace(config={"number": asked.number} | budget)
    untrained = {"epochs": 0, "val_top1": 40.0}
    after_the_kill = {"epochs": 3, "val_top1": 70.0, "curve": [50.0, 60.0, 70.0]}
    for result in (untrained, after_the_kill):
        tracker = Tracker(uri, folder.path)
        tracker.begin("run")
        recorder = recorder_of(begun(folder.journal, CONFIG), tracker, folder)
        recorder.on_trial_start(0, [], trial)
        recorder.on_trial_result(0, [], trial, result)
        tracker.flush()
        tracker.close()
    client = MlflowClient(uri)
    (run,) = client.search_runs([tracker.experiment], "tags.kind = 'trial'")
    points = client.get_metric_history(run.info.run_id, "val_top1")
    values = {point.step: point.value for point in points}
    assert values == {0: 40, 1: 50, 2: 60, 3: 70}
    told = [m.step for m in tracker.outbox.messages() if "val_top1" in m.values]
    assert told == [0, 1, 2, 3]
