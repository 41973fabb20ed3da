"""Dictionary inference: translate a word by letters seen in other words (Munkhdalai et al. 2019, Section 4.1)."""

from dataclasses import dataclass
from math import comb
from string import ascii_lowercase
from typing import ClassVar

import numpy as np

from engram.envs.streams import below
from engram.kernels import njit
from engram.supervised.tasks.examples import draw_first
from engram.supervised.tasks.task import Batch, Task, Tokens, last_steps

LETTERS = 26
SOURCES = LETTERS // 2
END_OF_WORD, SEPARATOR, END_OF_SUPPORT, PLACEHOLDER = range(LETTERS, LETTERS + 4)


@dataclass(frozen=True)
class DictionaryInference(Task):
    """Every example has its own dictionary, from 13 letters to the 13 others, shown by k words and their translations.

    A word is followed by end-of-word, its translation by the separator, the last one by end-of-support too. Then come
    a new word over letters seen, end-of-word, and a placeholder for each letter of its translation, the target there.
    """

    num_words: int = 8
    """k words with their translations"""
    word_length: int = 4
    """l letters; with 1 the word asked for is one of those shown. The paper has (k, l) = (4, 1), (8, 4), (12, 8),
    (16, 12)"""

    metrics: ClassVar = ("accuracy", "sequence_accuracy")
    test_size: ClassVar = 10_000

    placeholder: ClassVar = PLACEHOLDER

    inputs: ClassVar = Tokens(LETTERS + 4, names=(*ascii_lowercase, ".", ";", "|", "_"))
    outputs: ClassVar = Tokens(LETTERS, names=tuple(ascii_lowercase))

    def __post_init__(self):
        super().__post_init__()
        self.require(self.num_words > 0, "num_words", "at least 1")
        self.require(1 <= self.word_length <= 16, "word_length", "in 1..16")
        if self.word_length > 1:
            words = SOURCES**self.word_length
            self.require(self.num_words < words, "num_words", f"below {words}, the number of words, so that one is new")

    def generate(self, streams: np.ndarray, split: str) -> Batch:
        k, l, B = self.num_words, self.word_length, len(streams)
        T = k * (2 * l + 2) + 1 + (l + 1) + l
        x, y = np.full((T, B), PLACEHOLDER), np.zeros((T, B), np.int64)
        _generate(streams, k, l, x, y)
        lengths = np.full(B, T)
        return Batch(x, y, last_steps(lengths, l), lengths)

    def floors(self) -> dict[str, float]:
        # The letters seen among k l draws: a sum over the numbers of letters that do not occur
        draws = self.num_words * self.word_length
        seen = {
            n: comb(SOURCES, n) * sum((-1) ** (n - i) * comb(n, i) * (i / SOURCES) ** draws for i in range(n + 1))
            for n in range(1, SOURCES + 1)
        }
        return {"any letter": 1 / LETTERS, "any letter seen": sum(share / n for n, share in seen.items())}


@njit(cache=True)
def _generate(streams, k, l, x, y):
    letters = np.empty(LETTERS, np.int64)
    words = np.empty((k + 1, l), np.int64)  # by number of the source letter; the last is asked for
    for b in range(x.shape[1]):
        stream = streams[b]
        letters[:] = np.arange(LETTERS)
        draw_first(stream, letters, LETTERS)  # source letters, then their translations
        _draw_words(stream, words)
        t = 0
        for word in words[:k]:
            for i in range(l):
                x[t + i, b], x[t + l + 1 + i, b] = letters[word[i]], letters[SOURCES + word[i]]
            x[t + l, b], x[t + 2 * l + 1, b] = END_OF_WORD, SEPARATOR
            t += 2 * l + 2
        x[t, b] = END_OF_SUPPORT
        for i in range(l):
            x[t + 1 + i, b] = letters[words[k, i]]
            y[t + l + 2 + i, b] = letters[SOURCES + words[k, i]]
        x[t + l + 1, b] = END_OF_WORD


@njit(cache=True)
def _draw_words(stream, words):
    k, l = words.shape[0] - 1, words.shape[1]
    seen, codes = np.empty(SOURCES, np.int64), np.empty(k, np.int64)  # a word's code: its letters as digits
    count, distinct = 0, 0
    while distinct == 0 or (l > 1 and distinct == count**l):  # until another word over the letters seen exists
        count, distinct = 0, 0
        for w in range(k):
            code = 0
            for i in range(l):
                letter = below(stream, SOURCES)
                words[w, i], code = letter, code * SOURCES + letter
                if letter not in seen[:count]:
                    seen[count] = letter
                    count += 1
            codes[w] = code
            distinct += code not in codes[:w]
    while True:
        code = 0
        for i in range(l):
            words[k, i] = seen[below(stream, count)]
            code = code * SOURCES + words[k, i]
        if l == 1 or code not in codes:
            return
