"""Negative items for the sampled softmax, drawn by (seed, epoch, step, stream) and nothing else."""

import numpy as np


def seeded(*key: int) -> np.random.Generator:
    """A generator that depends on the key alone; different keys of one length give independent streams.

    Args:
        key: non-negative integers.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def uniform_negatives(items: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """int64 [count]: a uniform draw with replacement.

    Args:
        items: the dense indices to draw from; held-out items are not among them.
        count: how many.
        rng: from `seeded`.
    """
    drawn: np.ndarray = items[rng.integers(0, len(items), count)]
    return drawn.astype(np.int64)
