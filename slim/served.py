"""A saved network behind NumPy arrays, as model servers want it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from slim.serving import load, load_about


class ServedNetwork:
    """Answers batches of images with class probabilities, on the CPU.

    Args:
        folder: Of a saved network whose preprocessing is kept beside it.

    Raises:
        FileFormatError: If a file is missing, damaged, foreign or of another version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.vit = load(folder).float()
        expected = load_about(folder).get("preprocessing") or {}
        channels = self.vit.input_size[0]  # type: ignore[index]
        self.mean = torch.tensor(expected.get("mean", [0.0] * channels))[:, None, None]
        self.std = torch.tensor(expected.get("std", [1.0] * channels))[:, None, None]

    @torch.inference_mode()
    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> np.ndarray:
        """Class probabilities (B, classes), float32.

        Args:
            model_input: Images (B, C, H, W) of values in [0, 1], of the network's size, alone or
                as `images` in a dictionary; they are normalised here.
            params: Not used; MLflow passes it.
        """
        given = model_input["images"] if isinstance(model_input, dict) else model_input
        images = torch.from_numpy(np.asarray(given, dtype=np.float32))
        logits = self.vit((images - self.mean) / self.std)
        probabilities: np.ndarray = logits.softmax(dim=-1).numpy()
        return probabilities


def _load_pyfunc(data_path: str) -> ServedNetwork:
    """What `mlflow.pyfunc.load_model` calls; MLflow prescribes the name."""
    return ServedNetwork(data_path)
