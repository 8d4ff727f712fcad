"""How each stage trains: its values, with their meanings and defaults."""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal, TypeAlias

from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeInt,
    PositiveInt,
    restricted_number_type,
)

from slim.recipe import Recipe
from slim.search import Penalty
from slim.tasks import Augmentation

if TYPE_CHECKING:
    Fraction: TypeAlias = float
    Share: TypeAlias = float
    Seed: TypeAlias = int
    Reduction: TypeAlias = int
    Positive: TypeAlias = float
    NonNegative: TypeAlias = float
else:
    Fraction = restricted_number_type("Fraction", float, [(">", 0), ("<=", 1)])
    Share = restricted_number_type("Share", float, [(">=", 0), ("<", 1)])
    Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**31)])
    Positive = restricted_number_type("Positive", float, [(">", 0), ("<", float("inf"))])
    NonNegative = restricted_number_type("NonNegative", float, [(">=", 0), ("<", float("inf"))])
    Reduction = restricted_number_type("Reduction", int, [("==", 0), (">=", 2)], join="or")


@dataclass(frozen=True)
class VitConfig:
    """The fresh timm VisionTransformer that `--model vit` builds for the task's images.

    Args:
        img_size: Pixels of a side; images are resized to it.
        patch_size: Pixels of a patch's side.
        embed_dim: Width of a token.
        depth: Number of blocks.
        num_heads: Attention heads per block.
        mlp_ratio: MLP units per width of a token.
        class_token: Pool by a CLS token instead of the average of the patches.
    """

    img_size: PositiveInt = 28
    patch_size: PositiveInt = 7
    embed_dim: PositiveInt = 64
    depth: PositiveInt = 6
    num_heads: PositiveInt = 4
    mlp_ratio: Positive = 4.0
    class_token: bool = False


