"""A masked search step against a plain training step of the same timm model: time and memory.

    python benchmarks/search_cost.py --model deit_small_patch16_224 --batch-size 8

Steps of the two alternate in one process, so that the ratio is free of the machine's mood; the
peak of memory is the median of three fresh processes for each. Beside them stands the
multiplication of activations by masks, as in the paper's code.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from machine import machine
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import slim
from slim.recipe import Recipe
from slim.search import Penalty, search_training
from slim.spec import read_spec
from slim.tasks import ArrayTask, Augmentation, Preprocessing
from slim.training import Training

KINDS = ("plain", "masked", "multiplied")
RECIPE = Recipe(epochs=1000, augmentation=Augmentation(affine=False))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="deit_small_patch16_224", help="a ViT of timm")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=15, help="measured steps of each kind")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--peak", choices=KINDS, help="only print this kind's peak memory in MB")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(peak_memory(options.peak, options.model, options.batch_size))
        return
    times = step_times(options.model, options.batch_size, options.steps)
    peaks = {kind: _peak_apart(kind, options) for kind in KINDS}
    table = Table(title=f"{options.model}, batch {options.batch_size}, {options.threads} threads")
    for column in ("step", "time / plain", "peak memory / plain"):
        table.add_column(column)
    for kind in KINDS:
        ratios = [t / plain for t, plain in zip(times[kind], times["plain"], strict=True)]
        table.add_row(
            kind, f"{statistics.median(ratios):.3f}", f"{peaks[kind] / peaks['plain']:.3f}"
        )
    console = Console()
    console.print(table)
    console.print(machine())


def step_times(model: str, batch_size: int, steps: int) -> dict[str, list[float]]:
    """Seconds of each step, the kinds taking turns; two steps of each go before."""
    step_of = {kind: _stepper(kind, model, batch_size) for kind in KINDS}
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for round_ in range(steps + 2):
        for kind, step in step_of.items():
            started = time.perf_counter()
            step()
            if round_ >= 2:
                times[kind].append(time.perf_counter() - started)
    return times


def peak_memory(kind: str, model: str, batch_size: int) -> float:
    """Megabytes that three steps add to the process at their peak, model and optimizer too."""
    before = _high_water_mark()
    step = _stepper(kind, model, batch_size)
    for _ in range(3):
        step()
    return _high_water_mark() - before


def _high_water_mark() -> float:
    """The most memory this process has held, in megabytes (Linux)."""
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def _peak_apart(kind: str, options: argparse.Namespace) -> float:
    """The median of fresh processes; the allocator makes them differ by some percent."""
    command = [sys.executable, __file__, "--peak", kind, "--model", options.model]
    command += ["--batch-size", str(options.batch_size), "--threads", str(options.threads)]
    done = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(3)]
    return statistics.median(float(process.stdout) for process in done)


def _stepper(kind: str, model: str, batch_size: int) -> Callable[[], Any]:
    """A function that takes one training step of a kind."""
    torch.manual_seed(0)
    vit = timm.create_model(model, num_classes=10)
    spec = read_spec(vit)
    task = _random_task(spec.input_size, batch_size)
    preprocessing = Preprocessing(spec.input_size, (0.5,) * 3, (0.25,) * 3)
    images, labels = torch.randn(batch_size, *spec.input_size), torch.arange(batch_size) % 10
    if kind == "masked":
        masked = slim.attach_masks(vit)
        training = search_training(masked, task, preprocessing, RECIPE, Penalty(), 5e-3)
    else:
        if kind == "multiplied":
            multiply_activations(vit)
        training = Training(vit, task, preprocessing, RECIPE)
    return lambda: training.step(images, labels, 1)


def multiply_activations(vit: Any) -> None:
    """Masks as the paper's code has them: factors on the outputs of qkv and of the activation."""
    for block in vit.blocks:
        attn, mlp = block.attn, block.mlp
        dims, heads = attn.head_dim, attn.num_heads
        attn.qkv = nn.Sequential(attn.qkv, Factor(heads * dims, repeat=3))
        mlp.act = nn.Sequential(mlp.act, Factor(mlp.fc2.in_features))


class Factor(nn.Module):
    """Multiply the last dimension by a learned mask."""

    def __init__(self, width: int, repeat: int = 1) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.ones(width))
        self.repeat = repeat

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, repeat * width) to the same."""
        return x * self.mask.repeat(self.repeat)


def _random_task(input_size: tuple[int, int, int], batch_size: int) -> ArrayTask:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, *input_size), dtype=np.uint8)
    labels = np.repeat(np.arange(10), 4)
    splits = {split: np.arange(40) for split in ("train", "val", "test")}
    assert batch_size <= 40, "the random task has 40 images; give a smaller batch"
    return ArrayTask("random", images, labels, tuple("0123456789"), splits)


if __name__ == "__main__":
    main()
