"""Items that have a name only for the time of an example, and questions whose answer is names (Le et al. 2020, 3.3)."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from engram.supervised.tasks.task import NO_INPUT, Batch, Task, Tokens, last_steps

MAX_ITEMS = 20
LAST, END = 0, MAX_ITEMS + 1
NAME_SIZE = MAX_ITEMS + 2
"""width of the one-hot of a name, 1..MAX_ITEMS; its entry LAST flags the last step of the input"""


class Drawn(NamedTuple):
    """What is shown to B examples, and asked of them."""

    inputs: np.ndarray
    """float32 [S, B, D]"""
    steps: np.ndarray
    """int64 [B]; those of the inputs"""
    answers: np.ndarray
    """int64 [B, A]; names, and END"""
    answer_lengths: np.ndarray
    """int64 [B]; END included"""


@dataclass(frozen=True)
class NamingTask(Task):
    """Items are shown with one-hots of their names; a step without input later, the answer is to be given step by step.

    An example of n items has the names 1..n in random order. END follows the answer. Answer steps have no input.
    """

    metrics: ClassVar = ("accuracy", "sequence_accuracy")
    test_size: ClassVar = 10_000

    outputs: ClassVar = Tokens(NAME_SIZE, names=("", *map(str, range(1, MAX_ITEMS + 1)), "end"))

    def captions(self, x: np.ndarray) -> list[str]:
        return [self.caption(step) if step.any() else NO_INPUT for step in x]

    def caption(self, step: np.ndarray) -> str:
        """What a step of the input shows, [D]."""
        raise NotImplementedError

    def draw(self, streams: np.ndarray, split: str) -> Drawn:
        """An example from each random stream [B]."""
        raise NotImplementedError

    def generate(self, streams: np.ndarray, split: str) -> Batch:
        inputs, steps, answers, answer_lengths = self.draw(streams, split)
        lengths = steps + 1 + answer_lengths
        mask = last_steps(lengths, answer_lengths)
        x, y = np.zeros((*mask.shape, inputs.shape[2]), np.float32), np.zeros(mask.shape, np.int64)
        x[: steps.max()] = inputs[: steps.max()]
        y.T[mask.T] = answers[np.arange(answers.shape[1]) < answer_lengths[:, None]]
        return Batch(x, y, mask, lengths)
