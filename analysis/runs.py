"""Where a run is read from MLflow into frames: nothing else of this package talks to MLflow."""

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import mlflow.entities
import pandas as pd
import yaml
from mlflow import MlflowClient

import slim
from analysis import wording
from analysis.errors import RunNotFoundError
from slim.subnetwork import architecture_of

EXPERIMENT = "vit-slim"
TRIALS = {
    "trial": "int64",
    "state": "str",
    "tokens": "float64",
    "mhsa": "float64",
    "mlp": "float64",
    "gmacs": "float64",
    "params_m": "float64",
    "val_top1": "float64",
    "test_top1": "float64",
    "trainings": "float64",
    "val_top1_mean": "float64",
    "val_top1_std": "float64",
    "test_top1_mean": "float64",
    "test_top1_std": "float64",
    "epochs": "float64",
    "seconds": "float64",
    "latency_ms": "float64",
    "front": "bool",
    "reason": "str",
    "run_id": "str",
    "url": "str",
}
EPOCHS = {"trial": "int64", "epoch": "int64", "val_top1": "float64"}
TRANSFER = {
    "task": "str",
    "trial": "str",
    "method": "str",
    "seed": "float64",
    "gmacs": "float64",
    "params_m": "float64",
    "val_top1": "float64",
    "test_top1": "float64",
}
STAGES = {
    "kind": "str",
    "status": "str",
    "seconds": "float64",
    "val_top1": "float64",
    "test_top1": "float64",
    "gmacs": "float64",
    "params_m": "float64",
    "run_id": "str",
}
_JUDGED = ("tokens", "mhsa", "mlp", "gmacs", "params_m", "val_top1", "seconds")
JUDGED = dict.fromkeys(_JUDGED, "float64")
_ended: dict[tuple[str, str, int], "Run"] = {}  # the last one read: notebooks share a process
_STATES = {"FINISHED": "COMPLETE", "KILLED": "PRUNED"}


class DenseModel(NamedTuple):
    """What a sweep began with: 1e9 MACs and 1e6 parameters, top-1 in percent, NaN if not known."""

    gmacs: float
    params_m: float
    val_top1: float
    test_top1: float


def saved_dense(folder: Path) -> DenseModel:
    """That of a run's folder, `RUN/dense`."""
    cost, about = slim.count(architecture_of(slim.load(folder))), slim.serving.load_about(folder)
    accuracies = (float(about.get(name, math.nan)) for name in ("val_top1", "test_top1"))
    return DenseModel(cost.macs / 1e9, cost.params / 1e6, *accuracies)


@dataclass(frozen=True)
class Run:
    """One sweep as MLflow holds it; a value that was not logged is NaN.

    Args:
        name: The sweep's name.
        run_id: MLflow's id of the parent run.
        status: MLflow's status of the parent run; RUNNING while the sweep goes on.
        params: The sweep's configuration as it ended, flattened, as text.
        metrics: Of the sweep as a whole.
        trials: One row per trial in order of number. `*_top1` in percent, `gmacs` in 1e9 MACs and
            `params_m` in 1e6 parameters for one image; `latency_ms` is of one image,
            where it was measured; `trainings`, `*_mean` and `*_std` (points)
            are of the same budget trained several times; `reason` is why it did not complete,
            `url` the run's page, or missing when the tracking store is no server.
        epochs: Validation top-1 (%) of each trial after each epoch.
        transfer: One row per task, network, method and seed; `trial` is a number or `dense`.
        stages: One row per child run that is not a trial: kind dense, search, share or
            transfer.
        judged: One row per budget that was judged without training, with the columns of
            `judged.csv`; none where the sweep judged nothing.
        architectures: By trial; trials without `architecture.json` are left out.
    """

    name: str
    run_id: str
    status: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    trials: pd.DataFrame
    epochs: pd.DataFrame
    transfer: pd.DataFrame
    stages: pd.DataFrame
    judged: pd.DataFrame
    architectures: dict[int, slim.Architecture]

    @property
    def dense(self) -> DenseModel | None:
        """The dense model as it was loaded or trained before the search; None if not known.

        Trial 0 has the dense budget too: it is this model, or trained as all trials are.
        """
        known = self.stages[(self.stages["kind"] == "dense") & self.stages["val_top1"].notna()]
        if known.empty or not self.architectures:
            return None
        spec = next(iter(self.architectures.values())).spec
        cost, last = slim.count(slim.Architecture.dense(spec)), known.iloc[-1]
        accuracies = (float(last[name]) for name in ("val_top1", "test_top1"))
        return DenseModel(cost.macs / 1e9, cost.params / 1e6, *accuracies)

    @property
    def val_images(self) -> int | None:
        """Images of the source task's val split; None where an earlier version did not log it."""
        told = self.params.get("images.val")
        return int(told) if told else None

    @property
    def num_classes(self) -> int | None:
        """Classes of the source task; None where no architecture tells."""
        for architecture in self.architectures.values():
            return architecture.spec.num_classes
        return None


