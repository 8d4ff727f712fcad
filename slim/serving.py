"""Saving, loading and exporting a slimmed network."""

from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from slim.architecture import Architecture
from slim.card import MARK, model_card
from slim.cost import count
from slim.data_config import known_preprocessing, readable, tell_preprocessing
from slim.errors import SlimError
from slim.files import (
    check_tensors,
    naming,
    read_header,
    read_tensors,
    replace_header,
    write_tensors,
    write_text_atomic,
)
from slim.modes import evaluating
from slim.network import eager
from slim.subnetwork import architecture_of, build_subnetwork, fill_subnetwork

KIND = "vit-slim network"
HEADER = "config.json"
CARD = "README.md"
TRACED_BATCH = 2
CHECKED_BATCHES = (1, 3)


def save(vit: nn.Module, folder: str | Path, about: dict[str, Any] | None = None) -> Path:
    """Write `model.safetensors` and `config.json`, from which `load` rebuilds the network.

    A model card, `README.md`, is written beside them; one that is not of this function's making
    stays as it is.

    Args:
        vit: A subnetwork, or a dense timm model of a family.
        folder: Replaced as one step when all is written.
        about: JSON values to keep beside it (data, budget, accuracy); shown on the card. Without
            `preprocessing` among them, what timm's `pretrained_cfg` says of the network is kept.

    Returns:
        The folder.

    Raises:
        UnsupportedModelError: If a dense model has a feature that is not covered.
        FileFormatError: If the network has tensors that its architecture has not, or values that
            are not finite; nothing is written.
    """
    vit = eager(vit)
    architecture = architecture_of(vit)
    state = vit.state_dict()
    check_tensors("the network cannot be saved", state, _shapes(architecture))
    preprocessing = known_preprocessing(vit, architecture.spec.input_size)
    if preprocessing is not None:
        about = {"preprocessing": preprocessing.to_json()} | (about or {})
    cost = count(architecture)
    header = {
        "architecture": architecture.to_json(),
        "macs": cost.macs,
        "params": cost.params,
        "about": about or {},
    }
    texts = {CARD: model_card(architecture, about or {})} if _may_write_card(folder) else {}
    return write_tensors(folder, "model", KIND, state, header, texts)


def load(folder: str | Path) -> nn.Module:
    """Rebuild a saved network, in eval mode on the CPU; no code of the file is run.

    timm's `resolve_model_data_config` finds the preprocessing that is kept beside it.

    Raises:
        FileFormatError: If a file is missing, damaged, foreign or of another version.
    """
    tensors, header = read_tensors(folder, "model", KIND)
    folder = Path(folder)
    with naming(folder / HEADER):
        architecture = Architecture.from_json(header.get("architecture"))
    check_tensors(folder / "model.safetensors", tensors, _shapes(architecture))
    about = header.get("about")
    told = readable(about.get("preprocessing")) if isinstance(about, dict) else None
    return tell_preprocessing(fill_subnetwork(architecture, tensors), told)


def _shapes(architecture: Architecture) -> dict[str, torch.Size]:
    """Of each tensor of a network, by name."""
    with torch.device("meta"):
        expected = build_subnetwork(architecture).state_dict()
    return {name: tensor.shape for name, tensor in expected.items()}


def load_about(folder: str | Path) -> dict[str, Any]:
    """What `save` was told to keep beside the network.

    Raises:
        FileFormatError: If `config.json` is missing, damaged, foreign or of another version.
    """
    about = read_header(folder, "model", KIND).get("about")
    return about if isinstance(about, dict) else {}


def add_about(folder: str | Path, about: dict[str, Any]) -> None:
    """Add to what is kept beside a saved network, and to its card; the weights stay untouched.

    Args:
        folder: Of the network.
        about: JSON values; a name that is there already gets the new value.

    Raises:
        FileFormatError: If `config.json` is missing, damaged, foreign or of another version.
    """
    folder = Path(folder)
    header = read_header(folder, "model", KIND)
    with naming(folder / HEADER):
        architecture = Architecture.from_json(header.get("architecture"))
    known = header.get("about")
    merged = (known if isinstance(known, dict) else {}) | about
    replace_header(folder, "model", header | {"about": merged})
    if _may_write_card(folder):
        write_text_atomic(folder / CARD, model_card(architecture, merged))


def _may_write_card(folder: str | Path) -> bool:
    """Whether there is no card yet, or one that `save` wrote and nobody took over."""
    card = Path(folder) / CARD
    if not card.is_file():
        return not card.exists()
    with card.open(encoding="utf-8", errors="replace") as file:
        return MARK in file.read(2 * len(MARK))


def export_onnx(vit: nn.Module, path: str | Path) -> Path:
    """Export to ONNX with a dynamic batch, and check the file against onnxruntime.

    The check runs batches of two sizes, neither of them the size it was traced with.

    Args:
        vit: A subnetwork, or a dense timm model of a family; left in the mode it came in.
        path: The file to write.

    Returns:
        The file.

    Raises:
        SlimError: If onnxruntime's output differs by more than 1e-3 of the largest logit; a file
            that was there stays then. If a package of the extra `onnx` or the file's folder is
            missing, or the network is of a precision that onnxruntime does not compute in.
    """
    path = Path(path)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise SlimError(
                f"{package} is not installed; pip install vit-slim-sweeps[onnx] brings what "
                "exporting needs"
            )
    if not path.absolute().parent.is_dir():
        raise SlimError(f"{path}: its folder does not exist; make it first")
    if (dtype := next(vit.parameters()).dtype) not in (torch.float32, torch.float16):
        raise SlimError(f"onnxruntime does not compute in {dtype}; give vit.float()")
    with evaluating(vit):
        exported = torch.export.export(
            vit,
            (_random_images(vit, TRACED_BATCH),),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        program = torch.onnx.export(
            exported, dynamo=True, input_names=["images"], output_names=["logits"], verbose=False
        )
        assert program is not None  # only a verification dry run gives none
        with TemporaryDirectory(dir=path.absolute().parent, prefix=f".{path.name}.") as folder:
            draft = Path(folder) / path.name
            program.save(str(draft))
            _check_onnx(vit, draft)
            for written in draft.parent.iterdir():  # large weights lie in a file of their own
                written.replace(path.with_name(written.name))
    return path


def _check_onnx(vit: nn.Module, path: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in CHECKED_BATCHES:
        images = _random_images(vit, batch)
        with torch.no_grad():
            ours = vit(images).cpu()
        theirs = torch.from_numpy(session.run(None, {"images": images.cpu().numpy()})[0])
        difference = float((ours - theirs).abs().max())
        if not difference <= 1e-3 * max(1.0, float(ours.abs().max())):  # which NaN is not
            raise SlimError(
                f"{path.name}: onnxruntime differs from torch by {difference:.3g} on a batch of "
                f"{batch}"
            )


def _random_images(vit: nn.Module, batch: int) -> torch.Tensor:
    """(B, C, H, W), as the network expects them."""
    like = next(vit.parameters())
    size = architecture_of(vit).spec.input_size
    return torch.randn(batch, *size, device=like.device, dtype=like.dtype)
