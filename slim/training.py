"""One training loop for every stage: dense, search, fine-tuning, transfer."""

import math
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import Mixup
from timm.layers import DropPath, calculate_drop_path_rates
from timm.optim import create_optimizer_v2
from timm.optim._param_groups import param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F

from slim.errors import DivergenceError, FileFormatError
from slim.evaluation import top1
from slim.recipe import Recipe
from slim.tasks import Preprocessing, Task

# What `torch.load` and `load_state_dict` raise on a file that is damaged or of something else.
UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
)

# Maps (model, images, targets) to a scalar loss; targets are labels (B,) or soft (B, classes).
Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: its number from 1, mean train loss, val top-1 in percent, seconds."""

    epoch: int
    loss: float
    val_top1: float
    seconds: float


def cross_entropy(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """The plain classification loss."""
    return F.cross_entropy(model(images), targets)


class Training:
    """A model in training; iterate `epochs()` and take `model` when it ends.

    Args:
        model: Trained in place, on `device`.
        task: Its train split is trained on, its val split evaluated after each epoch.
        preprocessing: What the model expects of an image.
        recipe: How.
        objective: The loss.
        seed: Of data order, distortions and dropout; each epoch is seeded by itself, so that a
            resumed training goes the same way.
        device: Where.
        param_groups: For the optimizer; by default weights with and without weight decay.
        after_step: Called after each optimizer step.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        preprocessing: Preprocessing,
        recipe: Recipe,
        objective: Objective = cross_entropy,
        seed: int = 0,
        device: torch.device | str = "cpu",
        param_groups: list[dict[str, Any]] | None = None,
        after_step: Callable[[], None] | None = None,
    ) -> None:
        self.model = model.to(device)
        self.task, self.preprocessing, self.recipe = task, preprocessing, recipe
        self.objective, self.seed, self.device = objective, seed, torch.device(device)
        self.after_step = after_step
        self.done = 0
        self.steps = task.steps_per_epoch(recipe.batch_size)
        set_drop_path(model, recipe.drop_path)
        groups = param_groups or weight_groups(model, recipe.weight_decay)
        self.optimizer = create_optimizer_v2(
            groups, opt=recipe.opt, lr=recipe.lr, weight_decay=0.0
        )
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer,
            sched=recipe.sched,
            num_epochs=recipe.epochs,
            warmup_epochs=recipe.warmup_epochs,
            warmup_lr=recipe.lr / 100,
            step_on_epochs=False,
            updates_per_epoch=max(1, self.steps),
        )
        self.ema = ModelEmaV3(model, decay=recipe.ema_decay) if recipe.ema_decay else None
        half = self.device.type == "cuda" and recipe.amp == "float16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.mixup = _mixup(recipe, task.num_classes)

    @property
    def evaluated(self) -> nn.Module:
        """The model that is evaluated and kept: the weight average if there is one."""
        return self.ema.module if self.ema is not None else self.model

    def epochs(self) -> Iterator[Epoch]:
        """Train epoch after epoch, from where `load_state` left it.

        Raises:
            DivergenceError: If the loss is no longer finite.
        """
        while self.done < self.recipe.epochs:
            started = time.monotonic()
            loss = self._train_epoch(self.done)
            self.done += 1
            accuracy = top1(
                self.evaluated, self.task, "val", self.preprocessing, device=self.device
            )
            yield Epoch(self.done, loss, accuracy, time.monotonic() - started)

    def resumable_epochs(self, state: Path) -> Iterator[Epoch]:
        """As `epochs`, from the state file if there is one, which is written after each epoch."""
        if state.is_file():
            self.load_state(state)
        for epoch in self.epochs():
            self.save_state(state)
            yield epoch

    def save_state(self, path: Path) -> None:
        """Write everything that `load_state` needs, as one atomic step."""
        state = {
            "done": self.done,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema is not None else {},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".draft")
        torch.save(state, draft)
        draft.replace(path)

    def load_state(self, path: Path) -> None:
        """Go on from a state of the same model and recipe; read without running code.

        Raises:
            FileFormatError: If the file is damaged, foreign or of another model or recipe.
        """
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            if self.ema is not None:
                self.ema.module.load_state_dict(state["ema"])
            self.done = int(state["done"])
        except UNREADABLE as error:
            line = " ".join(str(error).split())[:200]
            raise FileFormatError(
                f"{path} is not a state of this training: {line}; "
                "remove it to train from the start"
            ) from error

    def _train_epoch(self, epoch: int) -> float:
        """One pass over the train split; the mean loss."""
        seed = hash((self.seed, epoch)) & 0x7FFFFFFF
        torch.manual_seed(seed)
        np.random.seed(seed)  # timm's Mixup draws from it
        self.model.train()
        total, step = 0.0, 0
        batches = self.task.train_batches(
            self.preprocessing, self.recipe.augmentation, self.recipe.batch_size, self.seed, epoch
        )
        for step, (images, labels) in enumerate(batches, start=1):
            update = epoch * self.steps + step
            total += self.step(images.to(self.device), labels.to(self.device), update)
        return total / max(1, step)

    def step(self, images: Tensor, labels: Tensor, update: int) -> float:
        """Take one optimizer step, the `update`-th from 1; returns the loss.

        Raises:
            DivergenceError: If the loss is not finite.
        """
        if self.scheduler is not None:
            self.scheduler.step_update(update - 1)
        images, targets = self._targets(images, labels)
        with self._autocast():
            loss = self.objective(self.model, images, targets)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergenceError(
                f"the loss is {value} at step {update} (epoch {(update - 1) // self.steps + 1}); "
                "lower the learning rate"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.recipe.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.after_step is not None:
            self.after_step()
        if self.ema is not None:
            self.ema.update(self.model, step=update)
        return value

    def _targets(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix images, and make labels soft where the recipe asks for it."""
        classes, smoothing = self.task.num_classes, self.recipe.label_smoothing
        if self.mixup is not None:
            even = len(images) // 2 * 2  # timm takes pairs, and mixes them in place
            _, soft = self.mixup(images[:even], labels[:even])
            return images, torch.cat([soft, smooth_labels(labels[even:], classes, smoothing)])
        if smoothing:
            return images, smooth_labels(labels, classes, smoothing)
        return images, labels

    def _autocast(self) -> Any:
        if self.recipe.amp == "none":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.recipe.amp))


def smooth_labels(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Labels (B,) as distributions (B, classes)."""
    hard = F.one_hot(labels, num_classes).float()
    return hard * (1 - smoothing) + smoothing / num_classes


def weight_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """timm's two groups: matrices with weight decay; norms, biases and embeddings without."""
    skip = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    groups: list[dict[str, Any]] = param_groups_weight_decay(
        model, weight_decay, no_weight_decay_list=skip
    )
    return groups


def set_drop_path(model: nn.Module, rate: float) -> None:
    """Set stochastic depth, rising linearly from 0 in the first block to `rate` in the last."""
    blocks = [module for module in model.modules() if hasattr(module, "drop_path1")]
    for block, prob in zip(blocks, calculate_drop_path_rates(rate, len(blocks)), strict=True):
        for name in ("drop_path1", "drop_path2"):  # timm has no DropPath where the rate was 0
            setattr(block, name, DropPath(prob).train(block.training))


def _mixup(recipe: Recipe, num_classes: int) -> Mixup | None:
    if not recipe.mixup and not recipe.cutmix:
        return None
    return Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        label_smoothing=recipe.label_smoothing,
        num_classes=num_classes,
    )