def load_run(tracking_uri: str, name: str) -> Run:
    """Read a sweep from MLflow; the newest, if several have the name.

    A sweep that has ended is read once, as long as no other is read.

    Args:
        tracking_uri: As MLflow takes it, for example `sqlite:///mlflow.db` or a server's address.
        name: The sweep's name, or MLflow's id of its run.

    Raises:
        RunNotFoundError: If no sweep of that name is there.
        slim.FileFormatError: If an `architecture.json`, `judged.csv` or `config.yaml` is damaged.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    parent = _find_parent(client, tracking_uri, name)
    ended = (tracking_uri, parent.info.run_id, parent.info.end_time or 0)
    if parent.info.status == "RUNNING" or ended not in _ended:
        _ended.clear()
        _ended[ended] = _read(client, tracking_uri, parent)
    return _ended[ended]


def _read(client: MlflowClient, tracking_uri: str, parent: mlflow.entities.Run) -> Run:
    experiment, parent_id = parent.info.experiment_id, parent.info.run_id
    tagged = f"tags.`mlflow.parentRunId` = '{parent_id}'"
    children = list(_search(client, experiment, tagged))
    trials = [child for child in children if child.data.tags.get("kind") == "trial"]
    trials.sort(key=_number)
    page = f"{tracking_uri.rstrip('/')}/#/experiments/{experiment}/runs/"
    is_server = tracking_uri.startswith(("http://", "https://"))
    left = {artifact.path for artifact in client.list_artifacts(parent_id)}
    return Run(
        name=parent.info.run_name,
        run_id=parent_id,
        status=parent.info.status,
        params=dict(parent.data.params) | _read_config(client, parent_id, left),
        metrics=dict(parent.data.metrics),
        trials=_frame(TRIALS, [_trial_row(run, page if is_server else None) for run in trials]),
        epochs=_frame(EPOCHS, [row for run in trials for row in _epoch_rows(client, run)]),
        transfer=_frame(TRANSFER, _rows_of_kind(children, "transfer", TRANSFER)),
        stages=_frame(STAGES, _stage_rows(children)),
        judged=_read_judged(client, parent_id, left),
        architectures=_read_architectures(client, trials),
    )


def find_run(tracking_uri: str, name: str) -> str:
    """MLflow's id of a sweep by its name or that id; of the newest, if several have the name.

    Raises:
        RunNotFoundError: If no sweep of that name is there.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    run_id: str = _find_parent(client, tracking_uri, name).info.run_id
    return run_id


def run_sentence(run: Run) -> str:
    """What was run and how far it got, in Markdown."""
    told = [f"Run **{wording.escaped(run.name)}**"]
    if "model" in run.params:
        told.append(f"slims {wording.escaped(Path(run.params['model']).name)}")
    if "data" in run.params:
        told.append(f"on {wording.escaped(data_name(run.params['data']))}")
    counts = run.trials["state"].value_counts()
    states = [f"{counts[state]} {state.lower()}" for state in sorted(counts.index)]
    trials = wording.counted(len(run.trials), "trial") if len(run.trials) else "no trial yet"
    ended = " It is still running." if run.status == "RUNNING" else ""
    return " ".join(told) + f": {trials}{f' ({wording.listed(states)})' if states else ''}.{ended}"


def data_name(data: str) -> str:
    """A data set without the folder that it lies in: of `torch/cifar10:FOLDER` the `cifar10`."""
    return Path(data.partition(":")[0]).name


