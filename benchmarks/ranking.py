"""Which ranking keeps the right positions: accuracy at equal budgets, and what was tried and lost.

    python benchmarks/ranking.py --seeds 0 1 2

On Fashion-MNIST, from the dense model of each seed (see fashion.py). Every network is judged
untrained, repaired, and (where all dimensions are cut) after a short fine-tuning equal for all.
"no search" ranks and cuts the dense model itself; all others had one epoch more, in which the
weights were trained too.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from fashion import (
    RECIPE,
    SEARCH_RECIPE,
    accuracy,
    arguments,
    console,
    dense_model,
    fashion_task,
    preprocessing_of,
    searched_model,
    show,
)
from torch import Tensor, nn

import slim
from slim.distillation import distill_from
from slim.masks import as_timm
from slim.ranking import Scores, select
from slim.tasks import ArrayTask
from slim.training import Training

# (tokens, MHSA, MLP) budgets; those of all three dimensions are fine-tuned too.
BUDGETS = (
    (0.4, 1, 1),
    (1, 0.25, 1),
    (1, 1, 0.2),
    (0.5, 0.5, 0.5),
    (0.3, 0.3, 0.3),
    (0.5, 0.2, 0.2),
)
DEFAULT = "search, mask"
FINETUNE_IMAGES = 6_400
SCORE_IMAGES = 2048


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task = fashion_task(options.data)
    frame = pd.concat([measure(task, options, seed) for seed in options.seeds])
    for figure in ("untrained", "repaired", "finetuned"):
        table = frame.pivot_table(figure, "ranking", "budget", sort=False).dropna(axis=1)
        table["mean"] = table.mean(axis=1)
        table["sd over seeds"] = (
            (frame.dropna(subset=figure).groupby(["ranking", "seed"])[figure].mean())
            .groupby("ranking")
            .std()
        )
        show(f"{figure}, top-1 on val, mean of {len(options.seeds)} seeds", table.reset_index())
        show(f"{figure}, difference to {DEFAULT!r} over seeds", differences(frame, figure))
    shares = frame.pivot_table("share", "ranking", "budget", sort=False)
    show("share of the dense MACs", shares.reset_index())


def differences(frame: pd.DataFrame, figure: str) -> pd.DataFrame:
    """Mean and standard error over the seeds of each ranking's difference to the default."""
    means = frame.dropna(subset=figure).pivot_table(figure, "seed", "ranking", sort=False)
    differing = means.sub(means[DEFAULT], axis=0)
    table = pd.DataFrame({"mean": differing.mean(), "standard error": differing.sem()})
    return table.reset_index()


def measure(task: ArrayTask, options: argparse.Namespace, seed: int) -> pd.DataFrame:
    """Rows of one seed, kept as they are measured."""
    path = options.folder / f"ranking-{seed}.csv"
    rows = pd.read_csv(path).to_dict("records") if path.is_file() else []
    done = {(row["ranking"], row["budget"]) for row in rows}
    dense = dense_model(task, options.folder, seed)
    for ranking, (kind, score) in RANKINGS.items():
        if all((ranking, _name(budget)) in done for budget in BUDGETS):
            continue
        checkpoint = _checkpoint(task, options, seed, kind, dense)
        scores = score(checkpoint, task, seed, dense)
        for budget in BUDGETS:
            if (ranking, _name(budget)) not in done:
                row = _measure_one(checkpoint, scores, budget, task, dense, seed)
                rows.append({"seed": seed, "ranking": ranking, "budget": _name(budget)} | row)
                pd.DataFrame(rows).to_csv(path, index=False)
        console.print(f"seed {seed}: {ranking} measured")
    return pd.DataFrame(rows)


def _measure_one(
    checkpoint: slim.MaskCheckpoint,
    scores: Scores,
    budget: tuple[float, float, float],
    task: ArrayTask,
    dense: nn.Module,
    seed: int,
) -> dict[str, Any]:
    architecture = select(checkpoint.spec, scores, slim.Budget(*budget))
    whole = slim.count(slim.Architecture.dense(checkpoint.spec)).macs
    vit = slim.extract(checkpoint, architecture)
    row: dict[str, Any] = {"share": slim.count(architecture).macs / whole}
    row["untrained"] = accuracy(vit, task)
    slim.repair(vit, dense, [images for images, _ in _batches(task, 512, 64)])
    row["repaired"] = accuracy(vit, task)
    row["finetuned"] = float("nan")
    if max(budget) < 1:
        finetune(vit, dense, task, seed)
        row["finetuned"] = accuracy(vit, task)
    return row


def finetune(vit: nn.Module, dense: nn.Module, task: ArrayTask, seed: int) -> None:
    """Part of an epoch of training, distilled, the same for every network."""
    batch = RECIPE.batch_size
    steps = FINETUNE_IMAGES // batch
    recipe = replace(SEARCH_RECIPE, lr=5e-4, sched="constant")
    training = Training(
        vit, task, preprocessing_of(task), recipe, distill_from(dense, 0.9, 2.0), seed
    )
    vit.train()
    for update, (images, labels) in enumerate(_batches(task, FINETUNE_IMAGES, batch, seed), 1):
        if update <= steps:
            training.step(images, labels, update)


