"""Sequential ListOps: the value of a nested expression (Nangia & Bowman 2018; Irie et al. 2021, Section 4.3)."""

from dataclasses import dataclass
from string import digits
from typing import ClassVar

import numpy as np

from engram.envs.streams import below, chance
from engram.kernels import njit
from engram.supervised.tasks.examples import between
from engram.supervised.tasks.task import Batch, Task, Tokens, last_steps, time_first

DIGITS = 10
MIN, MAX, FIRST, CLOSE = range(DIGITS, DIGITS + 4)
PADDING = DIGITS + 4
MIN_ARGUMENTS, MAX_ARGUMENTS = 2, 5
DIGIT_CHANCE = 0.75
ROOM = 8192
"""Expressions that might need more tokens are drawn again; at depth 15 the longest of 10,000 has some 500."""


@dataclass(frozen=True)
class ListOps(Task):
    """An expression such as `[MAX 6 1 [FIRST 2 3 ] 0 [MIN 4 7 1 ] ]`, whose value is the target of its last bracket.

    An argument is a digit with probability 3/4, else an operator with 2 to 5 arguments. Expressions are drawn until
    one has operators nested to the depth wanted, exactly. Tokens: digits 0-9, then `[MIN`, `[MAX`, `[FIRST`, `]`.
    """

    train_size: int | None = 10_000
    depth: int = 10
    """operators around the innermost digit; 10 and 15 in the paper"""

    metrics: ClassVar = ("accuracy",)
    test_size: ClassVar = 1_000

    inputs: ClassVar = Tokens(PADDING + 1, names=(*digits, "[MIN", "[MAX", "[FIRST", "]", "_"))
    outputs: ClassVar = Tokens(DIGITS)

    def __post_init__(self):
        super().__post_init__()
        self.require(1 <= self.depth <= 18, "depth", "in 1..18")

    def generate(self, streams: np.ndarray, split: str) -> Batch:
        B = len(streams)
        tokens, values, lengths = np.empty((B, ROOM), np.int8), np.empty(B, np.int64), np.empty(B, np.int64)
        _generate(streams, self.depth, tokens, values, lengths)
        x, mask = time_first(tokens, lengths, PADDING), last_steps(lengths)
        return Batch(x, np.where(mask, values, 0), mask, lengths)


@njit(cache=True)
def _generate(streams, depth, tokens, values, lengths):
    for b in range(len(streams)):
        while True:
            lengths[b], values[b] = _draw(streams[b], depth, tokens[b])
            if lengths[b] > 0:
                break


@njit(cache=True)
def _draw(stream, depth, tokens):
    """Length and value of one expression; length 0 if it is not of this depth."""
    # of each open operator: the arguments it still lacks, the value of those it has, and whether it has none
    operator, lacking = np.empty(depth, np.int64), np.empty(depth, np.int64)
    value, is_empty = np.empty(depth, np.int64), np.empty(depth, np.bool_)
    length, level, deepest = 0, 0, 0
    while True:
        if level > 0 and chance(stream, DIGIT_CHANCE):
            deepest = max(deepest, level)
            tokens[length] = result = below(stream, DIGITS)
            length += 1
        else:
            if level == depth or length + 1 + (MAX_ARGUMENTS + 1) * depth > len(tokens):
                return 0, 0
            operator[level] = between(stream, MIN, FIRST)
            lacking[level] = between(stream, MIN_ARGUMENTS, MAX_ARGUMENTS)
            is_empty[level] = True
            tokens[length] = operator[level]
            length, level = length + 1, level + 1
            continue
        while True:  # hand the result to the innermost open operator, which may be complete by it
            top = level - 1
            if is_empty[top]:
                value[top] = result
            elif operator[top] == MIN:
                value[top] = min(value[top], result)
            elif operator[top] == MAX:
                value[top] = max(value[top], result)
            is_empty[top] = False
            lacking[top] -= 1
            if lacking[top] > 0:
                break
            tokens[length], result = CLOSE, value[top]
            length, level = length + 1, top
            if level == 0:
                return (length, result) if deepest == depth else (0, 0)
