"""Convex hull and travelling salesman over points of the unit square (Vinyals et al. 2015; Le et al. 2020, 3.3)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from engram.envs.streams import below
from engram.kernels import njit
from engram.supervised.tasks.examples import between, draw_first
from engram.supervised.tasks.naming import END, LAST, MAX_ITEMS, NAME_SIZE, Drawn, NamingTask
from engram.supervised.tasks.task import Vectors

GRID = 2**24
"""Coordinates are multiples of 1 / GRID, which float32 holds, so that turns are exact in integers."""
COORDINATES = 2


@dataclass(frozen=True)
class PointTask(NamingTask):
    """N named points, uniform in the unit square, one a step: two coordinates and the one-hot of the name."""

    min_points: int = 5
    max_points: int = MAX_ITEMS
    """N of a training example is uniform between min_points and max_points"""
    test_points: int = 5
    """N in the valid and the test set; 5 and 10 in the paper"""

    most_points: ClassVar[int] = MAX_ITEMS

    def __post_init__(self):
        super().__post_init__()
        self.require(self.min_points >= 3, "min_points", "at least 3")
        demand = f"in min_points..{self.most_points}"
        self.require(self.min_points <= self.max_points <= self.most_points, "max_points", demand)
        self.require(3 <= self.test_points <= self.most_points, "test_points", f"in 3..{self.most_points}")

    @property
    def inputs(self) -> Vectors:
        return Vectors(COORDINATES + NAME_SIZE)

    def caption(self, step: np.ndarray) -> str:
        return f"point {1 + step[COORDINATES + 1 :].argmax()}"

    def solve(self, points: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The points of the answers, by their places in the input, int64 [B, N], and their numbers [B].

        Args: points: int64 [B, N, 2], of which the first counts [B] of each row are there.
        """
        raise NotImplementedError

    def draw(self, streams: np.ndarray, split: str) -> Drawn:
        low, high = (self.min_points, self.max_points) if split == "train" else (self.test_points, self.test_points)
        B = len(streams)
        points, names, counts = np.zeros((B, high, 2), np.int64), np.zeros((B, high), np.int64), np.empty(B, np.int64)
        inputs = np.zeros((high, B, self.inputs.size), np.float32)
        _draw_points(streams, low, high, points, names, counts, inputs)
        order, sizes = self.solve(points, counts)
        answers = np.full((B, high + 1), END)
        answers[:, :high] = np.where(np.arange(high) < sizes[:, None], np.take_along_axis(names, order, axis=1), END)
        return Drawn(inputs, counts, answers, sizes + 1)


@dataclass(frozen=True)
class ConvexHull(PointTask):
    """The corners of the convex hull, counter-clockwise from the one that was shown first."""

    def solve(self, points: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        order, sizes = np.zeros(points.shape[:2], np.int64), np.empty_like(counts)
        _hulls(points, counts, order, sizes)
        return order, sizes


@dataclass(frozen=True)
class TravellingSalesman(PointTask):
    """The shortest closed tour, from the point shown first to that of its two neighbours which was shown earlier."""

    max_points: int = 10

    metrics: ClassVar = ("accuracy", "sequence_accuracy", "valid_tours", "tour_length")
    most_points: ClassVar = 12

    def solve(self, points: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        order = np.zeros(points.shape[:2], np.int64)
        _tours(points, counts, order)
        return order, counts

    def floors(self) -> dict[str, float]:
        # The first point and END are known, and each step between is right in one of N - 1 cases
        return {"any tour": 3 / (self.test_points + 1)}


@njit(cache=True)
def _draw_points(streams, low, high, points, names, counts, inputs):
    for b in range(len(streams)):
        stream, n = streams[b], between(streams[b], low, high)
        names[b, :n] = np.arange(1, n + 1)
        draw_first(stream, names[b, :n], n)
        for t in range(n):
            for c in range(COORDINATES):
                points[b, t, c] = below(stream, GRID)
                inputs[t, b, c] = points[b, t, c] / GRID
            inputs[t, b, COORDINATES + names[b, t]] = 1
        inputs[n - 1, b, COORDINATES + LAST] = 1
        counts[b] = n


@njit(cache=True)
def convex_hull(points, order):
    """Places of the corners of the convex hull, counter-clockwise from the least place, into `order`; their number.

    Points within an edge are no corners. Gift wrapping (Jarvis 1973). Args: points: integers [N, 2].
    """
    first = 0
    for i in range(1, len(points)):
        if points[i, 1] < points[first, 1] or (points[i, 1] == points[first, 1] and points[i, 0] < points[first, 0]):
            first = i
    corner, count = first, 0
    while count == 0 or corner != first:
        order[count] = corner
        count += 1
        edge, following = (0, 0), first
        for i in range(len(points)):
            side = points[i, 0] - points[corner, 0], points[i, 1] - points[corner, 1]
            turn = edge[0] * side[1] - edge[1] * side[0]
            farther = abs(side[0]) + abs(side[1]) > abs(edge[0]) + abs(edge[1])
            if turn < 0 or (turn == 0 and farther):  # to the right of the edge, or beyond its end
                edge, following = side, i
        corner = following
    start = order[:count].argmin()
    order[:count] = np.roll(order[:count], -start)
    return count


@njit(cache=True)
def _hulls(points, counts, order, sizes):
    for b in range(len(points)):
        sizes[b] = convex_hull(points[b, : counts[b]], order[b])


@njit(cache=True)
def _tours(points, counts, order):
    most = points.shape[1]
    lengths = np.empty((2 ** (most - 1), most - 1))
    for b in range(len(points)):
        shortest_tour(points[b, : counts[b]], lengths, order[b])


@njit(cache=True, fastmath={"nnan", "nsz"})  # without NaNs a minimum may be taken in any order, many numbers at once
def shortest_tour(points, lengths, order):
    """Places of the points in the order of the shortest closed tour, into `order` (Held & Karp 1962).

    Args: points: [N, 2].
          lengths: memory to work in, float64 [2**(N - 1), N - 1]; `lengths[visited, j]` becomes that of the shortest
              way from point 0 over the points 1 + i with bit i in `visited` to point 1 + j, if that is one of them.
    """
    N = len(points)
    distances = np.empty((N, N))
    for i in range(N):
        for j in range(N):
            distances[i, j] = np.sqrt(float((points[i, 0] - points[j, 0]) ** 2 + (points[i, 1] - points[j, 1]) ** 2))
    for visited in range(1, 2 ** (N - 1)):
        for j in range(N - 1):
            before, length = visited ^ (1 << j), np.inf
            if before == 0:
                length = distances[0, 1 + j]
            elif before < visited:
                for i in range(N - 1):
                    length = min(length, lengths[before, i] + distances[1 + j, 1 + i])
            lengths[visited, j] = length
    visited, place = 2 ** (N - 1) - 1, 0
    order[0] = 0
    for t in range(N - 1, 0, -1):
        shortest, before = np.inf, 0
        for j in range(N - 1):
            length = lengths[visited, j] + distances[place, 1 + j]
            if length < shortest:
                shortest, before = length, j
        order[t] = place = 1 + before
        visited ^= 1 << before
    if order[1] > order[N - 1]:
        order[1:N] = order[1:N][::-1].copy()
