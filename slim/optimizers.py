"""timm's optimizer and scheduler of a recipe."""

from typing import Any

from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch.optim import Optimizer

from slim.errors import RecipeError
from slim.recipe import Recipe


def make_optimizer(groups: list[dict[str, Any]], recipe: Recipe) -> Optimizer:
    """The optimizer that a recipe names.

    Args:
        groups: Of parameters, each with its weight decay.
        recipe: Of the training.

    Raises:
        RecipeError: If timm has none of the name here, or it needs second derivatives.
    """
    try:
        made: Optimizer = create_optimizer_v2(groups, opt=recipe.opt, lr=recipe.lr)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise _unusable("opt", recipe.opt, error) from error
    if getattr(made, "is_second_order", False):
        raise RecipeError(f"opt {recipe.opt} needs second derivatives; give another of timm's")
    return made


def make_scheduler(optimizer: Optimizer, recipe: Recipe, steps: int) -> Scheduler | None:
    """The scheduler that a recipe names, to be stepped every update; None where the rate stays.

    Args:
        optimizer: Whose learning rates it sets; where there is none, those of groups with a scale
            of layer decay are set here.
        recipe: Of the training.
        steps: Updates of an epoch.

    Raises:
        RecipeError: If timm has none of the name, or it cannot be stepped so.
    """
    try:
        made: Scheduler | None = create_scheduler_v2(
            optimizer,
            sched=recipe.sched,
            num_epochs=recipe.epochs,
            warmup_epochs=recipe.warmup_epochs,
            warmup_lr=recipe.lr / 100,
            step_on_epochs=False,
            updates_per_epoch=steps,
        )[0]
    except (AssertionError, ValueError) as error:
        raise _unusable("sched", recipe.sched, error) from error
    if made is None:
        for group in optimizer.param_groups:
            group["lr"] *= group.get("lr_scale", 1.0)
    return made


def _unusable(what: str, name: str, error: Exception) -> RecipeError:
    reason = " ".join(str(error).split()).rstrip(".")
    return RecipeError(f"{what} {name} cannot be used: {reason}; give another of timm's")
