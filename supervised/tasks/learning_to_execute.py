"""Learning to execute and memorisation: read characters, then write digits (Zaremba & Sutskever 2014; Santoro et al.
2018, Section 4.1 and App. A.2)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from engram.envs.streams import below
from engram.kernels import njit
from engram.supervised.tasks.examples import between
from engram.supervised.tasks.task import Batch, Task, Tokens, last_steps, time_first

BLANK = 0
ALPHABET = "0123456789+-*=()[]<>xefilors"
"""tokens 1, 2, ...; 0 is the blank of answer steps and padding"""


def encode(text: str) -> np.ndarray:
    """The tokens of a text, int8."""
    return np.array([1 + ALPHABET.index(character) for character in text], np.int8)


ZERO, OPEN, CLOSE, LESS, GREATER = encode("0()<>")
IF_TEXT, ELSE_TEXT, X_TEXT, FOR_TEXT, X_PLUS_TEXT = map(encode, ("if", "else", "x=", "for[", "]x+="))
ARITHMETIC = encode("+-*")
ADD, SUBTRACT, MULTIPLY, IF, FOR = range(5)
OPERATIONS = {
    "addition": [ADD],
    "control": [ADD, SUBTRACT, IF],
    "program": [ADD, SUBTRACT, IF, FOR],
    "program-multiply": [ADD, SUBTRACT, IF, FOR, MULTIPLY],
}


@dataclass(frozen=True)
class CharacterTask(Task):
    """A question of characters, and the digits of its answer: the targets of as many steps whose input is blank.

    Training mixes all sizes up to the largest, each example having its own ("Mix"); valid and test have the largest.
    """

    metrics: ClassVar = ("accuracy", "sequence_accuracy")
    test_size: ClassVar = 12_800

    placeholder: ClassVar = BLANK

    inputs: ClassVar = Tokens(1 + len(ALPHABET), BLANK, ("_", *ALPHABET))
    outputs: ClassVar = Tokens(10)

    def layout(self, tokens: np.ndarray, digits: np.ndarray, question: np.ndarray, answer: np.ndarray) -> Batch:
        """A batch from questions and answers [B, room] of these lengths [B]."""
        lengths = question + answer
        mask = last_steps(lengths, answer)
        t = np.arange(lengths.max())[:, None]
        place = np.clip(t - question, 0, digits.shape[1] - 1)
        y = np.where(mask, np.take_along_axis(digits.T.astype(np.int64), place, axis=0), 0)
        x = np.zeros_like(y)
        x[: question.max()] = time_first(tokens, question, BLANK)
        return Batch(x, y, mask, lengths)


@dataclass(frozen=True)
class LearningToExecute(CharacterTask):
    """Programs such as `(x=12for[3]x+=45)-67`, whose value modulo 10**(L + 1) is to be written."""

    operations: Literal["addition", "control", "program", "program-multiply"] = "addition"
    """+; with - and if; with for loops; with * as well"""
    length: int = 5
    """digits L of a literal"""
    nesting: int = 2
    """operations N, each but the first with the one before it as an operand"""
    nested_first: bool = False
    """that operand is always the first, as in the authors' program; otherwise any"""

    def __post_init__(self):
        super().__post_init__()
        self.require(self.operations in OPERATIONS, "operations", " or ".join(OPERATIONS))
        self.require(self.length > 0, "length", "at least 1")
        self.require(self.nesting > 0, "nesting", "at least 1")
        if self.operations == "program-multiply":
            size, bound = self.length * (self.nesting + 1), "length * (nesting + 1)"
        else:
            size, bound = self.length + self.nesting, "length + nesting"
        self.require(size <= 18, "nesting", f"less for length={self.length}: {bound} is at most 18, for 64-bit values")

    def generate(self, streams: np.ndarray, split: str) -> Batch:
        L, N, B = self.length, self.nesting, len(streams)
        room = (3 * L + 10) * (N - 1) + (4 * L + 10) + 2 * (N - 1)  # of conditions and loops in each other
        tokens, digits = np.zeros((B, room), np.int8), np.zeros((B, L + 1), np.int8)
        question, answer = np.empty(B, np.int64), np.empty(B, np.int64)
        operations = np.array(OPERATIONS[self.operations])
        _programs(streams, operations, L, N, split == "train", self.nested_first, tokens, digits, question, answer)
        return self.layout(tokens, digits, question, answer)


