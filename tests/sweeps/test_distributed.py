"""Two workers train a network as one does, in every stage and in a trial, through Ray."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray import tune
from safetensors.torch import load_file
from torch import distributed

import slim
from slim.evaluation import top1
from slim.kept_outputs import kept_bytes
from slim.processes import Processes
from slim.tasks import load_task
from slim.training import Epoch
from sweeps.broadcast import broadcast
from sweeps.cluster import resources_of
from sweeps.config import SweepConfig
from sweeps.dense import saved_preprocessing, train_dense
from sweeps.errors import InputError
from sweeps.masking import search_masks
from sweeps.pipeline import outage
from sweeps.repeats import RepeatJob, repeat_trial
from sweeps.sharing import share_weights
from sweeps.stage_config import DenseConfig, FinetuneConfig, SearchConfig, ShareConfig, VitConfig
from sweeps.stages import spread, stream
from sweeps.sweep import trainable
from sweeps.trial import TrialJob, keeps_outputs, train_budget
from sweeps.trials import COMPLETE, TrialRow

# SGD: Adam would hide a gradient that is too large by a factor.
PLAIN: dict[str, Any] = {"epochs": 2, "opt": "sgd", "batch_size": 32, "affine": False}
CONFIG = SweepConfig(
    data="digits",
    vit=VitConfig(img_size=8, patch_size=2, embed_dim=16, depth=2, num_heads=2),
    dense=DenseConfig(**PLAIN, lr=0.05, warmup_epochs=0.0),
    search=SearchConfig(**PLAIN, lr=0.05, mask_lr=0.05),
    share=ShareConfig(**PLAIN, lr=0.02, mixup=0.3),
    finetune=FinetuneConfig(**PLAIN, lr=0.05, accumulation=2),
)
STAGES = ("dense", "search", "share")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@dataclass(frozen=True)
class Trained:
    """The folder of every stage's network, and the epochs of every stage."""

    folder: Path
    epochs: dict[str, list[Epoch]]


@pytest.fixture(scope="module")
def alone(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tmp_path_factory.mktemp("alone"), workers=1)


@pytest.fixture(scope="module")
def together(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tmp_path_factory.mktemp("together"), workers=2)


def trained(folder: Path, workers: int) -> Trained:
    task = ray.put(load_task("digits"))
    folders = [folder / name for name in STAGES]
    functions = (train_dense, search_masks, share_weights)
    curves = {}
    for number, (name, function) in enumerate(zip(STAGES, functions, strict=True), 1):
        arguments = (CONFIG, task, *folders[:number], folder / f"{name}.pt")
        curves[name] = list(stream(function, *arguments, workers=workers, num_cpus=1))
    return Trained(folder, curves)


@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_curve_of_a_stage_is_that_of_one_worker(stage, alone, together) -> None:
    ours, theirs = together.epochs[stage], alone.epochs[stage]
    assert len(ours) == len(theirs) == 2
    assert [e.loss for e in ours] == pytest.approx([e.loss for e in theirs], abs=1e-4)
    assert theirs[1].loss < theirs[0].loss - 0.005  # so that it tells something


@pytest.mark.parametrize("stage", STAGES)
def test_the_weights_after_a_stage_are_those_of_one_worker(stage, alone, together) -> None:
    assert_same_weights(together.folder / stage, alone.folder / stage)


def test_the_accuracy_beside_the_dense_model_is_in_the_type_of_its_training(
    cluster: None, tmp_path: Path
) -> None:
    trained = replace(CONFIG, dense=DenseConfig(epochs=10, amp="bfloat16"))
    loaded = replace(trained, model=str(tmp_path / "trained"), dense=DenseConfig(amp="bfloat16"))
    task = load_task("digits")
    for name, config in (("trained", trained), ("loaded", loaded)):
        folder = tmp_path / name
        arguments = (config, ray.put(task), folder, tmp_path / f"{name}.pt")
        *_, last = stream(train_dense, *arguments, num_cpus=1)
        assert slim.serving.load_about(folder)["val_top1"] == last.val_top1
        seen = (slim.load(folder), task, "val", saved_preprocessing(folder))
        assert top1(*seen, amp="bfloat16") == last.val_top1 != top1(*seen)


def assert_same_weights(ours: Path, theirs: Path) -> None:
    files = [load_file(next(folder.glob("*.safetensors"))) for folder in (ours, theirs)]
    assert files[0].keys() == files[1].keys()
    for name, tensor in files[0].items():
        torch.testing.assert_close(tensor, files[1][name], rtol=1e-4, atol=1e-4)


def meeting(failing: int, how: str) -> Iterator[int]:
    """All sum their ranks; then one of them breaks off, and the others wait for it."""
    processes = Processes.current()
    yield int(processes.sums([processes.rank], "cpu")[0])
    if processes.rank == failing and how == "raises":
        raise LookupError(f"rank {failing} found nothing")
    if processes.rank == failing:
        os._exit(1)
    distributed.barrier()


