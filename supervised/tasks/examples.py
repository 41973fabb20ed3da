"""Which random stream makes which example, and in what order a run sees its training examples.

Example i of a split is a function of the task's options, the split and i, and of nothing else: not of the batch it
comes in, the platform or the library versions. The indices of a run's fresh training examples start at seed * 2**32.
"""

from functools import lru_cache

import numpy as np

from engram.envs.streams import STREAM, below, mix
from engram.kernels import njit

SPLITS = {"train": 0, "valid": 1, "test": 2}


def streams(split: str, indices: np.ndarray) -> np.ndarray:
    """One random stream for each example, a record array [B], from the examples' indices, uint64 [B]."""
    opened = np.empty(len(indices), STREAM)
    _open(SPLITS[split], indices, opened["rng"])
    return opened


def training_indices(start: int, count: int, seed: int, size: int | None) -> np.ndarray:
    """The training examples that a run sees from its `start`-th on, uint64 [count].

    Args: seed: of the run.
          size: of the training set, which every epoch goes through in an order of its own; None for fresh examples.
    """
    position = np.arange(start, start + count, dtype=np.uint64)
    if size is None:
        return (np.uint64(seed) << np.uint64(32)) + position
    epoch, place = divmod(position, np.uint64(size))
    return np.concatenate([_order(size, seed, int(e))[place[epoch == e]] for e in np.unique(epoch)])


@lru_cache(maxsize=2)
def _order(size: int, seed: int, epoch: int) -> np.ndarray:
    """0 .. size-1 in the order of an epoch, uint64 [size]."""
    keys = np.empty(size, np.uint64)
    _open((seed << 32) + epoch, np.arange(size, dtype=np.uint64), keys)
    return np.argsort(keys, kind="stable").astype(np.uint64)


@njit(cache=True)
def _open(key, indices, words):
    start = mix(np.uint64(key))
    for i in range(len(indices)):
        words[i] = mix(start ^ indices[i])


@njit(cache=True)
def draw_first(stream, items, count):
    """Move `count` of `items`, drawn without replacement, to its front, in random order."""
    for i in range(count):
        j = i + below(stream, len(items) - i)
        items[i], items[j] = items[j], items[i]


@njit(cache=True)
def between(stream, low, high):
    """Uniform in low..high, both included."""
    return low + below(stream, high - low + 1)
