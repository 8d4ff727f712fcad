"""How fast subnetworks are against what their MACs promise.

    python benchmarks/extraction_speed.py --out runs/benchmarks/extraction_speed.csv

Times dense timm models, subnetworks of three budgets and, beside them, what the search itself
runs: the dense network with its activations multiplied by 0/1 masks. `kept` is the speed-up over
the dense model times the share of its MACs that is left: 1 where every MAC saved saves its time.

All networks of a setting take turns; a speed-up is the median, over the turns, of the dense
model's time divided by the network's in the same turn. At small batches a turn is a burst of
calls after an untimed one, as a server would run them. With `--compile` all networks, the dense
one too, go through `torch.compile` first. Weights are random. Scores are random too,
but uneven like a search's: every attention dimension scores a normal deviate of its own plus one
of its head, less the square of its block's distance from the middle of the depth (-1 to 1), every
MLP unit a deviate less the same square, every token a deviate.
"""

import argparse
import csv
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import timm
import torch
from machine import machine
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from slim import Architecture, Budget, Scores, VitSpec, count
from slim.layout_choice import use_layout
from slim.layouts import DEFAULT_LAYOUT, LAYOUTS
from slim.ranking import select
from slim.spec import read_spec
from slim.subnetwork import build_subnetwork

MODELS = ("deit_small_patch16_224", "deit_base_patch16_224")
BUDGETS = (Budget(1, 0.5, 0.5), Budget(0.7, 0.7, 0.7), Budget(0.5, 0.5, 0.5))
BURST = 0.25  # seconds
MASKED = "masks multiplied"


@dataclass(frozen=True)
class Speed:
    """One network in one setting; `seconds` for a batch, `speedup` and `macs` against dense."""

    model: str
    batch: int
    threads: int
    budget: str
    network: str
    macs: float
    seconds: float
    speedup: float
    kept: float


def searched_scores(spec: VitSpec, seed: int) -> Scores:
    """Random scores, as uneven as those of a search; how is in the module's docstring."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(spec.depth, *shape, generator=random)

    ends = torch.linspace(-1, 1, spec.depth).square()
    head_dim = spec.embed_dim // spec.num_heads
    dims = normal(spec.num_heads, head_dim) + normal(spec.num_heads, 1)
    return Scores(
        tokens=normal(spec.num_patches).unbind(),
        mhsa=(dims - ends[:, None, None]).unbind(),
        mlp=(normal(spec.mlp_hidden) - ends[:, None]).unbind(),
    )


def masked_network(dense: Any, architecture: Architecture) -> Any:
    """The dense model with masks on what enters attention, on qkv and on the hidden units."""
    spec = architecture.spec
    for i, block in enumerate(dense.blocks):
        tokens = torch.cat([torch.ones(spec.num_prefix_tokens), torch.zeros(spec.num_patches)])
        tokens[[spec.num_prefix_tokens + position for position in architecture.tokens[i]]] = 1
        dims = torch.zeros(spec.num_heads, spec.embed_dim // spec.num_heads)
        for head, kept in enumerate(architecture.heads[i]):
            dims[head, list(kept)] = 1
        units = torch.zeros(spec.mlp_hidden)
        units[list(architecture.units[i])] = 1
        _multiply_input(block.attn, tokens[:, None])
        _multiply_output(block.attn.qkv, dims.flatten().repeat(3))
        _multiply_input(block.mlp.fc2, units)
    return dense


def _multiply_input(module: nn.Module, mask: Tensor) -> None:
    module.register_forward_pre_hook(lambda _, inputs: (inputs[0] * mask,))


def _multiply_output(module: nn.Module, mask: Tensor) -> None:
    module.register_forward_hook(lambda _, inputs, output: output * mask)


@torch.inference_mode()
def turns(networks: dict[str, Any], images: Tensor, count: int) -> dict[str, list[float]]:
    """Seconds per call of every network in every turn, after one that may compile it."""
    for network in networks.values():
        network(images)
    bursts = {name: max(1, round(BURST / _timed(n, images, 1))) for name, n in networks.items()}
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(count):
        for name, network in networks.items():
            seconds[name].append(_timed(network, images, bursts[name]))
    return seconds


def _timed(network: Any, images: Tensor, calls: int) -> float:
    """Seconds per call; a call that is not timed brings the weights into the caches."""
    if calls > 1:
        network(images)
    start = perf_counter()
    for _ in range(calls):
        network(images)
    return (perf_counter() - start) / calls


def measure(name: str, batch: int, budget: Budget, options: argparse.Namespace) -> list[Speed]:
    """All networks of one setting, the dense one first."""
    torch.compiler.reset()  # of one forward it compiles a few networks, and then no more
    torch.manual_seed(options.seed)
    dense = timm.create_model(name).eval()
    spec = read_spec(dense)
    architecture = select(spec, searched_scores(spec, options.seed), budget)
    networks = {"dense": dense}
    if budget == BUDGETS[0]:  # masks of any budget take the same time
        networks[MASKED] = masked_network(timm.create_model(name).eval(), architecture)
    for layout in options.layouts:
        networks[layout] = build_subnetwork(architecture).eval()
        use_layout(networks[layout], layout)
    if options.compile:
        networks = {key: torch.compile(network) for key, network in networks.items()}
    seconds = turns(networks, torch.randn(batch, *spec.input_size), options.turns)
    left = count(architecture).macs / count(Architecture.dense(spec)).macs
    speeds = []
    for network, times in seconds.items():
        macs = left if network in LAYOUTS else 1.0
        speedup = median(d / t for d, t in zip(seconds["dense"], times, strict=True))
        asked = f"{budget.tokens:g} {budget.mhsa:g} {budget.mlp:g}"
        threads = torch.get_num_threads()
        speeds.append(
            Speed(
                model=name,
                batch=batch,
                threads=threads,
                budget="" if macs == 1 else asked,
                network=network,
                macs=macs,
                seconds=median(times),
                speedup=speedup,
                kept=speedup * macs,
            )
        )
    return speeds


def table(speeds: list[Speed], title: str) -> Table:
    drawn = Table(title=title, box=box.SIMPLE)
    for column in ("batch", "threads", "budget", "network", "MACs", "speed-up", "kept"):
        drawn.add_column(column, justify="left" if column in ("budget", "network") else "right")
    for s in speeds:
        if s.network != "dense":
            figures = (f"{s.macs:.3f}", f"{s.speedup:.2f}", f"{s.kept:.2f}")
            drawn.add_row(str(s.batch), str(s.threads), s.budget, s.network, *figures)
    return drawn


def write_csv(speeds: list[Speed], path: Path, host: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        rows = [asdict(speed) | {"machine": host} for speed in speeds]
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=MODELS, help="timm names")
    parser.add_argument("--batches", nargs="+", type=int, default=(1, 16))
    parser.add_argument("--threads", nargs="+", type=int, default=(1, torch.get_num_threads()))
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=(DEFAULT_LAYOUT,))
    parser.add_argument("--compile", action="store_true", help="all networks, with torch.compile")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="CSV to write")
    return parser.parse_args()


def main() -> None:
    options, host, all_speeds = arguments(), machine(), []
    console = Console()
    for name in options.models:
        speeds: list[Speed] = []
        for batch in options.batches:
            for threads in options.threads:
                torch.set_num_threads(threads)
                for budget in BUDGETS:
                    speeds += measure(name, batch, budget, options)
        all_speeds += speeds
        console.print(table(speeds, f"{name} on {host}"))
    if options.out:
        write_csv(all_speeds, options.out, host)


if __name__ == "__main__":
    main()
