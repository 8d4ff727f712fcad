"""What a thousand trials cost the driver: its time and memory per trial, and the sampler's time.

    python benchmarks/scale.py --trials 1000              # the driver's own work, without workers
    python benchmarks/scale.py --trials 1000 --nodes 16   # through Ray Tune, on simulated nodes
    python benchmarks/scale.py --samplers                 # seconds per ask of TPE and GP

Trials cost nothing: each reports what a formula says. Study, recorder, tables and MLflow (SQLite)
are those of a run. Times are processor time of the driver, so that other load does not count; what
the thread that writes to MLflow takes for a trial's messages is counted to that trial, whenever it
comes to them.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import optuna
import psutil
import timm
import torch
from machine import machine
from mlflow.tracking import MlflowClient
from ray import tune
from ray.cluster_utils import Cluster

import slim
import sweeps.sweep
from slim import Budget, MaskCheckpoint
from sweeps.cluster import connect
from sweeps.config import JudgeConfig, SweepConfig
from sweeps.judged import JudgedStudy
from sweeps.outbox import Message
from sweeps.recorder import Recorder, run_of
from sweeps.run_folder import RunFolder
from sweeps.space import BudgetSpace
from sweeps.stopping import StopRequest
from sweeps.study import BudgetStudy
from sweeps.sweep import sweep_budgets
from sweeps.tracking import Tracker

EPOCHS = 1


@dataclass
class Clock:
    """The driver's processor seconds and memory (bytes) when trials began.

    `seconds` are those of all its threads but the one that writes to MLflow, whose seconds are in
    `delivery` by the key of the run they were spent on, and all together in `delivered`.
    """

    seconds: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    delivery: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    delivered: float = 0.0

    def note(self) -> None:
        """A trial begins."""
        self.seconds.append(time.process_time() - self.delivered)
        self.memory.append(psutil.Process().memory_info().rss)

    def timed(self, send: Callable[[Message], None]) -> Callable[[Message], None]:
        """Sending, with its seconds noted."""

        def sending(message: Message) -> None:
            began = time.thread_time()
            try:
                send(message)
            finally:
                taken = time.thread_time() - began
                self.delivery[message.run] += taken
                self.delivered += taken

        return sending

    def per_trial(self, around: int, window: int = 50) -> tuple[float, float]:
        """Seconds per trial near a trial number: on deciding and recording, and on MLflow."""
        first, last = max(0, around - window), min(len(self.seconds) - 1, around)
        told = sum(self.delivery[run_of(number)] for number in range(first, last))
        return (self.seconds[last] - self.seconds[first]) / (last - first), told / (last - first)

    def growth(self, since: int = 100) -> float:
        """Bytes of memory per trial."""
        return (self.memory[-1] - self.memory[since]) / (len(self.memory) - 1 - since)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=0)
    parser.add_argument("--samplers", action="store_true")
    options = parser.parse_args()
    print(machine())
    if options.samplers:
        show_samplers()
        return
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), options.trials, options.nodes)


def run(cwd: Path, trials: int, nodes: int) -> None:
    """Drive so many trials, and print what they cost."""
    clock, tracker, recorder, study, folder = set_up(cwd, trials)
    if nodes:
        through_tune(study, recorder, folder, nodes)
    else:
        without_workers(study, recorder)
    clock.note()
    tracker.flush(600)
    for at in sorted({100, *range(200, trials, 200), trials}):
        driver, told = clock.per_trial(at)
        print(f"at trial {at}: {driver * 1e3:.1f} ms, and {told * 1e3:.1f} ms on MLflow")
    early, late = sum(clock.per_trial(100)), sum(clock.per_trial(trials))
    print(f"driver per trial: {early * 1e3:.0f} ms at 100, {late * 1e3:.0f} ms at {trials}")
    print(f"ratio {late / early:.2f}; memory {clock.growth() / 1e3:.0f} kB a trial")
    client, rows, token = MlflowClient(f"sqlite:///{cwd}/mlflow.db"), 0, None
    while token != "":
        page = client.search_runs([tracker.experiment], "tags.kind = 'trial'", page_token=token)
        rows += sum(run.info.status == "FINISHED" for run in page)
        token = page.token or ""
    print(f"{rows} of {trials} trials are FINISHED in MLflow")


def set_up(cwd: Path, trials: int) -> tuple[Clock, Tracker, Recorder, BudgetStudy, RunFolder]:
    """The parts of a run, on a checkpoint that was never trained."""
    alone = JudgeConfig(budgets=0, extra_trials=0)
    config = SweepConfig(method="retrain", trials=trials, storage=str(cwd / "runs"), judge=alone)
    folder, checkpoint = RunFolder.create(config, "scale"), tiny()
    clock, tracker = Clock(), Tracker(f"sqlite:///{cwd}/mlflow.db", folder.path)
    tracker.delivery.send = clock.timed(tracker.delivery.send)
    tracker.begin("scale")
    space = BudgetSpace(config, checkpoint.spec, checkpoint.ranking)
    folder.state.mkdir(exist_ok=True)
    judged = JudgedStudy(folder.journal, config, space)
    study = BudgetStudy(folder.journal, config, space, judged, 100.0)

    def watch(event: str, number: int, figures: dict[str, Any]) -> None:
        if event == "started":
            clock.note()

    network = torch.zeros(1000).numpy().tobytes()
    for number in range(trials):
        (folder.models / str(number)).mkdir(parents=True)
        (folder.models / str(number) / "model.safetensors").write_bytes(network)
    stop = StopRequest(folder.stop)
    recorder = Recorder(study, tracker, folder, checkpoint, EPOCHS, None, watch, stop)
    return clock, tracker, recorder, study, folder


def tiny() -> MaskCheckpoint:
    """Of a ViT with DeiT-S's number of blocks and heads."""
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", embed_dim=48, num_heads=6, img_size=64, num_classes=10
    )
    return slim.MaskCheckpoint.from_model(slim.attach_masks(vit))


