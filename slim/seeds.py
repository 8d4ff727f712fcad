"""Seeds from counters: every random draw is a function of the seed and of where a training is."""

import hashlib

import numpy as np


def derive_seed(purpose: str, *counters: int) -> int:
    """A seed of 32 bits for one purpose at one place, the same in every process.

    Args:
        purpose: Draws for different purposes are independent.
        counters: The user's seed, epoch, step, rank, ...
    """
    text = " ".join([purpose, *map(str, counters)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())


def seed_alike(seed: int, update: int) -> None:
    """Seed what a training with this seed draws in a step alike in all processes.

    That is numpy's global generator, from which timm's Mixup and weight sharing draw.
    """
    np.random.seed(derive_seed("mixup", seed, update))
