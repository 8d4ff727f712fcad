"""What is in MLflow is what the frames hold."""

import math
from dataclasses import replace

import pytest
from mlflow import MlflowClient

import slim
from analysis import RunNotFoundError
from analysis.runs import EPOCHS, STAGES, TRANSFER, TRIALS, Run, load_run, run_sentence
from tests.analysis.conftest import EMPTY, FAILED, FULL, ONE, RUNNING
from tests.analysis.tracked_sweeps import Sweep, write_sweep


def test_trials_stand_in_order_with_the_values_logged_last(full_run: Run) -> None:
    trials = full_run.trials.set_index("trial")
    assert trials.index.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert trials["state"].tolist() == ["COMPLETE"] * 5 + ["PRUNED", "FAILED"]
    assert trials.loc[3, "val_top1"] == 83.0
    assert trials.loc[1, ["tokens", "mhsa", "mlp"]].tolist() == [0.9, 0.8, 0.7]
    assert trials.loc[4, ["test_top1", "epochs", "seconds"]].tolist() == [69.0, 3.0, 15.0]
    assert trials.index[trials["front"]].tolist() == [0, 1, 2, 4]


def test_a_value_that_was_not_logged_is_nan(full_run: Run) -> None:
    failed = full_run.trials.iloc[6]
    names = ["gmacs", "params_m", "val_top1", "test_top1", "epochs", "seconds"]
    assert all(math.isnan(failed[name]) for name in names)
    assert failed["mhsa"] == 0.9
    assert math.isnan(full_run.trials["test_top1"].iloc[5])


def test_epochs_hold_every_trials_history(full_run: Run) -> None:
    third = full_run.epochs[full_run.epochs["trial"] == 3]
    assert third["epoch"].tolist() == [1, 2, 3]
    assert third["val_top1"].tolist() == [60.0, 84.0, 83.0]
    assert 6 not in set(full_run.epochs["trial"])


def test_architectures_and_costs_are_those_of_slim(
    full_run: Run, checkpoint: slim.MaskCheckpoint
) -> None:
    assert full_run.architectures.keys() == {0, 1, 2, 3, 4, 5}
    assert full_run.architectures[2] == checkpoint.select(FULL.trials[2].budget)
    assert full_run.trials["gmacs"].iloc[2] == slim.count(full_run.architectures[2]).macs / 1e9
    assert full_run.num_classes == 10


def test_transfer_and_stages_are_read_oldest_first(full_run: Run) -> None:
    transfer = full_run.transfer
    assert transfer["trial"].tolist() == ["dense", "1", "1", "2", "4", "dense", "1", "dense", "2"]
    assert transfer["seed"].tolist()[:3] == [0, 0, 1]
    assert transfer["test_top1"].iloc[1] == 96.0
    assert full_run.stages["kind"].tolist() == ["dense", "search", *["transfer"] * 9]
    assert full_run.stages["seconds"].tolist()[:3] == [120.0, 60.0, 5.0]


@pytest.mark.parametrize("name", [EMPTY.name, ONE.name, FAILED.name, RUNNING.name, FULL.name])
def test_every_shape_of_run_has_the_same_columns(tracking_uri: str, name: str) -> None:
    run = load_run(tracking_uri, name)
    for frame, columns in (
        (run.trials, TRIALS),
        (run.epochs, EPOCHS),
        (run.transfer, TRANSFER),
        (run.stages, STAGES),
    ):
        assert {column: str(kind) for column, kind in frame.dtypes.items()} == columns


def test_a_trial_that_still_runs_is_no_complete_one(tracking_uri: str) -> None:
    run = load_run(tracking_uri, RUNNING.name)
    assert run.trials["state"].tolist() == ["COMPLETE", "RUNNING"]
    assert run.status == "RUNNING"
    assert "still running" in run_sentence(run)


def test_of_several_runs_of_a_name_the_newest_counts(
    tracking_uri: str, checkpoint: slim.MaskCheckpoint
) -> None:
    client = MlflowClient(tracking_uri=tracking_uri)
    write_sweep(client, checkpoint, Sweep(name="twice"))
    newest = write_sweep(client, checkpoint, Sweep(name="twice"))
    assert load_run(tracking_uri, "twice").run_id == newest


def test_a_run_is_found_by_its_id_under_its_name(
    tracking_uri: str, checkpoint: slim.MaskCheckpoint
) -> None:
    client = MlflowClient(tracking_uri=tracking_uri)
    first = write_sweep(client, checkpoint, Sweep(name="same"))
    write_sweep(client, checkpoint, Sweep(name="same"))
    run = load_run(tracking_uri, first)
    assert (run.run_id, run.name) == (first, "same")


def test_the_configuration_is_the_one_it_ended_with(
    tracking_uri: str, checkpoint: slim.MaskCheckpoint
) -> None:
    client = MlflowClient(tracking_uri=tracking_uri)
    run_id = write_sweep(client, checkpoint, Sweep(name="resumed"))
    values = "trials: 32\nsearch:\n  epochs: 5\n  lr: 0.0005\nmax_gmacs: null\nverbose: false\n"
    client.log_text(run_id, values, "config.yaml")
    params = load_run(tracking_uri, "resumed").params
    names = ("trials", "search.epochs", "search.lr", "max_gmacs", "verbose", "data")
    assert [params[name] for name in names] == ["32", "5", "0.0005", "None", "False", "mnist"]
    client.log_text(run_id, "trials", "config.yaml")
    client.set_terminated(run_id)
    with pytest.raises(slim.FileFormatError, match=r"config\.yaml is damaged"):
        load_run(tracking_uri, "resumed")


def test_a_run_that_has_ended_is_read_once(
    tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_run(tracking_uri, FULL.name)
    monkeypatch.setattr(MlflowClient, "get_metric_history", None)
    assert load_run(tracking_uri, FULL.name) is first
    with pytest.raises(TypeError):
        load_run(tracking_uri, ONE.name)


@pytest.mark.parametrize("name", ["nobody's", 'no"body', "x' or tags.kind = 'sweep"])
def test_an_unknown_name_is_an_error_of_one_line(tracking_uri: str, name: str) -> None:
    with pytest.raises(RunNotFoundError, match="no sweep named") as caught:
        load_run(tracking_uri, name)
    assert "\n" not in str(caught.value)


def test_the_sentence_shows_names_letter_by_letter(full_run: Run) -> None:
    sentence = run_sentence(full_run)
    assert "<run>" not in sentence
    assert "full &#60;run&#62; of &#42;all&#42;" in sentence
    assert "7 trials (5 complete, 1 failed and 1 pruned)" in sentence


def test_data_is_told_without_the_folder_it_lies_in(full_run: Run) -> None:
    params = {"data": "torch/cifar10:/data/sets", "model": "/models/small"}
    there = replace(full_run, params=params)
    assert "slims small on cifar10:" in run_sentence(there)
    assert "on pets:" in run_sentence(replace(full_run, params={"data": "/data/pets"}))
