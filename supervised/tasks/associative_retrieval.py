"""Associative retrieval: which digit came after this letter? (Ba et al. 2016; Le et al. 2020, Section 3.1)"""

from dataclasses import dataclass
from math import factorial
from string import ascii_lowercase, digits
from typing import ClassVar

import numpy as np

from engram.envs.streams import below
from engram.kernels import njit
from engram.supervised.tasks.examples import draw_first
from engram.supervised.tasks.task import Batch, Task, Tokens, last_steps

LETTERS = 26
DIGITS = 10
QUERY = DIGITS + LETTERS


@dataclass(frozen=True)
class AssociativeRetrieval(Task):
    """K letters, each followed by a digit, then `? ?` and one of the letters: `c 9 k 8 j 3 ? ? k` asks for 8.

    Tokens: digits 0-9, letters 10-35, `?` 36. The digit is the target of the last step.
    """

    num_pairs: int = 14
    """K letters with their digits; 14 is the paper's length 30, 24 its length 50"""

    metrics: ClassVar = ("accuracy",)
    valid_size: ClassVar = 10_000
    test_size: ClassVar = 20_000

    inputs: ClassVar = Tokens(QUERY + 1, names=(*digits, *ascii_lowercase, "?"))
    outputs: ClassVar = Tokens(DIGITS)

    def __post_init__(self):
        super().__post_init__()
        self.require(1 <= self.num_pairs <= LETTERS, "num_pairs", f"in 1..{LETTERS}")

    def generate(self, streams: np.ndarray, split: str) -> Batch:
        T, B = 2 * self.num_pairs + 3, len(streams)
        x, y = np.full((T, B), QUERY), np.zeros((T, B), np.int64)
        _generate(streams, x, y)
        lengths = np.full(B, T)
        return Batch(x, y, last_steps(lengths), lengths)

    def floors(self) -> dict[str, float]:
        # Without the letters the best answer is the digit seen most often. With z**n / n! for each digit, the number
        # of ways in which none occurs more than m times is a coefficient of the product.
        K, at_most = self.num_pairs, [0.0]
        for m in range(1, K + 1):
            ways = np.polynomial.polynomial.polypow([1 / factorial(n) for n in range(m + 1)], DIGITS)
            at_most.append(float(ways[K]) * factorial(K) / DIGITS**K if len(ways) > K else 0.0)
        expected_maximum = sum(1 - share for share in at_most[:-1])
        return {"any digit": 1 / DIGITS, "digits without letters": expected_maximum / K}


@njit(cache=True)
def _generate(streams, x, y):
    pairs = (x.shape[0] - 3) // 2
    letters = np.empty(LETTERS, np.int64)
    for b in range(x.shape[1]):
        stream = streams[b]
        letters[:] = np.arange(LETTERS)
        draw_first(stream, letters, pairs)
        for k in range(pairs):
            x[2 * k, b] = DIGITS + letters[k]
            x[2 * k + 1, b] = below(stream, DIGITS)
        asked = below(stream, pairs)
        x[-1, b] = x[2 * asked, b]
        y[-1, b] = x[2 * asked + 1, b]
