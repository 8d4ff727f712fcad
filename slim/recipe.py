"""How a network is trained: plain data, in timm's words."""

from dataclasses import dataclass, field

from slim.errors import RecipeError
from slim.tasks import Augmentation

PRECISIONS = ("none", "bfloat16", "float16")


@dataclass(frozen=True)
class Recipe:
    """A training recipe.

    Args:
        epochs: Passes over the train split.
        batch_size: Images per optimizer step and process.
        accumulation: Equal parts that these images go through the network in, one after the
            other: less memory, the same step.
        lr: Peak learning rate.
        weight_decay: Of weight matrices (not of norms, biases, embeddings or masks).
        layer_decay: Factor of the learning rate from each block to the one before it, 1 for none.
        opt: timm's optimizer name.
        sched: timm's scheduler name (`cosine`, `constant`, ...), stepped every update.
        warmup_epochs: Linear warm-up from a hundredth of `lr`; may be a fraction.
        label_smoothing: Share of the target spread over all classes.
        mixup: Alpha of timm's Mixup, 0 for none.
        cutmix: Alpha of timm's CutMix, 0 for none.
        clip_grad: Largest gradient norm, 0 for no limit.
        ema_decay: Of timm's weight average that is evaluated and kept, 0 for none.
        drop_path: Stochastic depth of the last block; earlier blocks less, linearly.
        grad_checkpointing: Keep each block's input only and compute the block again for its
            gradients: less memory, about a third more time, the same gradients.
        amp: `none`, `bfloat16` or `float16` (with loss scaling); of the evaluations on val too.
        augmentation: Random distortions of training images.

    Raises:
        RecipeError: If the batch size or `accumulation` is below 1, a step has more parts than
            images, or `amp` is unknown.
    """

    epochs: int = 1
    batch_size: int = 64
    accumulation: int = 1
    lr: float = 1e-3
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    opt: str = "adamw"
    sched: str = "cosine"
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    clip_grad: float = 1.0
    ema_decay: float = 0.0
    drop_path: float = 0.0
    grad_checkpointing: bool = False
    amp: str = "none"
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.amp not in PRECISIONS:
            raise RecipeError(f"amp {self.amp!r} is not one of {', '.join(PRECISIONS)}")
        if min(self.batch_size, self.accumulation) < 1:
            raise RecipeError(
                f"accumulation {self.accumulation} of batch_size {self.batch_size}: both must be "
                "at least 1"
            )
        if self.accumulation > self.batch_size:
            raise RecipeError(
                f"accumulation {self.accumulation} is more than the batch size {self.batch_size}; "
                "a step cannot have more parts than images"
            )
