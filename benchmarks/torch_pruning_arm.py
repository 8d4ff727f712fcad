"""Torch-Pruning in front_quality.py: isomorphic pruning by Taylor importance, then retraining.

As the package's example for timm's ViTs and the code of Isomorphic Pruning (arXiv 2407.04616) have
it: gradients of 50 batches, global and isomorphic ranking, head dimensions but not whole heads,
widths rounded to 2, and the softmax scale of the new head width. One ratio for all layers gives a
network's cost; of each target it is the smallest that meets it. Needs the extra "benchmarks".
"""

import copy
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch_pruning
from front_points import Course
from front_setting import TRAIN, Setting, read_points, train_point
from retrained_arms import SEARCH, retraining
from safetensors.torch import load_file, save_file
from timm.layers import Attention
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from slim.distillation import distill_from
from sweeps.stage_config import FinetuneConfig

PLAIN, DISTILLED = "Torch-Pruning", "Torch-Pruning, distilled"
# Shares of the dense MACs: the levels that fronts are read at, and five between.
TARGETS = (0.3, 0.6, 0.2, 0.8, 0.45, 0.12, 0.37, 0.52, 0.7, 0.9)
TAYLOR_BATCHES = 50
HALVINGS = 12


def prune_jobs(setting: Setting, arm: str, networks: int, epochs: int) -> list[tuple]:
    """The networks of an arm that are not trained yet."""
    jobs = [
        (prune_and_train, setting, seed, target, _folder(setting, arm, seed) / f"{number}.json")
        for seed in setting.seeds
        for number, target in enumerate(TARGETS[:networks])
    ]
    return [(*job, arm == DISTILLED, epochs) for job in jobs if not job[4].is_file()]


def gradient_jobs(setting: Setting) -> list[tuple]:
    """The gradients of every seed, which all its networks are pruned by."""
    return [(write_gradients, setting, seed) for seed in setting.seeds]


def course(setting: Setting, arm: str, seed: int, networks: int) -> Course:
    """What an arm did from the dense weights of a seed; the gradients stand for the search."""
    task, dense = setting.task(), setting.dense_point(seed)
    batches = min(TAYLOR_BATCHES, task.steps_per_epoch(SEARCH.batch_size))
    gradients = TRAIN * dense.gmacs * batches * SEARCH.batch_size
    points = read_points(_folder(setting, arm, seed))[:networks]
    return Course(arm, seed, gradients, 0.0, dense, 100 / task.num_classes, points)


def write_gradients(setting: Setting, seed: int) -> None:
    """Sum the gradients of the loss over the batches, as the package's example does."""
    path = _gradients(setting, seed)
    if path.is_file():
        return
    vit = setting.dense(seed).eval()
    batches = setting.task().calibration_batches(
        setting.preprocessing(seed),
        SEARCH.augmentation,
        SEARCH.batch_size,
        TAYLOR_BATCHES * SEARCH.batch_size,
        seed,
    )
    for images, labels in batches:
        F.cross_entropy(vit(images), labels).backward()
    draft = path.with_suffix(".draft")
    save_file({name: p.grad for name, p in vit.named_parameters()}, draft)
    draft.rename(path)


def prune_and_train(
    setting: Setting, seed: int, target: float, path: Path, distilled: bool, epochs: int
) -> None:
    """Prune the dense model to a share of its MACs, retrain it, and write its point."""
    dense = setting.dense(seed).eval()
    shape = setting.preprocessing(seed).input_size
    whole = macs_of(dense, shape)
    if whole != round(1e9 * setting.dense_point(seed).gmacs):
        raise SystemExit(f"{whole} MACs are counted on the dense model, not those of slim.count")
    prune = partial(pruned, dense, load_file(_gradients(setting, seed)), shape)
    vit = within(prune, shape, target * whole)
    gmacs = macs_of(vit, shape) / 1e9
    rest: dict[str, Any] = {}
    if distilled:
        options = FinetuneConfig()
        objective = distill_from(dense, options.distillation, options.temperature)
        rest = {"objective": objective, "teacher_gmacs": whole / 1e9}
    train_point(setting, seed, vit, path, gmacs, retraining(epochs), **rest)


def within(prune: Any, shape: tuple[int, ...], most: float) -> nn.Module:
    """The pruned network of the smallest ratio, to 1/4096, that has at most so many MACs."""
    low, high = 0.0, 1.0
    found: nn.Module | None = None
    for _ in range(HALVINGS):
        ratio = (low + high) / 2
        vit = prune(ratio)
        if vit is not None and macs_of(vit, shape) > most:
            low = ratio
        else:
            high, found = ratio, vit if vit is not None else found
    if found is None:
        raise SystemExit(f"Torch-Pruning finds no network of at most {most:.0f} MACs")
    return found


def pruned(
    dense: nn.Module, gradients: dict[str, Tensor], shape: tuple[int, ...], ratio: float
) -> nn.Module | None:
    """A copy of the dense model, pruned by a ratio; None where nothing would be left of a head."""
    vit: Any = copy.deepcopy(dense)
    for name, parameter in vit.named_parameters():
        parameter.grad = gradients[name].clone()
    attentions = [module for module in vit.modules() if isinstance(module, Attention)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unwrapped parameters")  # the position embedding
        pruner = torch_pruning.pruner.BasePruner(
            vit,
            torch.zeros(1, *shape),
            importance=torch_pruning.importance.GroupTaylorImportance(),
            global_pruning=True,
            isomorphic=True,
            pruning_ratio=ratio,
            ignored_layers=[vit.head],  # its outputs are the classes
            num_heads={attention.qkv: attention.num_heads for attention in attentions},
            round_to=2,
        )
        pruner.step()
    for attention in attentions:
        attention.num_heads = pruner.num_heads[attention.qkv]
        attention.head_dim = attention.qkv.out_features // (3 * attention.num_heads)
        if not attention.head_dim:
            return None
        attention.attn_dim = attention.num_heads * attention.head_dim
        attention.scale = attention.head_dim**-0.5
    vit.zero_grad(set_to_none=True)
    return vit


def macs_of(vit: nn.Module, shape: tuple[int, ...]) -> int:
    """MACs of one image, counted as it runs; the fused attention kernel would go uncounted."""
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter, torch.no_grad():
        vit(torch.zeros(1, *shape))
    return int(counter.get_total_flops()) // 2


def _gradients(setting: Setting, seed: int) -> Path:
    return setting.folder / f"taylor-{seed}.safetensors"


def _folder(setting: Setting, arm: str, seed: int) -> Path:
    name = {PLAIN: "torch-pruning", DISTILLED: "torch-pruning-distilled"}[arm]
    return setting.folder / f"{name}-{seed}"