def test_workers_meet_and_the_first_ones_word_is_heard(cluster: None) -> None:
    assert list(stream(meeting, -1, "", workers=2, num_cpus=1)) == [1]


@pytest.mark.parametrize("failing", [0, 1])
def test_what_one_worker_raises_ends_all(failing: int, cluster: None) -> None:
    with pytest.raises(LookupError, match=f"rank {failing} found nothing"):
        list(stream(meeting, failing, "raises", workers=2, num_cpus=1))


def test_a_trial_that_fits_no_cluster_is_refused_in_one_line(cluster: None) -> None:
    config = replace(CONFIG, workers_per_trial=3)
    with pytest.raises(InputError, match="a trial of 3 workers, each 1 CPUs and 0 GPUs does"):
        resources_of(config)


def test_workers_of_a_stage_share_the_cpus_of_the_cluster_equally(cluster: None) -> None:
    assert resources_of(CONFIG).stage == {"num_cpus": 2, "num_gpus": 0.0}
    pair = resources_of(replace(CONFIG, workers_per_trial=2))
    assert pair.stage == {"num_cpus": 1, "num_gpus": 0.0}
    assert pair.bundles == [{"CPU": 1, "GPU": 0.0}] * 2
    assert (resources_of(CONFIG).concurrency, pair.concurrency) == (2, 1)


def job_of(made: Path, folder: Path) -> TrialJob:
    checkpoint, dense = slim.MaskCheckpoint.load(made / "search"), slim.load(made / "dense")
    shared = broadcast(checkpoint, dense, load_task("digits"), saved_preprocessing(made / "dense"))
    return TrialJob(CONFIG, shared, folder / "1", folder / "states", folder / "stop")


