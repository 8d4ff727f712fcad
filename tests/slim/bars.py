"""A task that a tiny Vision Transformer learns in a few steps, and such a Vision Transformer."""

from typing import Any

import numpy as np
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from slim.tasks import ArrayTask, Preprocessing

PREPROCESSING = Preprocessing((1, 8, 8), (0.3,), (0.3,))


def bars(count: int = 120, classes: int = 2) -> ArrayTask:
    """Noise (1, 8, 8) with a bright bar in the row that is the class."""
    labels = np.arange(count) % classes
    images = np.random.default_rng(0).integers(0, 100, (count, 1, 8, 8), dtype=np.uint8)
    images[np.arange(count), 0, labels] = 250
    names = tuple(f"row {row}" for row in range(classes))
    return ArrayTask.stratified("bars", images, labels.astype(np.int64), names)


def tiny_vit(seed: int = 0, **changes: Any) -> VisionTransformer:
    sizes: dict[str, Any] = {
        "img_size": 8,
        "patch_size": 4,
        "in_chans": 1,
        "num_classes": 2,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "mlp_ratio": 2.0,
    }
    torch.manual_seed(seed)
    return VisionTransformer(**(sizes | changes))


def tiny_swin(seed: int = 0, **changes: Any) -> SwinTransformer:
    sizes: dict[str, Any] = {
        "img_size": 8,
        "patch_size": 2,
        "in_chans": 1,
        "num_classes": 2,
        "embed_dim": 16,
        "depths": (2, 1),
        "num_heads": (2, 4),
        "window_size": 2,
        "mlp_ratio": 2.0,
        "drop_path_rate": 0.0,
    }
    torch.manual_seed(seed)
    return SwinTransformer(**(sizes | changes))


def a_batch(count: int = 4) -> tuple[Tensor, Tensor]:
    """The first images (count, 1, 8, 8) of the val split and their labels."""
    return next(iter(bars().eval_batches("val", PREPROCESSING, count)))


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
