"""What a whole run leaves on disk, in MLflow and in Optuna is complete and says the same."""

import json
import subprocess
import sys
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import run_sweep
import slim
from analysis.runs import load_run
from slim.evaluation import top1
from slim.serving import load_about
from slim.tasks import Preprocessing, load_task
from sweeps.config import SweepConfig, from_dict
from sweeps.judged import JudgedRow, JudgedStudy
from sweeps.judged_networks import JudgedNetworks
from sweeps.space import BudgetSpace
from tests.sweeps.conftest import FinishedSweep

FIGURES = ["gmacs", "params_m", "val_top1", "test_top1", "epochs", "seconds"]


def children(sweep: FinishedSweep, kind: str) -> list[Run]:
    client = MlflowClient(sweep.tracking_uri)
    experiment = client.get_experiment_by_name("vit-slim")
    parent = parent_run(sweep).info.run_id
    query = f"tags.`mlflow.parentRunId` = '{parent}' and tags.kind = '{kind}'"
    return list(client.search_runs([experiment.experiment_id], query))


def parent_run(sweep: FinishedSweep) -> Run:
    client = MlflowClient(sweep.tracking_uri)
    experiment = client.get_experiment_by_name("vit-slim")
    (run,) = client.search_runs([experiment.experiment_id], "tags.kind = 'sweep'")
    return run


def test_the_folder_has_every_file_of_the_contract(sweep: FinishedSweep) -> None:
    names = {path.name for path in sweep.folder.iterdir()}
    assert names >= {"config.yaml", "search", "trials.csv", "front.csv", "front.html"}
    assert names >= {"transfer.csv", "models", "reports"}
    assert len(list((sweep.folder / "reports").glob("*.html"))) >= 3
    models = sorted(int(path.name) for path in (sweep.folder / "models").iterdir())
    assert models == [0, 1, 2, 3]
    assert not list((sweep.folder / "state").rglob("*.pt"))  # all trainings have ended


def test_networks_are_cut_by_the_scores_of_the_search_from_the_shared_weights(
    sweep: FinishedSweep,
) -> None:
    searched = slim.MaskCheckpoint.load(sweep.folder / "search")
    shared = slim.MaskCheckpoint.load(sweep.folder / "shared")
    assert searched.scores is not None
    row = sweep.trials.iloc[1]
    budget = slim.Budget(row.tokens, row.mhsa, row.mlp)
    network = slim.load(sweep.folder / "models" / "1")
    assert network.architecture == searched.select(budget) == shared.select(budget)
    assert all(bool((mask == 1).all()) for mask in shared.masks.mlp)
    (run,) = children(sweep, "share")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["val_top1"] == shared.metrics["val_top1"]


def judged_front(sweep: FinishedSweep) -> list[list[float]]:
    """Budgets of the judged front, by looking at every pair."""
    judged = pd.read_csv(sweep.folder / "judged.csv")
    budgets = []
    for _, one in judged.iterrows():
        no_worse = judged[(judged.val_top1 >= one.val_top1) & (judged.gmacs <= one.gmacs)]
        if not ((no_worse.val_top1 > one.val_top1) | (no_worse.gmacs < one.gmacs)).any():
            budgets.append(one[["tokens", "mhsa", "mlp"]].tolist())
    return budgets


def test_judged_budgets_are_those_of_optuna_each_worth_what_its_network_scores(
    sweep: FinishedSweep,
) -> None:
    judged = pd.read_csv(sweep.folder / "judged.csv")
    journal = JournalFileBackend(str(sweep.folder / "state" / "study.journal"))
    study = optuna.load_study(study_name="judged", storage=JournalStorage(journal))
    assert [trial.values for trial in study.trials] == judged[
        ["val_top1", "gmacs"]
    ].values.tolist()
    assert len(judged) == 24
    assert parent_run(sweep).data.metrics["judged"] == 24
    assert parent_run(sweep).data.metrics["judged_front"] == len(judged_front(sweep))
    networks = JudgedNetworks(sweep.folder)
    repaired = []
    for _, one in judged.iloc[[0, 5, 11]].iterrows():
        vit = networks.cut(slim.Budget(one.tokens, one.mhsa, one.mlp))
        fresh = slim.extract(networks.checkpoint, vit.architecture)
        repaired.append(not torch.equal(vit.head.weight, fresh.head.weight))
        seen = (load_task("digits"), "val", networks.preprocessing)
        assert top1(vit, *seen, most=200) == one.val_top1
        assert slim.count(vit.architecture).macs / 1e9 == one.gmacs
        assert slim.count(vit.architecture).params / 1e6 == one.params_m
    assert all(repaired[1:])  # the first is the dense one


