"""What a run shows: figures, tables and notebook reports, in its folder and in MLflow."""

from dataclasses import asdict
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from analysis import wording
from analysis.hypervolume import draw_hypervolume, hypervolume_data
from analysis.judged import draw_judged
from analysis.pareto_front import FrontData, draw_front, front_data, front_sentence
from analysis.reports import make_reports
from analysis.runs import saved_dense
from analysis.structure import draw_structure, structure_data
from slim import Budget, MaskCheckpoint, count
from slim.files import write_text_atomic
from slim.serving import load_about
from sweeps.front import pareto_front
from sweeps.judged import JudgedRow
from sweeps.recorder import run_of
from sweeps.run_folder import RunFolder
from sweeps.served_models import ARTIFACT, register_front, save_served
from sweeps.tracking import Tracker
from sweeps.trials import TransferRow, TrialRow, write_table

MOST_NOTED = 40
"""Networks that a run's description lists; MLflow takes no description of any length."""


def publish_front(
    tracker: Tracker, folder: RunFolder, rows: list[TrialRow], checkpoint: MaskCheckpoint
) -> None:
    """Write front.html, and log description, tables and figures with the sweep's run."""
    trials = pd.DataFrame([asdict(row) for row in rows])
    front = front_data(trials, saved_dense(folder.dense))
    write_text_atomic(folder.path / "front.html", _page(draw_front(front)))
    val_images = load_about(folder.dense)["data"]["val"]
    tracker.tags(tracker.parent, {MLFLOW_RUN_NOTE: front_note(front, val_images)})
    for name in ("front.html", "front.csv", "trials.csv", "config.yaml"):
        tracker.artifact(tracker.parent, folder.path / name)
    volume = hypervolume_data(trials, checkpoint.spec.num_classes)
    tracker.text(tracker.parent, "hypervolume.html", _page(draw_hypervolume(volume)))
    totals = {"front_networks": len(front.front), "hypervolume": max(volume.value, default=0.0)}
    tracker.metrics(tracker.parent, totals)
    architectures = {
        row.trial: checkpoint.select(Budget(row.tokens, row.mhsa, row.mlp))
        for row in pareto_front(rows)
    }
    structure = draw_structure(structure_data(architectures))
    tracker.text(tracker.parent, "structure.html", _page(structure))


def publish_judged(
    tracker: Tracker, folder: RunFolder, rows: list[JudgedRow], front: list[JudgedRow]
) -> None:
    """Write judged.csv, and log it and its picture with the sweep's run."""
    write_table(folder.path / "judged.csv", JudgedRow, rows)
    tracker.artifact(tracker.parent, folder.path / "judged.csv")
    picture = draw_judged(
        pd.DataFrame([asdict(row) for row in rows]), [row.number for row in front]
    )
    tracker.text(tracker.parent, "judged.html", _page(picture))


def publish_models(tracker: Tracker, folder: RunFolder, front: list[TrialRow]) -> None:
    """Log the front's networks as MLflow models."""
    for row in front:
        served = folder.state / "mlflow" / run_of(row.trial) / ARTIFACT
        if not served.is_dir():
            save_served(folder.models / str(row.trial), served)
        tracker.artifact(run_of(row.trial), served, ARTIFACT)


def register_models(
    tracker: Tracker, folder: RunFolder, front: list[TrialRow], checkpoint: MaskCheckpoint
) -> None:
    """Register what `publish_models` logged and MLflow has."""
    if front:
        runs = {row.trial: tracker.run_id(run_of(row.trial)) for row in front}
        dense = count(checkpoint.select(Budget())).macs / 1e9
        register_front(tracker.client, folder.name, front, runs, dense)


def front_note(front: FrontData, val_images: int) -> str:
    """The description on the run's page, in Markdown: what the front says, and its networks."""
    networks = [
        f"- trial {point.trial}: {wording.number(point.gmacs)} GMACs, "
        f"{wording.number(point.params_m)} M parameters, top-1 {wording.top1(point.val_top1)} % "
        f"(val), {wording.top1(point.test_top1)} % (test)"
        for point in front.front[:MOST_NOTED]
    ]
    more = len(front.front) - len(networks)
    rest = [f"- and {more} more, in front.csv"] if more else []
    return "\n".join([front_sentence(front, val_images), "", *networks, *rest])


def publish_reports(tracker: Tracker, folder: RunFolder, tracking_uri: str) -> list[Path]:
    """Execute the notebooks against the run, which MLflow has, and log the pages."""
    run = tracker.run_id(tracker.parent)
    folder.remember("mlflow_run", run)
    pages = make_reports(tracking_uri, folder.name, folder.reports, run_id=run)
    for page in pages:
        tracker.artifact(tracker.parent, page, "reports")
    return pages


def log_transfer(tracker: Tracker, row: TransferRow, curve: list[float], seconds: float) -> None:
    """Log one training on a transfer task as a run below the sweep's, once."""
    name = f"{row.task}-{row.trial}-{row.method}-{row.seed}"
    run = tracker.child(name, "transfer", {"trial": row.trial})
    about = {name: getattr(row, name) for name in ("task", "trial", "method", "seed")}
    tracker.params(run, about)
    for epoch, accuracy in enumerate(curve, start=1):
        tracker.metrics(run, {"val_top1": accuracy}, step=epoch)
    figures = {name: getattr(row, name) for name in ("gmacs", "params_m", "val_top1", "test_top1")}
    tracker.metrics(run, figures | {"seconds": seconds}, step=len(curve))
    tracker.finish(run)


def _page(figure: go.Figure) -> str:
    """A figure as a page that needs no network."""
    page: str = figure.to_html(include_plotlyjs=True, full_html=True)
    return page
