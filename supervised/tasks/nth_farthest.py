"""N-th farthest: which vector is the n-th farthest from vector m? (Santoro et al. 2018, Section 4.1)"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from engram.envs.streams import below
from engram.kernels import njit
from engram.supervised.tasks.examples import draw_first
from engram.supervised.tasks.task import Batch, Task, Tokens, Vectors, last_steps

GRID = 2**23
"""Components are multiples of 1 / GRID, which float32 holds, so that distances compare exactly as integers."""


@dataclass(frozen=True)
class NthFarthest(Task):
    """N labelled vectors, uniform in [-1, 1)**D, one a step, each beside one-hots of its label, of n and of m.

    The target, at the last step, is the label of the n-th farthest vector from the one labelled m, which itself is the
    N-th. The vectors come in random order of their labels.
    """

    num_vectors: int = 8
    """N"""
    vector_size: int = 16
    """D components"""

    metrics: ClassVar = ("accuracy",)
    test_size: ClassVar = 12_800

    def __post_init__(self):
        super().__post_init__()
        self.require(self.num_vectors > 1, "num_vectors", "at least 2")
        self.require(1 <= self.vector_size <= 1024, "vector_size", "in 1..1024")

    @property
    def inputs(self) -> Vectors:
        return Vectors(self.vector_size + 3 * self.num_vectors)

    @property
    def outputs(self) -> Tokens:
        return Tokens(self.num_vectors)

    def captions(self, x: np.ndarray) -> list[str]:
        labels, ranks, references = np.split(x[:, self.vector_size :], 3, axis=1)
        found = zip(labels.argmax(1), ranks.argmax(1) + 1, references.argmax(1), strict=True)
        return [f"vector {label} · n={n} m={m}" for label, n, m in found]

    def generate(self, streams: np.ndarray, split: str) -> Batch:
        T, B = self.num_vectors, len(streams)
        x, y = np.zeros((T, B, self.inputs.size), np.float32), np.zeros((T, B), np.int64)
        _generate(streams, self.vector_size, x, y)
        lengths = np.full(B, T)
        return Batch(x, y, last_steps(lengths), lengths)

    def floors(self) -> dict[str, float]:
        # Labels alone tell the answer where n = N, and which label it is not elsewhere
        return {"any label": 1 / self.num_vectors, "labels without vectors": 2 / self.num_vectors}


@njit(cache=True)
def _generate(streams, size, x, y):
    N = x.shape[0]
    labels, vectors = np.empty(N, np.int64), np.empty((N, size), np.int64)
    for b in range(x.shape[1]):
        stream = streams[b]
        labels[:] = np.arange(N)
        draw_first(stream, labels, N)
        n, reference = below(stream, N), below(stream, N)
        for t in range(N):
            for i in range(size):
                vectors[t, i] = below(stream, 2 * GRID) - GRID
                x[t, b, i] = vectors[t, i] / GRID
            x[t, b, size + labels[t]] = 1
            x[t, b, size + N + n] = 1
            x[t, b, size + 2 * N + labels[reference]] = 1
        distances = ((vectors - vectors[reference]) ** 2).sum(axis=1)
        for t in range(N):
            farther = 0  # vectors that come before this one, of equally far ones those shown earlier
            for other in range(N):
                farther += distances[other] > distances[t] or (distances[other] == distances[t] and other < t)
            if farther == n:
                y[-1, b] = labels[t]
