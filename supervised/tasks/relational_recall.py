"""Relational associative recall: give back the item farthest from, or closest to, another (Le et al. 2020, 3.2)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from engram.envs.streams import below
from engram.kernels import njit
from engram.supervised.tasks.examples import between
from engram.supervised.tasks.task import Batch
from engram.supervised.tasks.vector_sequences import BitTask, draw_bits


@dataclass(frozen=True)
class RelationalRecall(BitTask):
    """M items of L vectors, each behind a flag in input W; then one of them again, between two flags in input W + 1.

    The answer is the other item with the most bits unlike the repeated one's if the last of its bits is 1, else with
    the fewest; of several such items the one shown first.
    """

    min_items: int = 2
    max_items: int = 6
    """M is uniform between min_items and max_items, for each example"""
    min_length: int = 3
    max_length: int = 3
    """L is uniform between min_length and max_length, for each example"""
    ask_for_last: bool = True
    """the last item may be the repeated one; never in the authors' program"""

    flags: ClassVar = "item", "asked"

    def __post_init__(self):
        super().__post_init__()
        self.require(self.min_items >= 2, "min_items", "at least 2")
        self.require(self.max_items >= self.min_items, "max_items", f"at least min_items={self.min_items}")
        self.require(self.min_length > 0, "min_length", "at least 1")
        self.require(self.max_length >= self.min_length, "max_length", f"at least min_length={self.min_length}")

    def generate(self, streams: np.ndarray, split: str) -> Batch:
        items, sizes = np.empty(len(streams), np.int64), np.empty(len(streams), np.int64)
        _draw_sizes(streams, self.min_items, self.max_items, self.min_length, self.max_length, items, sizes)
        batch = self.blank((items + 1) * (sizes + 1) + 1 + sizes, sizes)
        _generate(streams, items, sizes, self.ask_for_last, batch.x, batch.y)
        return batch

    def floors(self) -> dict[str, float]:
        return {"coins": self.width * (self.min_length + self.max_length) / 4}


@njit(cache=True)
def _draw_sizes(streams, min_items, max_items, min_length, max_length, items, sizes):
    for b in range(len(streams)):
        items[b] = between(streams[b], min_items, max_items)
        sizes[b] = between(streams[b], min_length, max_length)


@njit(cache=True)
def _generate(streams, items, sizes, ask_for_last, x, y):
    width = y.shape[2]
    for b in range(len(streams)):
        stream, M, L = streams[b], items[b], sizes[b]
        for m in range(M):
            start = m * (L + 1)
            x[start, b, width] = 1
            for i in range(L):
                draw_bits(stream, x[start + 1 + i, b, :width])
        asked = below(stream, M if ask_for_last else M - 1)
        query, answer = M * (L + 1), (M + 1) * (L + 1) + 1
        x[query, b, width + 1] = x[answer - 1, b, width + 1] = 1
        for i in range(L):
            x[query + 1 + i, b, :width] = x[asked * (L + 1) + 1 + i, b, :width]
        farthest = x[answer - 2, b, width - 1] == 1
        best, best_distance = -1, 0
        for m in range(M):
            distance = 0
            for i in range(L):
                for w in range(width):
                    distance += x[m * (L + 1) + 1 + i, b, w] != x[query + 1 + i, b, w]
            is_better = distance > best_distance if farthest else distance < best_distance
            if m != asked and (best < 0 or is_better):
                best, best_distance = m, distance
        for i in range(L):
            y[answer + i, b] = x[best * (L + 1) + 1 + i, b, :width]
