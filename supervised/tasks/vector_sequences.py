"""Sequences of binary vectors to give back: in order, reversed, or sorted (Graves et al. 2014; Le et al. 2020, 3.2).

Answer steps follow the input, which is zero there.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from engram.envs.streams import below
from engram.kernels import njit
from engram.supervised.tasks.examples import between
from engram.supervised.tasks.task import NO_INPUT, Batch, Task, Vectors, last_steps

PRIORITIES = 2**24
"""Priorities are multiples of 2 / PRIORITIES, which float32 holds; of equal ones the vector shown first comes first."""


@dataclass(frozen=True)
class BitTask(Task):
    """Vectors of bits, beside two more inputs for flags or numbers; the answer is scored bit by bit."""

    width: int = 32
    """bits W of a vector"""

    flags: ClassVar = "start", "end"
    """what steps with input W, and with W + 1, are called"""
    metrics: ClassVar = ("bit_error", "sequence_accuracy")
    test_size: ClassVar = 1_280

    def __post_init__(self):
        super().__post_init__()
        self.require(self.width > 0, "width", "at least 1")

    @property
    def inputs(self) -> Vectors:
        return Vectors(self.width + 2)

    @property
    def outputs(self) -> Vectors:
        return Vectors(self.width)

    def captions(self, x: np.ndarray) -> list[str]:
        """Flags by their input, and vectors by their place behind one."""
        found, place = [], 0
        for flag, other_flag, shows_bits in zip(x[:, -2], x[:, -1], x[:, :-2].any(1), strict=True):
            place = 0 if flag or other_flag else place + 1
            name = self.flags[0] if flag else self.flags[1] if other_flag else f"vector {place}"
            found.append(name if flag or other_flag or shows_bits else NO_INPUT)
        return found

    def blank(self, lengths: np.ndarray, answer_lengths: np.ndarray) -> Batch:
        """A batch of these lengths, answers included, with the answers masked and all inputs and targets zero."""
        T, B = lengths.max(), len(lengths)
        x, y = np.zeros((T, B, self.inputs.size), np.float32), np.zeros((T, B, self.width), np.float32)
        return Batch(x, y, last_steps(lengths, answer_lengths), lengths)


@dataclass(frozen=True)
class Copy(BitTask):
    """A flag in input W, n vectors, a flag in input W + 1; then the vectors are to be given back, in 2 n + 2 steps."""

    min_length: int = 1
    max_length: int = 20
    """n is uniform between min_length and max_length, for each example"""
    reverse: bool = False
    """the last vector is to come first"""

    def __post_init__(self):
        super().__post_init__()
        self.require(self.min_length > 0, "min_length", "at least 1")
        self.require(self.max_length >= self.min_length, "max_length", f"at least min_length={self.min_length}")

    def generate(self, streams: np.ndarray, split: str) -> Batch:
        counts = np.empty(len(streams), np.int64)
        _draw_lengths(streams, self.min_length, self.max_length, counts)
        batch = self.blank(2 * counts + 2, counts)
        _copy(streams, counts, self.reverse, batch.x, batch.y)
        return batch

    def floors(self) -> dict[str, float]:
        return {"coins": self.width * (self.min_length + self.max_length) / 4}


@dataclass(frozen=True)
class PrioritySort(BitTask):
    """Vectors with a priority in [-1, 1) in input W; those of highest priority are to be given back, highest first.

    Input W + 1 is always zero.
    """

    num_vectors: int = 20
    num_answers: int = 16

    def __post_init__(self):
        super().__post_init__()
        self.require(self.num_vectors > 0, "num_vectors", "at least 1")
        self.require(1 <= self.num_answers <= self.num_vectors, "num_answers", f"in 1..num_vectors={self.num_vectors}")

    def captions(self, x: np.ndarray) -> list[str]:
        return [f"priority {step[-2]:.2f}" if step.any() else NO_INPUT for step in x]

    def generate(self, streams: np.ndarray, split: str) -> Batch:
        lengths = np.full(len(streams), self.num_vectors + self.num_answers)
        batch = self.blank(lengths, np.full_like(lengths, self.num_answers))
        _sort(streams, self.num_vectors, batch.x, batch.y)
        return batch

    def floors(self) -> dict[str, float]:
        return {"coins": self.width * self.num_answers / 2}


@njit(cache=True)
def _draw_lengths(streams, low, high, counts):
    for b in range(len(streams)):
        counts[b] = between(streams[b], low, high)


@njit(cache=True)
def draw_bits(stream, bits):
    """Fair coins into a vector."""
    for i in range(len(bits)):
        bits[i] = below(stream, 2)


@njit(cache=True)
def _copy(streams, counts, reverse, x, y):
    width = y.shape[2]
    for b in range(len(streams)):
        n = counts[b]
        x[0, b, width] = x[n + 1, b, width + 1] = 1
        for i in range(n):
            draw_bits(streams[b], x[1 + i, b, :width])
            place = n - 1 - i if reverse else i
            y[n + 2 + place, b] = x[1 + i, b, :width]


@njit(cache=True)
def _sort(streams, count, x, y):
    width, answers = y.shape[2], x.shape[0] - count
    keys = np.empty(count, np.int64)
    for b in range(len(streams)):
        for i in range(count):
            draw_bits(streams[b], x[i, b, :width])
            priority = below(streams[b], PRIORITIES)
            x[i, b, width] = 2 * priority / PRIORITIES - 1
            keys[i] = i - priority * count  # ascending: highest priority first, then order of showing
        keys.sort()
        for place in range(answers):
            y[count + place, b] = x[keys[place] % count, b, :width]
