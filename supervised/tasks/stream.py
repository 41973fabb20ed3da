"""Tasks without examples: rows of text that go on from batch to batch, and carry the state of the model along."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from engram.supervised.tasks.task import Batch, Task, Tokens


@dataclass(frozen=True)
class Stream(Task):
    """Training batch `number` holds the next steps of the rows of batch `number - 1`, by as many as `window`.

    Gradients end at the borders of batches, states do not (truncated backpropagation through time). A valid or test set
    is read once, in order, by as many rows as the paper evaluates with: `valid_rows`, and a single one in the test.
    """

    window: int = 200
    """steps of a batch"""

    train_size: ClassVar = None  # all that there is
    valid_rows: ClassVar[int]

    def __post_init__(self):
        super().__post_init__()
        self.require(self.window > 0, "window", "at least 1")

    @property
    def inputs(self) -> Tokens:
        return Tokens(len(self.vocabulary), names=self.vocabulary)

    @property
    def outputs(self) -> Tokens:
        return self.inputs

    def batches(self, split: str, batch_size: int) -> Iterator[Batch]:
        return self.chunks(split, self.valid_rows if split == "valid" else 1)

    def read(self, sentence: str) -> Batch:
        """The words of a sentence, each but the last with the next one as its target."""
        batch = super().read(sentence)
        batch.y[:-1] = batch.x[1:]
        return batch

    def asked(self, x: np.ndarray) -> np.ndarray:
        return np.ones(len(x), bool)

    def chunks(self, split: str, rows: int) -> Iterator[Batch]:
        """All of "valid" or "test", in order, on so many rows."""
        raise NotImplementedError
