"""What can happen to a saved folder: each function spoils one that `write_tensors` wrote."""

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def weights_of(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def header_of(folder: Path) -> Path:
    return next(folder.glob("*.json"))


def edit_header(folder: Path, **changes: Any) -> None:
    header = json.loads(header_of(folder).read_text())
    header_of(folder).write_text(json.dumps(header | changes))


def drop_from_header(folder: Path, name: str) -> None:
    header = json.loads(header_of(folder).read_text())
    del header[name]
    header_of(folder).write_text(json.dumps(header))


def stamp(folder: Path) -> None:
    """Give the header the checksum of the weights as they are: damage that a checksum misses."""
    edit_header(folder, sha256=hashlib.sha256(weights_of(folder).read_bytes()).hexdigest())


def edit_tensors(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(weights_of(folder)).items()}
    edit(tensors)
    save_file(tensors, weights_of(folder))
    stamp(folder)


def edit_first(folder: Path, edit: Callable[[Tensor], Tensor]) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        name = min(tensors)
        tensors[name] = edit(tensors[name]).contiguous()

    edit_tensors(folder, change)


def fill_first(folder: Path, value: float) -> None:
    edit_first(
        folder,
        lambda tensor: tensor.flatten().index_fill(0, torch.tensor([0]), value).view_as(tensor),
    )


def flip_bit(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def write_raw_weights(folder: Path, content: bytes) -> None:
    weights_of(folder).write_bytes(content)
    stamp(folder)


def declare(folder: Path, dtype: str, size: int) -> None:
    """A safetensors file of one tensor whose type no network here has."""
    spec = {"dtype": dtype, "shape": [4], "data_offsets": [0, size]}
    header = json.dumps({"weight": spec}).encode()
    write_raw_weights(folder, struct.pack("<Q", len(header)) + header + bytes(size))


# Damage to the weights, and whether the message must name them.
WEIGHTS: dict[str, Callable[[Path], object]] = {
    "missing": lambda folder: weights_of(folder).unlink(),
    "empty": lambda folder: weights_of(folder).write_bytes(b""),
    "empty, stamped": lambda folder: write_raw_weights(folder, b""),
    "truncated": lambda folder: weights_of(folder).write_bytes(
        weights_of(folder).read_bytes()[:-1]
    ),
    "truncated, stamped": lambda folder: write_raw_weights(
        folder, weights_of(folder).read_bytes()[:-1]
    ),
    "bit flipped in the values": lambda folder: flip_bit(weights_of(folder), -1),
    "bit flipped in the names": lambda folder: flip_bit(weights_of(folder), 20),
    "text": lambda folder: write_raw_weights(folder, b"not a tensor"),
    "huge header": lambda folder: write_raw_weights(folder, struct.pack("<Q", 1 << 40)),
    "no tensors": lambda folder: edit_tensors(folder, dict.clear),
    "extra tensor": lambda folder: edit_tensors(
        folder, lambda tensors: tensors.update({"new\nline": torch.ones(2)})
    ),
    "missing tensor": lambda folder: edit_tensors(
        folder, lambda tensors: tensors.pop(min(tensors))
    ),
    "another shape": lambda folder: edit_first(folder, lambda tensor: tensor[..., None]),
    "an element short": lambda folder: edit_first(folder, lambda tensor: tensor[..., 1:]),
    "NaN": lambda folder: fill_first(folder, float("nan")),
    "infinite": lambda folder: fill_first(folder, float("inf")),
    "whole numbers": lambda folder: edit_first(folder, lambda tensor: tensor.int()),
    "two types": lambda folder: edit_first(folder, lambda tensor: tensor.double()),
    "complex": lambda folder: declare(folder, "C64", 32),
    "eight bits": lambda folder: edit_tensors(
        folder,
        lambda tensors: tensors.update(
            {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()}
        ),
    ),
    "unknown type": lambda folder: declare(folder, "F6_E2M3", 3),
}

HEADER: dict[str, Callable[[Path], object]] = {
    "missing": lambda folder: header_of(folder).unlink(),
    "empty": lambda folder: header_of(folder).write_text(""),
    "not JSON": lambda folder: header_of(folder).write_text("format: yaml"),
    "truncated": lambda folder: header_of(folder).write_text(header_of(folder).read_text()[:-3]),
    "not text": lambda folder: header_of(folder).write_bytes(b"\xff\xfe\x00"),
    "a list": lambda folder: header_of(folder).write_text("[]"),
    "nested without end": lambda folder: header_of(folder).write_text("[" * 100_000),
    "a number too long": lambda folder: header_of(folder).write_text("9" * 10_000),
    "another format": lambda folder: edit_header(folder, format="vit-slim something\nelse"),
    "no format": lambda folder: drop_from_header(folder, "format"),
    "newer version": lambda folder: edit_header(folder, version=3),
    "older version": lambda folder: edit_header(folder, version=1),
    "a version of text": lambda folder: edit_header(folder, version="1\n"),
    "no version": lambda folder: drop_from_header(folder, "version"),
}


class Payload:
    """Pickled, it makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def put_pickle(folder: Path, trace: Path) -> None:
    """What `torch.save` writes, with code in it, where the weights belong."""
    torch.save({"weight": Payload(trace)}, weights_of(folder))
