"""One training loop for every stage: dense, search, fine-tuning, transfer."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F

from slim.errors import (
    DivergenceError,
    FileFormatError,
    StoppedTraining,
    UnsupportedModelError,
)
from slim.evaluation import top1
from slim.modes import autocast, recomputed_blocks, set_drop_path
from slim.optimizers import make_optimizer, make_scheduler
from slim.parameter_groups import timm_model, weight_groups
from slim.processes import Processes, without_averaging
from slim.recipe import Recipe
from slim.seeds import derive_seed, seed_alike
from slim.targets import Targets
from slim.tasks import SPLITS, Preprocessing, Task
from slim.training_state import reading_state, write_state

STATE_SECONDS = 300.0
SMALLEST_SCALE = 2.0**-14  # of a float16 loss; what overflows even then is not finite

# Maps (model, images, targets) to a scalar loss, the mean over the images; targets are labels
# (B,) or soft (B, classes).
Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: its number from 1, mean train loss, val top-1 in percent, seconds; of
    one that an earlier session finished also how many of those there are."""

    epoch: int
    loss: float
    val_top1: float
    seconds: float
    before: int = 0


def cross_entropy(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """The plain classification loss."""
    return F.cross_entropy(model(images), targets)


def never() -> bool:
    """Nobody asks to stop."""
    return False


class Training:
    """A model in training; iterate `epochs()` and take `evaluated` when it ends.

    Where `torch.distributed` is initialised, its processes train the model together: each on its
    share of every batch, with `batch_size` images a step, and all end with the same weights.
    They see the images, distortions and mixtures that one process sees in a batch as large as
    theirs together; dropout and stochastic depth alone are drawn in each.

    Args:
        model: Trained in place, on `device`.
        task: Its train split is trained on, its val split evaluated after each epoch.
        preprocessing: What the model expects of an image.
        recipe: How.
        objective: The loss.
        seed: Of data order, distortions and dropout. All draws are functions of it and of the
            step, so that a resumed training goes the same way.
        device: Where; with several GPUs in a node, the one of this process.
        param_groups: For the optimizer; by default weights with and without weight decay.
        after_step: Called after each optimizer step.

    Attributes:
        history: The finished epochs, those before an interruption too.
        accumulation: Parts of a batch that go through the network one after the other; more than
            the recipe's where the GPU's memory could not hold those.

    Raises:
        RecipeError: If timm has no such optimizer or scheduler, or one that does not fit.
        UnsupportedModelError: If the recipe asks for gradient checkpointing and the model has
            none.
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
        self.processes = Processes.current()
        self.model = model.to(device)
        self.task, self.preprocessing, self.recipe = task, preprocessing, recipe
        self.objective, self.seed, self.device = objective, seed, torch.device(device)
        self.after_step = after_step
        self.history: list[Epoch] = []
        self.running = RunningEpoch()
        self.saved = "no state of it was saved"
        self.accumulation = recipe.accumulation
        self.steps = task.steps_per_epoch(recipe.batch_size, self.processes.world_size)
        set_drop_path(model, recipe.drop_path)
        if recipe.grad_checkpointing and not hasattr(timm_model(model), "set_grad_checkpointing"):
            raise UnsupportedModelError("gradient checkpointing needs one of timm's models")
        groups = param_groups or weight_groups(model, recipe.weight_decay, recipe.layer_decay)
        self.optimizer = make_optimizer(groups, recipe)
        self.scheduler = make_scheduler(self.optimizer, recipe, max(1, self.steps))
        self.parallel = self.processes.wrap(self.model)  # from here on all ranks' weights agree
        self.ema = ModelEmaV3(model, decay=recipe.ema_decay) if recipe.ema_decay else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.amp == "float16")
        self.targets = Targets(recipe, task.num_classes)

    @property
    def evaluated(self) -> nn.Module:
        """The model that is evaluated and kept: the weight average if there is one."""
        return self.ema.module if self.ema is not None else self.model

    @property
    def done(self) -> int:
        """How many epochs are finished."""
        return len(self.history)

    def epochs(self) -> Iterator[Epoch]:
        """Train epoch after epoch, from where `load_state` left it.

        Raises:
            DivergenceError: If the loss or the gradients are no longer finite.
        """
        while self.done < self.recipe.epochs:
            for _ in self._rest_of_epoch():
                pass
            yield self._finish_epoch()

    def resumable_epochs(
        self,
        state: Path,
        every: float = STATE_SECONDS,
        stop_requested: Callable[[], bool] = never,
    ) -> Iterator[Epoch]:
        """As `epochs`, from the state file if there is one, at the step where it was written.

        Args:
            state: Written after each epoch, and while one runs; seen by all processes.
            every: Seconds after which it is written again.
            stop_requested: Asked after each step; the answer of one process is enough.

        Raises:
            DivergenceError: If the loss or the gradients are no longer finite.
            FileFormatError: If the file is damaged, foreign, of another model or recipe, or not
                seen by all processes.
            StoppedTraining: After the state of the step that ran was written.
        """
        if state.is_file():
            self.load_state(state)
        if not self.processes.agree(self._taken(), self.device):
            raise FileFormatError(
                f"{state} is not the same for all processes; put it where all of them see it"
            )
        written = time.monotonic()
        while self.done < self.recipe.epochs:
            for _ in self._rest_of_epoch():
                if self.processes.any(stop_requested(), self.device):
                    self.save_state(state)
                    raise StoppedTraining(f"stopped as asked; {self.saved}")
                if time.monotonic() - written >= every:
                    self.save_state(state)
                    written = time.monotonic()
            epoch = self._finish_epoch()
            self.save_state(state)
            written = time.monotonic()
            yield epoch

    def save_state(self, path: Path) -> None:
        """Write everything that `load_state` needs, as one atomic step; rank 0 writes for all."""
        if self.processes.rank == 0:
            state = {
                "history": [astuple(epoch) for epoch in self.history],
                "running": astuple(self.running),
                "steps": self.steps,
                "made_with": self._made_with(),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "ema": self.ema.module.state_dict() if self.ema is not None else {},
            }
            write_state(path, state)
        self._note_state(path)

    def load_state(self, path: Path) -> None:
        """Go on from a state of the same model and recipe; read without running code.

        Raises:
            FileFormatError: If the file is damaged, foreign or of another model or recipe.
        """
        with reading_state(path) as state:
            if state["steps"] != self.steps:
                raise ValueError(
                    f"its epochs have {state['steps']} steps, these {self.steps}, so batch size, "
                    "processes or data differ"
                )
            differing = self._differing(state["made_with"])
            if differing:
                raise ValueError(f"it was written with other values of {differing}")
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            if self.ema is not None:
                self.ema.module.load_state_dict(state["ema"])
            self.history = [Epoch(*values) for values in state["history"]]
            self.running = RunningEpoch(*state["running"])
        self._note_state(path)

    def step(self, images: Tensor, labels: Tensor, update: int) -> float:
        """Take one optimizer step, the `update`-th from 1.

        Returns:
            The loss, averaged over the processes.

        Raises:
            DivergenceError: If the loss or the gradients are not finite.
        """
        self._seed(update)
        if self.scheduler is not None:
            self.scheduler.step_update(update - 1)
        images = images.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        loss = self._backward_that_fits(*self.targets(images, labels), update)
        self._check_finite("loss", loss, update)
        self.scaler.unscale_(self.optimizer)
        norm = self._clip_gradients()
        if self._loss_scale() < SMALLEST_SCALE:  # else the scaler leaves the step out
            self._check_finite("gradient norm", norm, update)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.after_step is not None:
            self.after_step()
        if self.ema is not None:
            self.ema.update(self.model, step=update)
        return loss

    def _rest_of_epoch(self) -> Iterator[None]:
        """Train the steps that the running epoch still has; yields after each."""
        self.parallel.train()
        batches = self.task.train_batches(
            self.preprocessing,
            self.recipe.augmentation,
            self.recipe.batch_size,
            self.seed,
            self.done,
            self.processes.rank,
            self.processes.world_size,
            start_step=self.running.step,
        )
        started = time.monotonic() - self.running.seconds
        for images, labels in batches:
            self.running.loss += self.step(images, labels, self._taken() + 1)
            self.running.step += 1
            self.running.seconds = time.monotonic() - started
            yield

    def _finish_epoch(self) -> Epoch:
        """Evaluate what the epoch left."""
        started = time.monotonic()
        accuracy = top1(
            self.evaluated,
            self.task,
            "val",
            self.preprocessing,
            device=self.device,
            processes=self.processes,
            amp=self.recipe.amp,
        )
        seconds = self.running.seconds + time.monotonic() - started
        epoch = Epoch(self.done + 1, self.running.loss / max(1, self.steps), accuracy, seconds)
        self.history.append(epoch)
        self.running = RunningEpoch()
        return epoch

    def _seed(self, update: int) -> None:
        """Seed all that a step draws: mixtures alike in all processes, dropout apart."""
        seed_alike(self.seed, update)
        torch.manual_seed(derive_seed("dropout", self.seed, update, self.processes.rank))

    def _backward_that_fits(self, images: Tensor, targets: Tensor, update: int) -> float:
        """`_backward`, with parts halved until the memory holds them; one process alone."""
        while True:
            try:
                return self._backward(images, targets)
            except torch.OutOfMemoryError:
                if self.processes.world_size > 1 or 2 * self.accumulation > len(images):
                    raise
            self.accumulation *= 2  # here, where the error no longer holds the tensors it met
            self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            self._seed(update)

    def _backward(self, images: Tensor, targets: Tensor) -> float:
        """Leave the gradients of the batch's mean loss, part by part; returns that loss."""
        self.optimizer.zero_grad(set_to_none=True)
        count = self.accumulation
        parts = list(zip(images.tensor_split(count), targets.tensor_split(count), strict=True))
        total = torch.zeros((), device=self.device)
        drawn = np.random.get_state()
        for number, part in enumerate(parts, 1):
            np.random.set_state(drawn)  # an objective draws the same for every part
            with without_averaging(self.parallel) if number < count else nullcontext():
                total += self._backward_part(*part, len(images))
        return self.processes.mean(total)

    def _backward_part(self, images: Tensor, targets: Tensor, batch: int) -> Tensor:
        """Add the gradients of a part of the batch; returns its share of the loss."""
        recompute = self.recipe.grad_checkpointing
        with recomputed_blocks(self.model) if recompute else nullcontext():
            with autocast(self.device, self.recipe.amp):
                loss = len(images) / batch * self.objective(self.parallel, images, targets)
            self.scaler.scale(loss).backward()
        return loss.detach().float()

    def _clip_gradients(self) -> float:
        """Shorten the gradients to the largest norm allowed; returns the norm they had."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.recipe.clip_grad:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), self.recipe.clip_grad, norm)
        return float(norm)

    def _check_finite(self, what: str, value: float, update: int) -> None:
        if not math.isfinite(value):
            raise DivergenceError(
                f"the {what} is {value} at {self._place(update)}; lower the learning rate; "
                f"{self.saved}"
            )

    def _loss_scale(self) -> float:
        """What the loss is multiplied by; 0 where it is not scaled."""
        return self.scaler.get_scale() if self.scaler.is_enabled() else 0.0

    def _note_state(self, path: Path) -> None:
        """Remember the last state for what an error says."""
        self.saved = f"its last state, after {self._place(self._taken())}, is {path}"

    def _made_with(self) -> dict[str, Any]:
        """What must be the same for a state to be gone on from, as plain values."""
        batch = self.recipe.batch_size * self.processes.world_size
        recipe = asdict(self.recipe) | {"batch_size": batch, "accumulation": None}
        return recipe | {"seed": self.seed, "data": self.task.name, "images": self._sizes()}

    def _sizes(self) -> list[int]:
        return [self.task.size(split) for split in SPLITS]

    def _differing(self, made_with: dict[str, Any]) -> str:
        ours = self._made_with()
        return ", ".join(name for name in ours if made_with.get(name) != ours[name])

    def _taken(self) -> int:
        """Optimizer steps taken in all."""
        return self.done * self.steps + self.running.step

    def _place(self, update: int) -> str:
        return f"step {update} (epoch {(update - 1) // max(1, self.steps) + 1})"


@dataclass
class RunningEpoch:
    """How far the running epoch is: steps taken, the sum of their losses, seconds they took."""

    step: int = 0
    loss: float = 0.0
    seconds: float = 0.0
