"""Double copy: give a sequence of symbols back twice (Munkhdalai et al. 2019, Section 4.1)."""

from dataclasses import dataclass
from string import digits
from typing import ClassVar

import numpy as np

from engram.envs.streams import below
from engram.kernels import njit
from engram.supervised.tasks.task import Batch, Task, Tokens, last_steps

SYMBOLS = 10
END, PLACEHOLDER = SYMBOLS, SYMBOLS + 1


@dataclass(frozen=True)
class DoubleCopy(Task):
    """n symbols out of 10, an end marker, and 2 n placeholders whose targets are the symbols, twice."""

    length: int = 50
    """n"""

    metrics: ClassVar = ("accuracy", "sequence_accuracy")
    test_size: ClassVar = 1_280

    placeholder: ClassVar = PLACEHOLDER

    inputs: ClassVar = Tokens(SYMBOLS + 2, names=(*digits, "|", "_"))
    outputs: ClassVar = Tokens(SYMBOLS)

    def __post_init__(self):
        super().__post_init__()
        self.require(self.length > 0, "length", "at least 1")

    def generate(self, streams: np.ndarray, split: str) -> Batch:
        n, B = self.length, len(streams)
        x, y = np.full((3 * n + 1, B), PLACEHOLDER), np.zeros((3 * n + 1, B), np.int64)
        _draw_symbols(streams, x[:n])
        x[n] = END
        y[n + 1 :] = np.concatenate([x[:n], x[:n]])
        lengths = np.full(B, 3 * n + 1)
        return Batch(x, y, last_steps(lengths, 2 * n), lengths)

    def floors(self) -> dict[str, float]:
        return {"any symbol": 1 / SYMBOLS}


@njit(cache=True)
def _draw_symbols(streams, symbols):
    for b in range(symbols.shape[1]):
        for i in range(symbols.shape[0]):
            symbols[i, b] = below(streams[b], SYMBOLS)
