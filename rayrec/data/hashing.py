"""Seeded hashes of strings that never change between machines, versions or runs."""

import numpy as np
import pyarrow as pa

_MULTIPLIER = np.uint64(0x100000001B3)
_STEP = np.uint64(0x9E3779B97F4A7C15)


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: every bit of the input moves every bit of the output."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


def hash_strings(strings: pa.Array, seed: int = 0) -> np.ndarray:
    """uint64 hash of each string: a polynomial over its bytes, mixed with its length and the seed.

    Args:
        strings: a string array; a null hashes like "".
        seed: another seed gives an unrelated hash.
    """
    binary = strings.fill_null("").cast(pa.large_binary())
    offsets = np.frombuffer(binary.buffers()[1], np.int64, len(binary) + 1, binary.offset * 8)
    data = np.frombuffer(binary.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]].astype(np.uint64)
    offsets = offsets - offsets[0]
    lengths = np.diff(offsets)
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.full(int(lengths.max(initial=0)) + 1, _MULTIPLIER))
        position = np.arange(len(data)) - np.repeat(offsets[:-1], lengths)
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum((data + np.uint64(1)) * powers[position])])
        polynomial = sums[offsets[1:]] - sums[offsets[:-1]]
        start = _mix(np.array([seed], np.uint64) * _STEP + _STEP)
        return _mix(polynomial + lengths.astype(np.uint64) * _STEP + start)


def hash_fractions(strings: pa.Array, seed: int) -> np.ndarray:
    """The hash as a float in [0, 1), to take a fixed share of things."""
    return (hash_strings(strings, seed) >> np.uint64(11)) / float(1 << 53)
