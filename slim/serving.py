"""Saving, loading and exporting a slimmed network."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from slim.architecture import Architecture
from slim.cost import count
from slim.errors import SlimError
from slim.files import check_tensors, naming, read_tensors, write_tensors
from slim.subnetwork import architecture_of, build_subnetwork, fill_subnetwork

KIND = "vit-slim network"


def save(vit: nn.Module, folder: str | Path, about: dict[str, Any] | None = None) -> Path:
    """Write `model.safetensors` and `config.json`, from which `load` rebuilds the network.

    Args:
        vit: A subnetwork, or a dense timm VisionTransformer.
        folder: Replaced as one step when all is written.
        about: JSON values to keep beside it (data, budget, accuracy).

    Returns:
        The folder.

    Raises:
        UnsupportedModelError: If a dense model has a feature that is not covered.
    """
    architecture = architecture_of(vit)
    cost = count(architecture)
    header = {
        "architecture": architecture.to_json(),
        "macs": cost.macs,
        "params": cost.params,
        "about": about or {},
    }
    return write_tensors(folder, "model", KIND, vit.state_dict(), header)


def load(folder: str | Path) -> nn.Module:
    """Rebuild a saved network, in eval mode on the CPU; no code of the file is run.

    Raises:
        FileFormatError: If a file is missing, damaged, foreign or of another version.
    """
    tensors, header = read_tensors(folder, "model", KIND)
    folder = Path(folder)
    with naming(folder / "config.json"):
        architecture = Architecture.from_json(header.get("architecture"))
    with torch.device("meta"):
        expected = build_subnetwork(architecture).state_dict()
    shapes = {name: t.shape for name, t in expected.items()}
    check_tensors(folder / "model.safetensors", tensors, shapes)
    vit: nn.Module = fill_subnetwork(architecture, tensors)
    return vit


def load_about(folder: str | Path) -> dict[str, Any]:
    """What `save` was told to keep beside the network.

    Raises:
        FileFormatError: As `load`.
    """
    about = read_tensors(folder, "model", KIND)[1].get("about")
    return about if isinstance(about, dict) else {}


def export_onnx(vit: nn.Module, path: str | Path) -> Path:
    """Export to ONNX with a dynamic batch, and check the file against onnxruntime.

    Args:
        vit: A subnetwork, or a dense timm VisionTransformer.
        path: The file to write.

    Raises:
        SlimError: If onnxruntime's output differs by more than 1e-3 of the largest logit.
    """
    import onnxruntime  # an optional dependency (extra "onnx")

    path = Path(path)
    device = next(vit.parameters()).device
    size = architecture_of(vit).spec.input_size
    images = torch.randn(2, *size, device=device)
    vit.eval()
    program = torch.onnx.export(
        vit,
        (images,),
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    assert program is not None  # only a verification dry run gives none
    program.save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    three = torch.randn(3, *size, device=device)
    with torch.no_grad():
        ours = vit(three).cpu()
    theirs = torch.from_numpy(session.run(None, {"images": three.cpu().numpy()})[0])
    difference = float((ours - theirs).abs().max())
    if difference > 1e-3 * max(1.0, float(ours.abs().max())):
        raise SlimError(f"{path}: onnxruntime differs from torch by {difference:.3g}")
    return path