def _checkpoint(
    task: ArrayTask, options: argparse.Namespace, seed: int, kind: str, dense: nn.Module
) -> slim.MaskCheckpoint:
    if kind == "dense":
        return slim.MaskCheckpoint.from_model(slim.attach_masks(as_timm(dense)))
    return searched_model(task, options.folder, seed, kind)


def _batches(
    task: ArrayTask, images: int, batch_size: int, seed: int = 123
) -> list[tuple[Tensor, Tensor]]:
    return task.calibration_batches(
        preprocessing_of(task), RECIPE.augmentation, batch_size, images, seed
    )


def _name(budget: tuple[float, float, float]) -> str:
    return ", ".join(f"{share:g}" for share in budget)


Score = Callable[[slim.MaskCheckpoint, ArrayTask, int, nn.Module], Scores]


def by_chance(
    checkpoint: slim.MaskCheckpoint, task: ArrayTask, seed: int, dense: nn.Module
) -> Scores:
    del task, dense
    random = torch.Generator().manual_seed(seed)
    return checkpoint.masks.map(lambda mask: torch.rand(mask.shape, generator=random))


def by_mask(
    checkpoint: slim.MaskCheckpoint, task: ArrayTask, seed: int, dense: nn.Module
) -> Scores:
    del task, seed, dense
    return checkpoint.masks


def by_taylor(
    checkpoint: slim.MaskCheckpoint, task: ArrayTask, seed: int, dense: nn.Module
) -> Scores:
    del seed
    batches = _batches(task, SCORE_IMAGES, 32)
    return slim.taylor(checkpoint.masked_model(), batches, distill_from(dense, 0.7, 2.0))


def by_magnitude(
    checkpoint: slim.MaskCheckpoint, task: ArrayTask, seed: int, dense: nn.Module
) -> Scores:
    """Norms of the weights that meet at a dimension or unit; of a token, of what enters."""
    mhsa, mlp = [], []
    for block, dense_block in enumerate(checkpoint.spec.blocks):
        weights = {
            name.removeprefix(f"blocks.{block}."): weight
            for name, weight in checkpoint.weights.items()
            if name.startswith(f"blocks.{block}.")
        }
        heads = (dense_block.num_heads, dense_block.head_dim)
        q, k, v = weights["attn.qkv.weight"].norm(dim=1).view(3, *heads)
        mhsa.append(q * k + v * weights["attn.proj.weight"].norm(dim=0).view(heads))
        mlp.append(weights["mlp.fc1.weight"].norm(dim=1) * weights["mlp.fc2.weight"].norm(dim=0))
    tokens = _stream_norms(checkpoint, task, dense)
    del seed
    return Scores(tokens, tuple(mhsa), tuple(mlp))


def by_attention(
    checkpoint: slim.MaskCheckpoint, task: ArrayTask, seed: int, dense: nn.Module
) -> Scores:
    """Tokens by the attention they receive; the rest by Taylor."""
    scores = by_taylor(checkpoint, task, seed, dense)
    received = [torch.zeros_like(tokens) for tokens in scores.tokens]
    with torch.no_grad():
        for images, _ in _batches(task, 512, 64):
            for block, x in enumerate(_streams(dense, images)):
                attn = dense.blocks[block].attn
                q, k = _queries_and_keys(attn, dense.blocks[block].norm1(x))
                weights = (q @ k.transpose(-2, -1) * attn.scale).softmax(dim=-1)
                received[block] += weights.mean(dim=(0, 1, 2))[1:]
    return replace(scores, tokens=tuple(received))


def _queries_and_keys(attn: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """(B, heads, N, d) each."""
    heads = len(attn.widths)
    q, k, _ = attn.qkv(x).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k


def _streams(dense: Any, images: Tensor) -> list[Tensor]:
    """What enters each block: (B, N, D) each."""
    seen: list[Tensor] = []
    hooks = [
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        for block in dense.blocks
    ]
    dense(images)
    for hook in hooks:
        hook.remove()
    return seen


def _stream_norms(
    checkpoint: slim.MaskCheckpoint, task: ArrayTask, dense: nn.Module
) -> tuple[Tensor, ...]:
    norms = [torch.zeros_like(tokens) for tokens in checkpoint.masks.tokens]
    with torch.no_grad():
        for images, _ in _batches(task, 512, 64):
            for block, x in enumerate(_streams(dense, images)):
                norms[block] += x[:, 1:].norm(dim=-1).mean(dim=0)
    return tuple(norms)


# What is cut ("dense" is the dense model itself), and what ranks.
RANKINGS: dict[str, tuple[str, Score]] = {
    DEFAULT: ("search", by_mask),
    "search, Taylor": ("search", by_taylor),
    "no search, Taylor": ("dense", by_taylor),
    "plain training, Taylor": ("plain", by_taylor),
    "the paper's search, mask": ("paper", by_mask),
    "no search, attention received and Taylor": ("dense", by_attention),
    "no search, magnitude": ("dense", by_magnitude),
    "no search, random": ("dense", by_chance),
}


if __name__ == "__main__":
    main()
