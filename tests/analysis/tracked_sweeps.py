"""Writes made-up sweeps into a real MLflow, in the layout that the sweep writes."""

import json
from dataclasses import dataclass, field

import timm
import torch
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.entities import Run as MlflowRun

import slim

EXPERIMENT = "vit-slim"


@dataclass(frozen=True)
class Trial:
    """One trial to write; `curve` is the validation top-1 after each epoch, `reason` why it did
    not complete."""

    trial: int
    budget: slim.Budget
    state: str = "COMPLETE"
    curve: tuple[float, ...] = ()
    test_top1: float | None = None
    seconds: float | None = None
    front: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Transferred:
    """One transfer run to write; `trial` is a number or `dense`."""

    task: str
    trial: str
    method: str
    seed: int
    test_top1: float


@dataclass(frozen=True)
class Sweep:
    """One sweep to write; `judged` has budgets with their untrained val_top1."""

    name: str
    trials: tuple[Trial, ...] = ()
    transfer: tuple[Transferred, ...] = ()
    stages: dict[str, float] = field(default_factory=dict)
    status: str = "FINISHED"
    judged: tuple[tuple[slim.Budget, float], ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)


def tiny_checkpoint() -> slim.MaskCheckpoint:
    """Random masks on a ViT of 6 blocks, 2 heads of 8 dimensions, 64 MLP units, 4 x 4 patches."""
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "num_heads": 2, "depth": 6}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, **sizes)
    masked = slim.attach_masks(model)
    for mask in masked.mask_parameters().values():
        torch.nn.init.uniform_(mask, 0.1, 1)
    return slim.MaskCheckpoint.from_model(masked)


def write_sweep(client: MlflowClient, checkpoint: slim.MaskCheckpoint, sweep: Sweep) -> str:
    """Write a sweep; returns the parent's run id."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    parent = client.create_run(
        experiment.experiment_id, tags={"kind": "sweep"}, run_name=sweep.name
    )
    params = {"model": "vit_tiny_patch16_224", "data": "mnist", "search.epochs": "3"}
    _log(client, parent, params=params, metrics=sweep.metrics)
    if sweep.judged:
        client.log_text(parent.info.run_id, _judged_csv(checkpoint, sweep), "judged.csv")
    for kind, seconds in sweep.stages.items():
        child = _start(client, parent, kind)
        _log(client, child, metrics={"seconds": seconds, "val_top1": 90.0})
        client.set_terminated(child.info.run_id)
    for trial in sweep.trials:
        _write_trial(client, parent, checkpoint, trial)
    for transferred in sweep.transfer:
        _write_transferred(client, parent, checkpoint, transferred)
    if sweep.status != "RUNNING":
        client.set_terminated(parent.info.run_id, sweep.status)
    return parent.info.run_id


def _write_trial(
    client: MlflowClient, parent: MlflowRun, checkpoint: slim.MaskCheckpoint, trial: Trial
) -> None:
    tags = {"trial": str(trial.trial)} | ({"front": "true"} if trial.front else {})
    if trial.state != "RUNNING":
        tags["state"] = trial.state
    if trial.reason:
        tags["reason"] = trial.reason
    run = _start(client, parent, "trial", tags)
    budget = trial.budget
    _log(client, run, params={n: str(getattr(budget, n)) for n in ("tokens", "mhsa", "mlp")})
    if trial.state == "FAILED":
        client.set_terminated(run.info.run_id, "FAILED")
        return
    architecture = checkpoint.select(budget)
    text = json.dumps(architecture.to_json())
    client.log_text(run.info.run_id, text, "architecture.json")
    metrics = {"epochs": float(len(trial.curve)), **_cost(architecture)}
    metrics |= {} if trial.test_top1 is None else {"test_top1": trial.test_top1}
    metrics |= {} if trial.seconds is None else {"seconds": trial.seconds}
    _log(client, run, metrics=metrics, curve=trial.curve)
    if trial.state != "RUNNING":
        client.set_terminated(
            run.info.run_id, "FINISHED" if trial.state == "COMPLETE" else "KILLED"
        )


def _judged_csv(checkpoint: slim.MaskCheckpoint, sweep: Sweep) -> str:
    lines = ["tokens,mhsa,mlp,gmacs,params_m,val_top1,seconds"]
    for budget, top1 in sweep.judged:
        cost = _cost(checkpoint.select(budget))
        values = [budget.tokens, budget.mhsa, budget.mlp, *cost.values(), top1, 2.0]
        lines.append(",".join(map(str, values)))
    return "\n".join(lines) + "\n"


def _write_transferred(
    client: MlflowClient,
    parent: MlflowRun,
    checkpoint: slim.MaskCheckpoint,
    transferred: Transferred,
) -> None:
    run = _start(client, parent, "transfer")
    names = ("task", "trial", "method", "seed")
    share = 1.0 if transferred.trial == "dense" else 1 / (1 + int(transferred.trial))
    cost = _cost(checkpoint.select(slim.Budget(mlp=share)))
    metrics = {"test_top1": transferred.test_top1, "val_top1": 1.0, "seconds": 5.0, **cost}
    params = {name: str(getattr(transferred, name)) for name in names}
    _log(client, run, params=params, metrics=metrics)
    client.set_terminated(run.info.run_id)


def _cost(architecture: slim.Architecture) -> dict[str, float]:
    cost = slim.count(architecture)
    return {"gmacs": cost.macs / 1e9, "params_m": cost.params / 1e6}


def _start(
    client: MlflowClient, parent: MlflowRun, kind: str, tags: dict[str, str] | None = None
) -> MlflowRun:
    tags = {"mlflow.parentRunId": parent.info.run_id, "kind": kind} | (tags or {})
    return client.create_run(parent.info.experiment_id, tags=tags)


def _log(
    client: MlflowClient,
    run: MlflowRun,
    params: dict[str, str] | None = None,
    metrics: dict[str, float] | None = None,
    curve: tuple[float, ...] = (),
) -> None:
    logged = [Metric(name, value, 0, 0) for name, value in (metrics or {}).items()]
    logged += [Metric("val_top1", value, epoch, epoch) for epoch, value in enumerate(curve, 1)]
    pairs = [Param(name, value) for name, value in (params or {}).items()]
    client.log_batch(run.info.run_id, metrics=logged, params=pairs)