def test_trials_follow_kept_outputs_of_the_dense_model_as_they_follow_the_model(
    alone: Trained, tmp_path: Path
) -> None:
    job, outputs = job_of(alone.folder, tmp_path), tmp_path / "outputs"
    proposal = {"number": 3, "tokens": 0.7, "mhsa": 0.5, "mlp": 0.5}
    kept = replace(job, models=tmp_path / "2", states=tmp_path / "other", outputs=outputs)
    curve = list(stream(train_budget, proposal, job, num_cpus=1))
    same = list(stream(train_budget, proposal, kept, num_cpus=1))
    assert [row["val_top1"] for row in same] == [row["val_top1"] for row in curve]
    weights = [load_file(tmp_path / f"{n}" / "3" / "model.safetensors") for n in (1, 2)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    steps = load_task("digits").steps_per_epoch(CONFIG.finetune.batch_size)
    shown = {path.name for path in outputs.iterdir()}
    assert len(shown) == CONFIG.finetune.epochs * steps * CONFIG.finetune.accumulation
    other = proposal | {"number": 4, "mlp": 0.8}
    list(stream(train_budget, other, kept, num_cpus=1))
    assert {path.name for path in outputs.iterdir()} == shown


DENSE_TRIAL = {"number": 0, "tokens": 1.0, "mhsa": 1.0, "mlp": 1.0}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_dense_budget_is_the_dense_model_as_it_stands(
    workers: int, alone: Trained, tmp_path: Path
) -> None:
    job = job_of(alone.folder, tmp_path)
    job = replace(job, config=replace(CONFIG, max_latency_ms=1e-6))
    (row,) = stream(train_budget, DENSE_TRIAL, job, workers=workers, num_cpus=1)
    about = slim.serving.load_about(alone.folder / "dense")
    saved = slim.serving.load_about(tmp_path / "1" / "0")
    assert row["whole"]
    assert row["epochs"] == saved["epochs"] == 0
    assert row["val_top1"] == saved["val_top1"] == about["val_top1"]
    assert row["latency_ms"] == saved["latency_ms"] > 1e-6
    files = [folder / "model.safetensors" for folder in (alone.folder / "dense", tmp_path / "1/0")]
    dense, standing = map(load_file, files)
    assert all(torch.equal(tensor, standing[name]) for name, tensor in dense.items())


@pytest.mark.parametrize("asked", ["finetune.dense", "a repeat"])
def test_the_dense_budget_is_trained_where_that_is_asked(
    asked: str, alone: Trained, tmp_path: Path
) -> None:
    job, again = job_of(alone.folder, tmp_path), {"repeat": 1}
    if asked == "finetune.dense":
        finetune, again = replace(CONFIG.finetune, dense=True), {}
        job = replace(job, config=replace(CONFIG, finetune=finetune))
    curve = list(stream(train_budget, DENSE_TRIAL | again, job, num_cpus=1))
    assert [row["epochs"] for row in curve] == [0, 1, 2]
    assert not any("whole" in row for row in curve)


def test_outputs_are_kept_where_they_are_small_enough() -> None:
    task = load_task("digits")
    options = CONFIG.finetune
    seen, part = task.size("train") * options.epochs, options.batch_size // options.accumulation
    size = kept_bytes(seen, task.num_classes, part)
    for repeats, room, kept in ((1, 1.01, True), (1, 0.99, False), (2, 1.01, False)):
        config = replace(CONFIG, kept_outputs_gb=room * size / 1e9, repeats=repeats)
        assert keeps_outputs(config, task) == kept
    plain = replace(CONFIG, finetune=replace(CONFIG.finetune, distillation=0.0))
    assert not keeps_outputs(plain, task)


def test_a_trial_of_two_workers_in_ray_tune_gives_the_network_of_one(
    alone: Trained, tmp_path: Path
) -> None:
    proposal = {"number": 3, "tokens": 0.7, "mhsa": 0.5, "mlp": 0.5}
    job = job_of(alone.folder, tmp_path)
    curve = list(stream(train_budget, proposal, job, num_cpus=1))
    shutil.rmtree(tmp_path / "states")  # else the pair would go on from it
    pair = replace(CONFIG, workers_per_trial=2)
    tuner = tune.Tuner(
        trainable(replace(job, config=pair, models=tmp_path / "2"), [{"CPU": 1}] * 2),
        param_space=proposal,
        run_config=tune.RunConfig(storage_path=str(tmp_path / "tune"), verbose=0),
    )
    (result,) = tuner.fit()
    assert result.error is None
    for name in ("epochs", "val_top1"):
        assert result.metrics[name] == pytest.approx(curve[-1][name], abs=0.5)
    assert_same_weights(tmp_path / "2" / "3", tmp_path / "1" / "3")


def test_a_worker_that_dies_ends_all_and_the_run_in_one_line(cluster: None) -> None:
    with pytest.raises(ray.exceptions.WorkerCrashedError) as crash:
        list(stream(meeting, 1, "dies", workers=2, num_cpus=1))
    assert outage(crash.value, "disk or server").startswith("Ray gave up: WorkerCrashedError: ")
    with pytest.raises(LookupError) as bug:
        list(stream(meeting, 0, "raises", workers=1, num_cpus=1))
    assert outage(bug.value, "disk or server") == ""


def test_a_repeat_is_trained_by_the_workers_of_a_trial(alone: Trained, tmp_path: Path) -> None:
    row = TrialRow(3, COMPLETE, 0.7, 0.5, 0.5, 0.1, 0.1, 50.0, 50.0, 2, 1.0)
    rows = []
    for workers in (1, 2):
        config, folder = replace(CONFIG, workers_per_trial=workers), tmp_path / str(workers)
        shared = replace(job_of(alone.folder, folder), config=config)
        jobs = [(RepeatJob(row, 1, folder), shared)]
        ((_, repeat),) = spread(repeat_trial, jobs, 1, workers=workers, num_cpus=1)
        rows.append(repeat)
    one, pair = rows
    assert (one.trial, one.repeat, one.epochs) == (pair.trial, pair.repeat, pair.epochs)
    assert (pair.trial, pair.repeat, pair.epochs) == (3, 1, 2)
    assert pair.test_top1 == pytest.approx(one.test_top1, abs=0.5)
    assert_same_weights(*(tmp_path / str(workers) / "3-1" for workers in (1, 2)))


def dying_once(mark: Path, job: int) -> Iterator[int]:
    """The second of two workers dies the first time."""
    yield 0
    if Processes.current().rank and not mark.exists():
        mark.touch()
        os._exit(1)
    distributed.barrier()
    yield job


def test_a_job_of_two_workers_that_lost_one_is_run_again(cluster: None, tmp_path: Path) -> None:
    jobs = [(tmp_path / "a", 5), (tmp_path / "b", 6)]
    how = {"retries": 1, "workers": 2, "num_cpus": 1}
    assert sorted(spread(dying_once, jobs, 1, **how)) == [(0, 5), (1, 6)]
    ((_, lost),) = spread(dying_once, [(tmp_path / "c", 7)], 1, **how | {"retries": 0})
    assert isinstance(lost, ray.exceptions.RayError)


def test_a_stage_has_workers_of_its_own(cluster: None) -> None:
    shared = resources_of(replace(CONFIG, workers_per_stage=2))
    assert shared.stage == {"num_cpus": 1, "num_gpus": 0.0}
    assert (shared.workers_per_stage, shared.concurrency, shared.workers) == (2, 2, 2)
    shared.check_stage()
    assert resources_of(replace(CONFIG, workers_per_trial=2)).workers == 2
    too_many = resources_of(replace(CONFIG, workers_per_stage=3))
    with pytest.raises(InputError, match="a stage of 3 workers, each 1 CPUs and 0 GPUs, does not"):
        too_many.check_stage()