@dataclass(frozen=True)
class Memorisation(CharacterTask):
    """A number of L digits, of which the answer is a copy, the reverse, or the number twice."""

    answer: Literal["copy", "reverse", "double"] = "copy"
    length: int = 10
    """digits L"""

    def __post_init__(self):
        super().__post_init__()
        self.require(self.answer in ("copy", "reverse", "double"), "answer", "copy or reverse or double")
        self.require(self.length > 0, "length", "at least 1")

    def generate(self, streams: np.ndarray, split: str) -> Batch:
        B, copies = len(streams), 2 if self.answer == "double" else 1
        tokens, digits = np.zeros((B, self.length), np.int8), np.zeros((B, copies * self.length), np.int8)
        question = np.empty(B, np.int64)
        _numbers(streams, self.length, split == "train", copies, self.answer == "reverse", tokens, digits, question)
        return self.layout(tokens, digits, question, copies * question)


@njit(cache=True)
def _numbers(streams, length, mix, copies, reverse, tokens, digits, question):
    for b in range(len(streams)):
        L = between(streams[b], 1, length) if mix else length
        _write_literal(streams[b], L, tokens[b], 0)
        for i in range(copies * L):
            digits[b, i] = tokens[b, L - 1 - i if reverse else i % L] - ZERO
        question[b] = L


@njit(cache=True)
def _programs(streams, operations, length, nesting, mix, nested_first, tokens, digits, question, answer):
    for b in range(len(streams)):
        L = between(streams[b], 1, length) if mix else length
        N = between(streams[b], 1, nesting) if mix else nesting
        question[b], value = _draw(streams[b], operations, L, N, nested_first, tokens[b])
        answer[b] = _write_digits(value % 10 ** (L + 1), digits[b])


@njit(cache=True)
def _draw(stream, operations, L, N, nested_first, code):
    """Write a program; its length and value."""
    inner, values = np.empty_like(code), np.empty(4, np.int64)
    length, value = 0, 0
    for i in range(N):
        inner[:length] = code[:length]
        operation = operations[below(stream, len(operations))]
        less, rounds = below(stream, 2), between(stream, 1, 9)
        count = 4 if operation == IF else 2
        nested = -1 if i == 0 else 0 if nested_first else below(stream, count)
        end = 0
        for k in range(count):
            if operation <= MULTIPLY and k == 1:
                code[end] = ARITHMETIC[operation]
                end += 1
            elif operation == IF and k == 1:
                end = _write(IF_TEXT, code, end)
            elif operation == IF and k == 2:
                code[end] = LESS if less else GREATER
                end += 1
            elif operation == IF and k == 3:
                end = _write(ELSE_TEXT, code, end)
            elif operation == FOR and k == 0:
                end = _write(X_TEXT, code, end)
            elif operation == FOR and k == 1:
                end = _write(FOR_TEXT, code, end)
                code[end] = ZERO + rounds
                end = _write(X_PLUS_TEXT, code, end + 1)
            if k == nested:
                code[end] = OPEN
                end = _write(inner[:length], code, end + 1)
                code[end] = CLOSE
                end, values[k] = end + 1, value
            else:
                values[k] = _write_literal(stream, L, code, end)
                end += L
        a, b = values[0], values[1]
        if operation == ADD:
            value = a + b
        elif operation == SUBTRACT:
            value = a - b
        elif operation == MULTIPLY:
            value = a * b
        elif operation == FOR:
            value = a + rounds * b
        else:
            c, d = values[2], values[3]
            value = a if (b < c if less else b > c) else d
        length = end
    return length, value


@njit(cache=True)
def _write(text, code, end):
    code[end : end + len(text)] = text
    return end + len(text)


@njit(cache=True)
def _write_literal(stream, L, code, end):
    """A number of exactly L digits; its value, in so far as it fits into 64 bits."""
    value = 0
    for i in range(L):
        digit = between(stream, 1, 9) if i == 0 else below(stream, 10)
        code[end + i] = ZERO + digit
        value = 10 * value + digit
    return value


@njit(cache=True)
def _write_digits(value, digits):
    """The number of digits."""
    count, rest = 1, value // 10
    while rest > 0:
        count, rest = count + 1, rest // 10
    for i in range(count):
        digits[count - 1 - i] = value % 10
        value //= 10
    return count
