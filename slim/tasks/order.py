"""In which order the images of an epoch come, and which of them are a process's own."""

import numpy as np


def epoch_order(size: int, seed: int, epoch: int, repeats: int = 1) -> np.ndarray:
    """The train split's indices in the order of an epoch: (size,).

    With repeats, each image drawn comes so many times in a row and the epoch is as long as
    without, as timm's `RepeatAugSampler` orders them over all processes together (repeated
    augmentation, Hoffer et al., arXiv 1901.09335).
    """
    order = np.random.default_rng((seed, epoch)).permutation(size)
    return np.repeat(order, repeats)[:size]


def rank_positions(batch_size: int, rank: int, world_size: int) -> np.ndarray:
    """Which images of the global batch (batch_size * world_size) a process gets: (batch_size,).

    Taken alike from both ends: Mixup mixes an image with its mirror in the batch, and so finds
    in an even batch of one process the partners that it finds in the global batch.
    """
    half, total = batch_size // 2, batch_size * world_size
    front = np.arange(rank * half, (rank + 1) * half)
    middle = np.arange(batch_size % 2) + world_size * half + rank
    return np.concatenate([front, middle, total - 1 - front[::-1]])
