"""What a task is: a source of examples with inputs, targets, and the steps that count."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from engram.flags import Flags
from engram.supervised.tasks import examples, sentences

UNKNOWN = -1
"""in the place of a target"""
NO_INPUT = "_"
"""what a step is called that shows nothing"""


class Tokens(NamedTuple):
    """Inputs or targets 0 .. size-1, one a step."""

    size: int
    blank: int | None = None
    """of inputs: the token that a model reads as the zero vector"""
    names: tuple[str, ...] = ()
    """what each is called; none where numbers are names enough"""

    def name(self, token: int) -> str:
        """What a token is called."""
        return self.names[token] if self.names else str(token)


class Vectors(NamedTuple):
    """Inputs of `size` numbers, or targets of `size` bits, a step."""

    size: int


class Batch(NamedTuple):
    """B examples of up to T steps, those after a row's length being padding."""

    x: np.ndarray
    """inputs: tokens int64 [T, B] or vectors float32 [T, B, D]"""
    y: np.ndarray
    """targets: tokens int64 [T, B] or bits float32 [T, B, W]; without meaning where mask is false"""
    mask: np.ndarray
    """bool [T, B]; the steps that count in the loss and the metrics"""
    lengths: np.ndarray
    """int64 [B]; steps of each row, the others are padding behind them"""
    continues: bool = False
    """each row goes on where the same row of the batch before ended; otherwise it starts from the initial state"""
    part: np.ndarray | None = None
    """int64 [T, B]; of steps that count, an index into the task's `parts`, or -1 for those that no metric judges; None
    where the task has no parts"""
    rate: float = 1.0
    """by which the learning rate is multiplied in learning from this batch"""


@dataclass(frozen=True)
class Task(Flags):
    """The fields are the options of a task; a ValueError says which value is impossible."""

    section: ClassVar[str] = "task"

    train_size: int | None = None
    """training examples, reshuffled every epoch; None for fresh examples all the time"""

    metrics: ClassVar[tuple[str, ...]]
    """names out of `metrics.METRICS`; the first is the paper's"""
    valid_size: ClassVar[int] = 1_000
    test_size: ClassVar[int]
    placeholder: ClassVar[int | None] = None
    """the input at each step that is to be answered, where the task has such a token"""

    def __post_init__(self):
        self.require(self.train_size is None or self.train_size > 0, "train_size", "at least 1, or None")

    @property
    def inputs(self) -> Tokens | Vectors:
        raise NotImplementedError

    @property
    def outputs(self) -> Tokens | Vectors:
        raise NotImplementedError

    def batch(self, split: str, indices: np.ndarray) -> Batch:
        """Examples by their indices, uint64 [B], of "train", "valid" or "test"."""
        return self.generate(examples.streams(split, indices), split)

    def train_batch(self, number: int, batch_size: int, seed: int) -> Batch:
        """The training batch `number` of a run with `seed`, both counted from 0."""
        return self.batch("train", examples.training_indices(number * batch_size, batch_size, seed, self.train_size))

    def batches(self, split: str, batch_size: int) -> Iterator[Batch]:
        """All of "valid" or "test", in order.

        Args: batch_size: examples at a time; a stream has as many rows as its paper evaluates with.
        """
        size = self.valid_size if split == "valid" else self.test_size
        for start in range(0, size, batch_size):
            yield self.batch(split, np.arange(start, min(start + batch_size, size), dtype=np.uint64))

    def example(self, number: int) -> Batch:
        """The test example of this number. Raises ValueError if there is none."""
        self.require_number(number, self.test_size)
        return self.batch("test", np.array([number], np.uint64))

    def require_number(self, number: int, size: int) -> None:
        """Raise a ValueError unless the number is that of one of so many test examples."""
        if not 0 <= number < size:
            raise ValueError(f"there is no test example {number}; choose from 0 to {size - 1}")

    def read(self, sentence: str) -> Batch:
        """An example of the words of a sentence, its targets being UNKNOWN.

        To be answered are the placeholders, one being added where there is none; without placeholders the last step.

        Raises: ValueError if it has no words, or others than those of the task, or if the task shows vectors.
        """
        if isinstance(self.inputs, Vectors):
            raise ValueError("the task shows vectors, not words; choose a test example by its number")
        x = sentences.read(sentence, self.inputs.names)
        if self.placeholder is not None and self.placeholder not in x:
            x = np.append(x, self.placeholder)
        return Batch(x[:, None], np.full((len(x), 1), UNKNOWN), self.asked(x)[:, None], np.array([len(x)]))

    def asked(self, x: np.ndarray) -> np.ndarray:
        """Which of the tokens [T] of a sentence are to be answered, bool [T]."""
        return np.arange(len(x)) == len(x) - 1 if self.placeholder is None else x == self.placeholder

    def captions(self, x: np.ndarray) -> list[str]:
        """What each step of an example shows, in a word or two: tokens [T] or vectors [T, D]."""
        if isinstance(self.inputs, Tokens):
            return [self.inputs.name(token) for token in x]
        return ["vector" if vector.any() else NO_INPUT for vector in x]

    def generate(self, streams: np.ndarray, split: str) -> Batch:
        """An example from each random stream [B]."""
        raise NotImplementedError

    def floors(self) -> dict[str, float]:
        """What the first metric comes to without solving the task, by the name of the shortcut."""
        return {}

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of what is also judged by itself."""
        return ()

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The words that tokens stand for, where they come from data."""
        return ()

    def data(self) -> dict[str, Any]:
        """Where the examples come from, for reports.

        "data" is generated, real or partly generated; "differs" says what of real data is not as published.
        """
        return {"data": "generated"}


def time_first(rows: np.ndarray, lengths: np.ndarray, padding: int = 0) -> np.ndarray:
    """Rows of tokens [B, room] as int64 [T, B], T being the longest length, with `padding` behind each row."""
    real = np.arange(lengths.max())[:, None] < lengths
    return np.where(real, rows[:, : lengths.max()].T.astype(np.int64), padding)


def last_steps(lengths: np.ndarray, count: int | np.ndarray = 1) -> np.ndarray:
    """The mask [T, B] of the last `count` steps of each row."""
    t = np.arange(lengths.max())[:, None]
    return (t < lengths) & (t >= lengths - count)