def figures(proposal: dict[str, Any]) -> dict[str, Any]:
    """What a trial reports: the more is kept, the better."""
    kept = (proposal["tokens"] + proposal["mhsa"] + proposal["mlp"]) / 3
    accuracy = 80 * kept**0.1 + proposal["number"] % 7 / 10
    row = {"gmacs": kept, "params_m": kept, "val_top1": accuracy, "epochs": 1, "seconds": 0.0}
    return row | {"curve": [accuracy]}


def report_figures(proposal: dict[str, Any], job: Any) -> None:
    tune.report(figures(proposal))


def without_workers(study: BudgetStudy, recorder: Recorder) -> None:
    """Call what Ray Tune calls, in its order."""
    while (proposal := study.ask()) is not None:
        budget: Budget = proposal.budget
        values = {"tokens": budget.tokens, "mhsa": budget.mhsa, "mlp": budget.mlp}
        config = {"number": proposal.number} | values
        trial: Any = SimpleNamespace(config=config, last_result=figures(config), error_file=None)
        recorder.on_trial_start(0, [], trial)
        recorder.on_trial_result(0, [], trial, trial.last_result)
        recorder.on_trial_complete(0, [], trial)


def through_tune(study: BudgetStudy, recorder: Recorder, folder: RunFolder, nodes: int) -> None:
    """A real sweep on nodes of one CPU."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(nodes):
        cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    config = SweepConfig(cluster=cluster.address)
    job: Any = SimpleNamespace(config=config)
    with (
        connect(config) as resources,
        mock.patch.object(sweeps.sweep, "run_trial", report_figures),
    ):
        sweep_budgets(job, study, recorder, None, resources, folder, False)
    cluster.shutdown()


def show_samplers() -> None:
    """Seconds per ask after so many trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kinds = {
        "TPE": optuna.samplers.TPESampler(seed=0, multivariate=True),
        "GP": optuna.samplers.GPSampler(seed=0),
    }
    for name, sampler in kinds.items():
        for told in (30, 100, 300) + ((1000,) if name == "TPE" else ()):
            seconds = ask_seconds(sampler, told)
            print(f"{name} after {told} trials: {seconds * 1e3:.0f} ms per ask")


def ask_seconds(sampler: optuna.samplers.BaseSampler, told: int, asks: int = 2) -> float:
    space = {
        name: optuna.distributions.FloatDistribution(0.1, 1) for name in ("tokens", "mhsa", "mlp")
    }
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    random = np.random.default_rng(0)
    for number in range(told):
        params = dict(zip(space, random.uniform(0.1, 1, 3).tolist(), strict=True))
        row = figures({"number": number} | params)
        values = [row["val_top1"], row["gmacs"]]
        study.add_trial(optuna.create_trial(params=params, distributions=space, values=values))
    study.ask(space)
    began = time.process_time()
    for _ in range(asks):
        study.ask(space)
    return (time.process_time() - began) / asks


if __name__ == "__main__":
    main()