def _find_parent(client: MlflowClient, tracking_uri: str, name: str) -> mlflow.entities.Run:
    """The newest sweep of that name or id; compared here, so that any text is safe."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        for run in _search(client, experiment.experiment_id, "tags.kind = 'sweep'"):
            if name in (run.info.run_name, run.info.run_id):
                return run
    raise RunNotFoundError(
        f"no sweep named {name!r} in experiment {EXPERIMENT} at {tracking_uri}; "
        "check the name and the tracking URI"
    )


def _search(
    client: MlflowClient, experiment: str, condition: str
) -> Iterator[mlflow.entities.Run]:
    """All runs that meet a condition, newest first, page by page."""
    token = None
    while True:
        page = client.search_runs(
            [experiment],
            filter_string=condition,
            max_results=1000,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _frame(columns: dict[str, str], rows: list[dict[str, object]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)


def _number(run: mlflow.entities.Run) -> int:
    return int(run.data.tags["trial"])


def _trial_row(run: mlflow.entities.Run, page: str | None) -> dict[str, object]:
    tags, params = run.data.tags, run.data.params
    status = run.info.status
    return {
        "trial": _number(run),
        "state": tags.get("state") or _STATES.get(status, status),
        **{name: float(params.get(name, math.nan)) for name in ("tokens", "mhsa", "mlp")},
        **_with_trainings(run.data.metrics),
        "front": tags.get("front") == "true",
        "reason": tags.get("reason", ""),
        "run_id": run.info.run_id,
        "url": None if page is None else page + run.info.run_id,
    }


def _with_trainings(metrics: dict[str, float]) -> dict[str, float]:
    """A trial's metrics; where an earlier version did not say how often it was trained, twice."""
    repeated = "val_top1_std" in metrics and "trainings" not in metrics
    return metrics | ({"trainings": 2.0} if repeated else {})


def _epoch_rows(client: MlflowClient, run: mlflow.entities.Run) -> list[dict[str, object]]:
    """A trial's validation history; of several values at one epoch the last counts."""
    if "val_top1" not in run.data.metrics:
        return []
    history = client.get_metric_history(run.info.run_id, "val_top1")
    last = {metric.step: metric.value for metric in history}
    return [
        {"trial": _number(run), "epoch": step, "val_top1": last[step]} for step in sorted(last)
    ]


def _rows_of_kind(
    children: list[mlflow.entities.Run], kind: str, columns: dict[str, str]
) -> list[dict[str, object]]:
    """Params and metrics of the children of a kind, oldest first."""
    runs = [run for run in reversed(children) if run.data.tags.get("kind") == kind]
    values = [{**run.data.params, **run.data.metrics} for run in runs]
    return [{name: row[name] for name in columns if name in row} for row in values]


def _stage_rows(children: list[mlflow.entities.Run]) -> list[dict[str, object]]:
    return [
        {
            **run.data.metrics,
            "kind": run.data.tags["kind"],
            "status": run.info.status,
            "run_id": run.info.run_id,
        }
        for run in reversed(children)
        if run.data.tags.get("kind") in ("dense", "search", "share", "transfer")
    ]


def _read_config(client: MlflowClient, parent: str, left: set[str]) -> dict[str, str]:
    """The configuration that a sweep left with its run: MLflow keeps parameters as they were
    first, and a resumed sweep may have others."""
    if "config.yaml" not in left:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = client.download_artifacts(parent, "config.yaml", folder)
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (ValueError, yaml.YAMLError) as error:
            raise slim.FileFormatError(f"config.yaml is damaged: {error}") from error
    if not isinstance(values, dict):
        raise slim.FileFormatError("config.yaml is damaged: it holds no names with values")
    flat = pd.json_normalize(values).iloc[0]
    return {str(name): str(value) for name, value in flat.items()}


def _read_judged(client: MlflowClient, parent: str, left: set[str]) -> pd.DataFrame:
    """The table that judging left with the parent run; empty where there is none."""
    if "judged.csv" not in left:
        return _frame(JUDGED, [])
    with tempfile.TemporaryDirectory() as folder:
        table = pd.read_csv(client.download_artifacts(parent, "judged.csv", folder))
    missing = sorted(set(JUDGED) - set(table.columns))
    if missing:
        raise slim.FileFormatError(f"judged.csv has no column {missing[0]}")
    return table.astype(JUDGED)


def _read_architectures(
    client: MlflowClient, trials: list[mlflow.entities.Run]
) -> dict[int, slim.Architecture]:
    architectures = {}
    with tempfile.TemporaryDirectory() as folder:
        for run in trials:
            names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
            if "architecture.json" in names:
                path = client.download_artifacts(run.info.run_id, "architecture.json", folder)
                architectures[_number(run)] = _read_architecture(Path(path))
    return architectures


def _read_architecture(path: Path) -> slim.Architecture:
    try:
        return slim.Architecture.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise slim.FileFormatError(f"{path.name} is not JSON: {error}") from error