def test_judged_budgets_are_those_that_a_study_asks_for_one_batch_after_the_other(
    sweep: FinishedSweep, tmp_path: Path
) -> None:
    config = from_dict(SweepConfig, yaml.safe_load((sweep.folder / "config.yaml").read_text()))
    shared = slim.MaskCheckpoint.load(sweep.folder / "shared")
    study = JudgedStudy(
        tmp_path / "journal", config, BudgetSpace(config, shared.spec, shared.ranking)
    )
    judged = pd.read_csv(sweep.folder / "judged.csv").drop(columns="latency_ms", errors="ignore")
    rows = [JudgedRow(latency_ms=None, **row) for row in judged.to_dict("records")]
    while batch := study.ask():
        told = rows[len(study.rows()) :][: len(batch)]
        assert [row.budget for row in told] == batch
        assert len(batch) == 4
        study.tell(told)
    assert len(study.rows()) == len(rows)


def test_every_trial_is_complete_and_starts_from_the_judged_front(
    sweep: FinishedSweep,
) -> None:
    trials = sweep.trials
    assert list(trials.columns) == [
        *("trial", "state", "tokens", "mhsa", "mlp", "gmacs", "params_m", "val_top1"),
        *("test_top1", "epochs", "seconds"),
    ]
    assert trials["trial"].tolist() == [0, 1, 2, 3]
    assert (trials["state"] == "COMPLETE").all()
    assert trials.loc[0, ["tokens", "mhsa", "mlp"]].tolist() == [1, 1, 1]
    on_front = judged_front(sweep)
    for number in (1, 2):
        assert trials.loc[number, ["tokens", "mhsa", "mlp"]].tolist() in on_front
    assert not trials.isna().any().any()


def test_trial_0_is_the_dense_model_as_it_stands(sweep: FinishedSweep) -> None:
    assert sweep.trials.epochs.tolist() == [0, 1, 1, 1]
    dense, standing = (slim.load(sweep.folder / name) for name in ("dense", "models/0"))
    torch.testing.assert_close(standing.state_dict(), dense.state_dict(), atol=0, rtol=0)
    about = load_about(sweep.folder / "dense")
    assert sweep.trials.val_top1[0] == about["val_top1"]
    assert sweep.trials.test_top1[0] == about["test_top1"]
    journal = JournalFileBackend(str(sweep.folder / "state" / "study.journal"))
    study = optuna.load_study(study_name="budgets", storage=JournalStorage(journal))
    before = [trial.user_attrs["untrained_top1"] for trial in study.trials]
    assert [accuracy is None for accuracy in before] == [True, False, False, False]


def test_the_front_is_the_non_dominated_trials(sweep: FinishedSweep) -> None:
    trials, front = sweep.trials, pd.read_csv(sweep.folder / "front.csv")
    for _, row in trials.iterrows():
        better = (trials["val_top1"] >= row["val_top1"]) & (trials["gmacs"] <= row["gmacs"])
        strictly = (trials["val_top1"] > row["val_top1"]) | (trials["gmacs"] < row["gmacs"])
        on_front = row["trial"] in front["trial"].tolist()
        assert on_front == (not (better & strictly).any())


def test_each_saved_network_is_what_its_row_says(sweep: FinishedSweep) -> None:
    task = load_task("digits")
    for _, row in sweep.trials.iterrows():
        folder = sweep.folder / "models" / str(int(row["trial"]))
        vit = slim.load(folder)
        about = json.loads((folder / "config.json").read_text())["about"]
        preprocessing = Preprocessing.from_json(about["preprocessing"])
        assert top1(vit, task, "val", preprocessing) == row["val_top1"]
        assert top1(vit, task, "test", preprocessing) == row["test_top1"] == about["test_top1"]
        assert f"| test | {row['test_top1']:.2f} % |" in (folder / "README.md").read_text()
        assert sum(p.numel() for p in vit.parameters()) / 1e6 == row["params_m"]
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            vit(torch.zeros(1, *vit.input_size))
        assert counter.get_total_flops() / 2 / 1e9 == row["gmacs"]


