"""Seeds from counters: every random draw is a function of the seed and of where a training is."""

import hashlib


def derive_seed(purpose: str, *counters: int) -> int:
    """A seed of 32 bits for one purpose at one place, the same in every process.

    Args:
        purpose: Draws for different purposes are independent.
        counters: The user's seed, epoch, step, rank, ...
    """
    text = " ".join([purpose, *map(str, counters)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())
