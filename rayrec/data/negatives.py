"""Negative items for the sampled softmax, drawn by (seed, epoch, step, stream) and nothing else.

Letters: K negatives, S steps.
"""

import numpy as np


def seeded(*key: int) -> np.random.Generator:
    """A generator that depends on the key alone; different keys of one length give independent streams.

    Args:
        key: non-negative integers.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def uniform_negatives(items: np.ndarray, count: int, first: int, steps: int, *key: int) -> np.ndarray:
    """[S, K], as `items`: uniform draws with replacement for consecutive steps, each by its number and the key alone.

    Args:
        items: int64, the dense indices to draw from, fewer than 2^32; held-out items are not among them.
        count: K.
        first: number of the first step.
        steps: S.
        key: of the stream of numbers, in which each step has its own place.
    """
    places = -(-count // 2)  # a number of 64 bits gives two draws
    generator = np.random.PCG64DXSM(np.random.SeedSequence(key)).advance(first * places)
    halves = generator.random_raw(steps * places).view(np.uint32).reshape(steps, -1)[:, :count]
    places_SK = (halves * np.uint64(len(items))) >> np.uint64(32)
    return items.take(places_SK.view(np.int64))