def test_a_saved_network_loads_in_a_fresh_process_without_the_sweep(sweep: FinishedSweep) -> None:
    program = (
        "import slim, sys, torch; vit = slim.load(sys.argv[1]);"
        "print(tuple(vit(torch.zeros(2, *vit.input_size)).shape));"
        "assert not {'ray', 'optuna', 'mlflow'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", program, str(sweep.folder / "models" / "1")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(2, 10)"


def test_mlflow_says_what_the_tables_say(sweep: FinishedSweep) -> None:
    trials = sweep.trials.set_index("trial")
    front = set(pd.read_csv(sweep.folder / "front.csv")["trial"])
    runs = children(sweep, "trial")
    assert sorted(int(run.data.tags["trial"]) for run in runs) == trials.index.tolist()
    for run in runs:
        number = int(run.data.tags["trial"])
        row = trials.loc[number]
        assert run.info.status == "FINISHED"
        assert run.data.tags["state"] == row["state"]
        assert (run.data.tags["front"] == "true") == (number in front)
        for name in FIGURES:
            assert run.data.metrics[name] == row[name], (number, name)
        for name in ("tokens", "mhsa", "mlp"):
            assert float(run.data.params[name]) == row[name]


def test_mlflow_holds_the_epochs_the_network_and_the_architecture(sweep: FinishedSweep) -> None:
    client = MlflowClient(sweep.tracking_uri)
    for run in children(sweep, "trial"):
        curve = client.get_metric_history(run.info.run_id, "val_top1")
        assert [point.step for point in curve] == [0] + [1] * (run.data.tags["trial"] != "0")
        names = {item.path for item in client.list_artifacts(run.info.run_id)}
        served = {"mlflow_model"} if run.data.tags["front"] == "true" else set()
        assert names == {"architecture.json", "model"} | served
        files = {item.path for item in client.list_artifacts(run.info.run_id, "model")}
        assert files == {"model/model.safetensors", "model/config.json", "model/README.md"}


def test_mlflow_holds_the_card_as_it_is_at_the_end(sweep: FinishedSweep, tmp_path: Path) -> None:
    client = MlflowClient(sweep.tracking_uri)
    runs = [(run, "model") for run in children(sweep, "trial")]
    for run, folder in [*runs, *((run, "dense") for run in children(sweep, "dense"))]:
        card = client.download_artifacts(run.info.run_id, f"{folder}/README.md", str(tmp_path))
        assert f"| test | {run.data.metrics['test_top1']:.2f} % |" in Path(card).read_text()


def test_the_parent_run_holds_values_figures_tables_and_reports(sweep: FinishedSweep) -> None:
    run = parent_run(sweep)
    assert run.info.run_name == "small"
    assert run.info.status == "FINISHED"
    assert run.data.params["finetune.epochs"] == "1"
    data, known = load_task("digits"), load_run(sweep.tracking_uri, "small")
    assert run.data.params["images.sha256"] == data.fingerprint()["sha256"]
    assert known.val_images == data.size("val")
    about = load_about(sweep.folder / "dense")
    assert known.dense is not None
    assert known.dense.val_top1 == about["val_top1"]
    assert known.dense.test_top1 == about["test_top1"]
    assert run.data.tags["version.torch"] == torch.__version__.partition("+")[0]
    client = MlflowClient(sweep.tracking_uri)
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert names >= {"front.html", "hypervolume.html", "structure.html", "reports"}
    assert names >= {"trials.csv", "front.csv", "transfer.csv", "judged.csv", "judged.html"}
    for kind in ("dense", "search"):
        (stage,) = children(sweep, kind)
        assert stage.info.status == "FINISHED"
        assert stage.data.metrics["val_top1"] > 0


def test_the_registered_model_of_the_dense_cost_is_the_best_of_the_front(
    sweep: FinishedSweep,
) -> None:
    client = MlflowClient(sweep.tracking_uri)
    version = client.get_model_version_by_alias("small", "macs-100")
    front = pd.read_csv(sweep.folder / "front.csv")
    best = front[front["val_top1"] == front["val_top1"].max()]
    assert int(version.tags["trial"]) in best["trial"].tolist()
    assert len(client.search_model_versions("name = 'small'")) == len(front)


def test_optuna_says_what_the_tables_say(sweep: FinishedSweep) -> None:
    journal = JournalFileBackend(str(sweep.folder / "state" / "study.journal"))
    study = optuna.load_study(study_name="budgets", storage=JournalStorage(journal))
    trials = sweep.trials
    assert [trial.state.name for trial in study.trials] == trials["state"].tolist()
    for trial, (_, row) in zip(study.trials, trials.iterrows(), strict=True):
        assert trial.values == [row["val_top1"], row["gmacs"]]
        assert trial.params == {name: row[name] for name in ("tokens", "mhsa", "mlp")}


def test_transfer_has_a_row_for_the_dense_model_and_each_network_of_the_front(
    sweep: FinishedSweep,
) -> None:
    transfer = pd.read_csv(sweep.folder / "transfer.csv", dtype={"trial": str})
    front = pd.read_csv(sweep.folder / "front.csv")["trial"].astype(str).tolist()
    assert transfer["trial"].tolist() == ["dense", *front]
    assert set(transfer["task"]) == {"mnist"}
    assert transfer["test_top1"].between(0, 100).all()
    runs = {run.data.params["trial"]: run for run in children(sweep, "transfer")}
    for _, row in transfer.iterrows():
        for name in ("gmacs", "params_m", "val_top1", "test_top1"):
            assert runs[row["trial"]].data.metrics[name] == row[name]
        if row["trial"] == "0":  # the same network
            assert row.drop("trial").equals(transfer.iloc[0].drop("trial"))
            assert runs["0"].data.metrics["seconds"] == 0


def test_the_budget_asked_is_the_budget_kept(sweep: FinishedSweep) -> None:
    checkpoint = slim.MaskCheckpoint.load(sweep.folder / "search")
    for _, row in sweep.trials.iterrows():
        budget = slim.Budget(row["tokens"], row["mhsa"], row["mlp"])
        architecture = checkpoint.select(budget)
        assert slim.count(architecture).macs / 1e9 == row["gmacs"]
        assert slim.load(sweep.folder / "models" / str(int(row["trial"]))).architecture == (
            architecture
        )


def test_the_configuration_is_enough_to_run_it_again(sweep: FinishedSweep) -> None:
    values = yaml.safe_load((sweep.folder / "config.yaml").read_text())
    assert values["name"] == "small"
    assert Path(values["storage"]).is_absolute()
    assert values["vit"]["embed_dim"] == 32


def test_the_terminal_shows_stages_front_and_the_mlflow_line(sweep: FinishedSweep) -> None:
    stages = ("dense: epoch 10/10", "search: epoch 1/1", "judge: 24/24", "sweep: trial")
    for words in (*stages, "left"):
        assert words in sweep.output
    assert "Pareto front" in sweep.output
    assert f"mlflow ui --backend-store-uri {sweep.tracking_uri}" in sweep.output
    assert "Traceback" not in sweep.output
    assert "WARNING" not in sweep.output


def test_resuming_a_finished_run_changes_nothing(
    sweep: FinishedSweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sweep.cwd)
    before = (sweep.folder / "trials.csv").read_bytes()
    assert run_sweep.main(["--resume", "small"]) == 0
    assert "is finished" in capsys.readouterr().out
    assert run_sweep.main(["--resume", "small", "--dry-run=json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"] == []
    assert (sweep.folder / "trials.csv").read_bytes() == before


def test_resuming_with_other_values_is_refused(
    sweep: FinishedSweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sweep.cwd)
    assert run_sweep.main(["--resume", "small", "--finetune.epochs", "2"]) == 2
    assert "finetune.epochs was 1, is 2" in capsys.readouterr().err
