"""A saved network is served by MLflow as it is, and found by what it costs."""

from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pytest
import timm
import torch
from mlflow import MlflowClient

import slim
from sweeps.served_models import ARTIFACT, aliases_of, register_front, save_served
from sweeps.trials import TrialRow


def row(trial: int, gmacs: float, val_top1: float) -> TrialRow:
    return TrialRow(trial, "COMPLETE", 0.5, 0.5, 0.5, gmacs, 1.0, val_top1, None, 1, 1.0)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    sizes = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 3}
    small = {"embed_dim": 16, "num_heads": 2, "depth": 2}
    dense = timm.create_model("vit_tiny_patch16_224", **sizes, **small)
    preprocessing = {"mean": [0.5], "std": [0.25]}
    return slim.save(dense, tmp_path / "network", {"preprocessing": preprocessing})


def test_a_model_from_the_registry_answers_as_the_network_does(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("e", (tmp_path / "artifacts").as_uri())
    run = client.create_run(experiment).info.run_id
    save_served(network, tmp_path / ARTIFACT)
    client.log_artifacts(run, str(tmp_path / ARTIFACT), ARTIFACT)
    files = [item.path for item in client.list_artifacts(run, ARTIFACT)]
    assert not [path for path in files if path.endswith((".pkl", ".pth", ".pt"))]
    register_front(client, "sweep", [row(4, 1.0, 90.0)], {4: run}, dense_gmacs=2.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # mlflow.set_registry_uri outlives the test
    served = mlflow.pyfunc.load_model("models:/sweep@macs-50")
    images = np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32)
    expected = slim.load(network)((torch.from_numpy(images) - 0.5) / 0.25).softmax(-1)
    np.testing.assert_allclose(
        served.predict({"images": images}), expected.detach().numpy(), atol=1e-6
    )
    assert served.metadata.signature.inputs.inputs[0].shape == (-1, 1, 8, 8)


def test_a_front_that_grew_gets_versions_for_what_is_new_alone(tmp_path: Path) -> None:
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.create_experiment("e", (tmp_path / "artifacts").as_uri())
    runs = {trial: client.create_run(experiment).info.run_id for trial in (1, 2)}
    for front in ([row(1, 1.0, 80.0)], [row(1, 1.0, 80.0), row(2, 1.5, 90.0)]):
        register_front(client, "grown", front, runs, dense_gmacs=2.0)
    known = client.search_model_versions("name = 'grown'")
    assert sorted(version.tags["trial"] for version in known) == ["1", "2"]
    for alias, trial in (("macs-100", "2"), ("macs-50", "1")):
        assert client.get_model_version_by_alias("grown", alias).tags["trial"] == trial


def test_an_alias_is_the_most_accurate_network_within_a_level() -> None:
    front = [row(3, 1.0, 80.0), row(2, 4.9, 90.0), row(0, 10.0, 95.0)]
    aliases = aliases_of(front, dense_gmacs=10.0)
    assert (aliases["macs-100"], aliases["macs-50"], aliases["macs-10"]) == (0, 2, 3)
    assert aliases["macs-40"] == aliases["macs-20"] == 3
    assert "macs-10" not in aliases_of(front[1:], dense_gmacs=10.0)