@dataclass(frozen=True)
class TrainConfig:
    """How a stage trains; timm's names.

    Args:
        epochs: Passes over the train split.
        batch_size: Images per optimizer step, over all workers of a network together.
        accumulation: Equal parts in which a step's images go through the network one after the
            other, so that less memory does; at most the batch size. Several workers share them.
        lr: Peak learning rate.
        weight_decay: Of weight matrices.
        layer_decay: Factor of the learning rate from each block to the one before it, 1 for one
            learning rate.
        opt: timm's optimizer name.
        sched: timm's scheduler name, stepped every update.
        warmup_epochs: Linear warm-up, may be a fraction.
        label_smoothing: Share of the target spread over all classes.
        mixup: Alpha of Mixup, 0 for none.
        cutmix: Alpha of CutMix, 0 for none.
        clip_grad: Largest gradient norm, 0 for no limit.
        ema_decay: Of the weight average that is evaluated and kept, 0 for none.
        drop_path: Stochastic depth of the last block.
        grad_checkpointing: Compute blocks again for their gradients instead of keeping their
            activations; less memory, about a third more time.
        amp: Type of autocast, of the evaluations on val too; `none` computes in float32.
        affine: Small random rotations, shifts, scales and shears of each image.
        hflip: Probability of a horizontal flip.
        auto_augment: timm's policy string, for image folders.
        color_jitter: timm's strength, for image folders.
        random_erasing: Probability, for image folders.
        crop_scale: Smallest share of the area a random resized crop keeps, for image folders.
        aug_repeats: Repeated augmentation, versions of an image shown side by side; an epoch of
            as many steps shows fewer different images. 1 for none.
    """

    epochs: NonNegativeInt = 1
    batch_size: PositiveInt = 64
    accumulation: PositiveInt = 1
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.05
    layer_decay: Fraction = 1.0
    opt: str = "adamw"
    sched: str = "cosine"
    warmup_epochs: NonNegative = 0.0
    label_smoothing: Share = 0.0
    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0
    clip_grad: NonNegative = 1.0
    ema_decay: Share = 0.0
    drop_path: Share = 0.0
    grad_checkpointing: bool = False
    amp: Literal["none", "bfloat16", "float16"] = "none"
    affine: bool = True
    hflip: ClosedUnitInterval = 0.0
    auto_augment: str = ""
    color_jitter: NonNegative = 0.0
    random_erasing: ClosedUnitInterval = 0.0
    crop_scale: Fraction = 1.0
    aug_repeats: PositiveInt = 1

    @property
    def images_at_once(self) -> int:
        """Images that go through the network together: a part of a step's."""
        return max(1, self.batch_size // self.accumulation)

    def recipe(self, processes: int = 1) -> Recipe:
        """The recipe that `slim` trains by, in each of so many processes."""
        distortions = {f.name: getattr(self, f.name) for f in fields(Augmentation)}
        rest = {f.name: getattr(self, f.name) for f in fields(Recipe) if f.name != "augmentation"}
        rest["batch_size"] = self.batch_size // processes
        rest["accumulation"] = -(-self.accumulation // processes)
        return Recipe(**rest, augmentation=Augmentation(**distortions))


@dataclass(frozen=True)
class DenseConfig(TrainConfig):
    """Training of the dense model; with 0 epochs it is only loaded.

    Args:
        epochs: Passes over the train split; default: 20 for a fresh model, else 0.
    """

    epochs: NonNegativeInt | None = None
    lr: Positive = 1e-2
    opt: str = "muon"
    warmup_epochs: NonNegative = 2.0
    label_smoothing: Share = 0.1


@dataclass(frozen=True)
class SearchConfig(TrainConfig):
    """The mask search.

    Args:
        mask_lr: Learning rate of the masks.
        token_mask: How a soft token mask acts: `log` is added to the scores of the softmax, `tanh`
            multiplies tokens as in the paper.
        score: What ranks after the search: the `mask` itself, or `taylor`, its first-order worth
            to the loss (with token masks of the kind `log`).
        score_images: Training images for `taylor`.
        penalty: Weights of the l1 penalties, each on the mean mask of its dimension.
        distillation: Share of the loss that follows the dense model's soft outputs.
        temperature: Divides the logits before the soft outputs.
    """

    epochs: PositiveInt = 5
    lr: Positive = 5e-4
    weight_decay: NonNegative = 1e-3
    sched: str = "constant"
    mask_lr: Positive = 5e-3
    token_mask: Literal["log", "tanh"] = "log"
    score: Literal["mask", "taylor"] = "mask"
    score_images: PositiveInt = 2048
    penalty: Penalty = field(default_factory=lambda: Penalty(tokens=0.05, mhsa=0.2, mlp=0.2))
    distillation: ClosedUnitInterval = 0.7
    temperature: Positive = 2.0


@dataclass(frozen=True)
class ShareConfig(TrainConfig):
    """Training of weights that all budgets share, after the search.

    Each step trains the full-size network, the smallest of the space and random ones between, all
    on the same weights.

    Args:
        epochs: Passes over the train split; default: 5 with the method `share`, else 0: then
            budgets are cut from the search.
        networks: Random networks in each step. Stochastic depth and gradient checkpointing reach
            the full-size network alone.
        distillation: Share of the loss that follows the dense model's soft outputs.
        temperature: Divides the logits before the soft outputs.
    """

    epochs: NonNegativeInt | None = None
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.02
    warmup_epochs: NonNegative = 0.2
    networks: PositiveInt = 1
    distillation: ClosedUnitInterval = 0.9
    temperature: Positive = 2.0


@dataclass(frozen=True)
class FinetuneConfig(TrainConfig):
    """Repair and fine-tuning of each subnetwork, distilled from the dense model.

    Args:
        epochs: Passes over the train split.
        repair_images: Training images for the closed-form repair of judged networks, and of
            trained ones before their training, 0 for none.
        dense: Train the dense budget, trial 0, too, from the weights that all are cut from and as
            long as the others; else trial 0 is the dense model as it stands.
        reduction: Early stopping: of the trials that come to a rung (epochs / reduction, epochs /
            reduction^2, ...) one of so many goes on, at least 2, by non-dominated rank; 0 for no
            stopping.
        distillation: Share of the loss that follows the dense model's soft outputs.
        temperature: Divides the logits before the soft outputs.
    """

    epochs: PositiveInt = 8
    lr: Positive = 5e-3
    opt: str = "muon"
    weight_decay: NonNegative = 0.02
    warmup_epochs: NonNegative = 0.2
    repair_images: NonNegativeInt = 1024
    dense: bool = False
    reduction: Reduction = 0
    distillation: ClosedUnitInterval = 0.9
    temperature: Positive = 2.0


@dataclass(frozen=True)
class TransferConfig(TrainConfig):
    """Training of the front's networks, with a new head, on other tasks.

    Args:
        methods: Comma-separated: `finetune` trains all weights, `probe` a linear classifier on
            frozen features, `scratch` the same architecture from fresh weights.
        seeds: Repeats of each network, task and method, each with its own seed.
        lr: Peak learning rate of `finetune`.
        probe_lr: Peak learning rate of `probe`.
        scratch_lr: Peak learning rate of `scratch`.
        img_size: Height and width in pixels of the tasks' images, to which the networks are
            adapted; default: the model's.
    """

    epochs: PositiveInt = 8
    lr: Positive = 1e-3
    warmup_epochs: NonNegative = 1.0
    methods: str = "finetune"
    seeds: PositiveInt = 1
    probe_lr: Positive = 1e-2
    scratch_lr: Positive = 1e-3
    img_size: PositiveInt | None = None
