"""The front's networks as MLflow models, and under names to serve them by."""

import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import mlflow.pyfunc
import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

import slim
from sweeps.trials import TrialRow

ARTIFACT = "mlflow_model"
REQUIREMENTS = ("torch", "timm", "safetensors", "numpy")
LEVELS = (100, 80, 60, 50, 40, 30, 20, 10)
"""Percent of the dense network's MACs that an alias stands for."""


def save_served(network: Path, folder: Path) -> None:
    """Write a saved network as an MLflow model that brings this package's code; no pickle.

    Args:
        network: Folder of `slim.save`.
        folder: Made in one step.
    """
    vit = slim.load(network)
    size, classes = tuple(vit.input_size), int(vit.num_classes)  # type: ignore[arg-type]
    images = TensorSpec(np.dtype(np.float32), (-1, *size), "images")
    probabilities = TensorSpec(np.dtype(np.float32), (-1, classes), "probabilities")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent)) / folder.name
    mlflow.pyfunc.save_model(
        str(draft),
        loader_module="slim.served",
        data_path=str(network),
        code_paths=[str(Path(slim.__file__).parent)],
        signature=ModelSignature(inputs=Schema([images]), outputs=Schema([probabilities])),
        input_example={"images": np.zeros((1, *size), dtype=np.float32)},
        pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
    )
    draft.rename(folder)
    draft.parent.rmdir()


def register_front(
    client: MlflowClient,
    name: str,
    front: list[TrialRow],
    runs: Mapping[int, str],
    dense_gmacs: float,
) -> dict[str, int]:
    """Register each network of a front as a version, with an alias for each level of MACs.

    A network that has a version keeps it.

    Args:
        client: Whose registry.
        name: Of the registered model.
        front: Networks whose runs have the artifact `mlflow_model`.
        runs: MLflow's run of each trial.
        dense_gmacs: What the levels are percents of.

    Returns:
        Trial by alias: `macs-50` is the most accurate network of at most half the dense MACs.
    """
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = client.search_model_versions(f"name = '{name}'")
    versions = {version.run_id: version.version for version in known}
    for row in front:
        run = runs[row.trial]
        if run not in versions:
            made = client.create_model_version(
                name, f"runs:/{run}/{ARTIFACT}", run, tags={"trial": str(row.trial)}
            )
            versions[run] = made.version
    aliases = aliases_of(front, dense_gmacs)
    for alias, trial in aliases.items():
        client.set_registered_model_alias(name, alias, versions[runs[trial]])
    return aliases


def aliases_of(front: list[TrialRow], dense_gmacs: float) -> dict[str, int]:
    """The most accurate trial within each level of MACs; levels that none meets are left out."""
    aliases = {}
    for level in LEVELS:
        affordable = [row for row in front if row.gmacs <= level / 100 * dense_gmacs]
        if affordable:
            best = max(affordable, key=lambda row: (row.val_top1 or 0.0, -row.gmacs))
            aliases[f"macs-{level}"] = best.trial
    return aliases
