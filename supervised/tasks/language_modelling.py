"""Word-level language modelling: Penn Treebank and WikiText (Schlag et al. 2021, 4.3; Irie et al. 2021, 4.1)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from random import Random
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from engram.supervised.tasks.stream import Stream
from engram.supervised.tasks.task import Batch
from engram.supervised.text import language
from engram.supervised.text.origin import DATA_DIR, GENERATED, DataDir

Size = Literal["small", "tiny", "full"]
RECALLED, OTHER = 0, 1
"""parts of generated text"""
SHORT_WINDOWS, SHORTEST, SPREAD, EXCESS = 0.05, 5, 5.0, 10
"""of the training windows: share of those about half as long, steps of the shortest, standard deviation of the lengths,
and steps by which they may exceed `window` (Merity et al. 2018, 5; the last from the program of Schlag et al. 2021)"""


@dataclass(frozen=True)
class LanguageModelling(Stream):
    """The target of each word is the next one.

    A training set is cut into as many consecutive texts as there are rows, and each epoch starts them anew, from the
    initial state. The valid set is read in ten rows and the test set in one, straight from its file.
    """

    window: int = 70
    """steps of a batch, over which gradients reach back"""
    corpus: str = "penn-treebank"
    """penn-treebank, wikitext-2 or wikitext-103"""
    vary_window: bool = True
    """training windows have random lengths around `window`, and learning rates in proportion to them"""
    size: Size = "small"
    """of the generated text: 200 k, 20 k or 1 M words"""
    data_dir: DataDir = DATA_DIR
    """folder with the files; None for generated text"""

    metrics: ClassVar = ("perplexity",)
    valid_rows: ClassVar = 10

    def __post_init__(self):
        super().__post_init__()
        self.require(self.corpus in language.CORPORA, "corpus", " or ".join(language.CORPORA))
        self.require(self.size in get_args(Size), "size", " or ".join(get_args(Size)))
        self.require(not self.vary_window or self.window >= SHORTEST, "window", f"at least {SHORTEST}")

    @property
    def parts(self) -> tuple[str, ...]:
        return ("recalled words", "other words") if self._source.origin == GENERATED else ()

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return self._source.content.vocabulary

    def data(self) -> dict[str, Any]:
        source = self._source
        words = {"vocabulary": len(source.content.vocabulary)}
        return {"data": source.origin, "tokens": source.content.counts | words, **source.notes}

    def train_batch(self, number: int, batch_size: int, seed: int) -> Batch:
        rows = _columns(self._source.content.train, batch_size)
        windows = _windows(len(rows) - 1, self.window, self.vary_window, seed)
        start, end = windows.place(number)
        return self._batch(rows[start : end + 1], None, start > 0)._replace(rate=(end - start) / self.window)

    def chunks(self, split: str, rows: int) -> Iterator[Batch]:
        text = self._source.content
        flags = language.recalled(split, self.size) if self.parts else iter(())
        if rows == 1:
            yield from self._read(text.test() if split == "test" else iter(text.valid), flags)
            return
        columns = _columns(text.valid, rows)
        recalled = _columns(np.fromiter(flags, bool, len(text.valid)), rows) if self.parts else None
        for start in range(0, len(columns) - 1, self.window):
            part = None if recalled is None else recalled[start : start + self.window + 1]
            yield self._batch(columns[start : start + self.window + 1], part, start > 0)

    def example(self, number: int) -> Batch:
        """A window of the test set, by itself."""
        text = self._source.content
        self.require_number(number, (text.counts["test"] - 1) // self.window)
        first = number * self.window
        words = np.array(list(islice(text.test(), first, first + self.window + 1)), np.int32)
        return self._batch(words[:, None], None, False)

    def _read(self, words: Iterator[int], flags: Iterator[bool]) -> Iterator[Batch]:
        """One row of words as they come; none of them is kept."""
        last, last_flag, begun = list(islice(words, 1)), list(islice(flags, 1)), False
        while chunk := list(islice(words, self.window)):
            tokens, recalled = last + chunk, last_flag + list(islice(flags, self.window))
            part = np.array(recalled)[:, None] if self.parts else None
            yield self._batch(np.array(tokens, np.int32)[:, None], part, begun)
            last, last_flag, begun = tokens[-1:], recalled[-1:], True

    def _batch(self, words: np.ndarray, recalled: np.ndarray | None, continues: bool) -> Batch:
        """From words, and whether they are recalled, [T + 1, B]."""
        x, y = words[:-1].astype(np.int64), words[1:].astype(np.int64)
        part = None if recalled is None else np.where(recalled[1:], RECALLED, OTHER)
        return Batch(x, y, np.ones_like(x, bool), np.full(x.shape[1], len(x)), continues, part)

    @property
    def _source(self) -> language.Corpus:
        return language.load(self.data_dir, self.corpus, self.size)


def _columns(tokens: np.ndarray, rows: int) -> np.ndarray:
    """Consecutive texts, [L, B]; what is left over is cut off. Raises ValueError if there is too little."""
    length = len(tokens) // rows
    if length < 2:
        raise ValueError(f"{len(tokens)} words are too few for {rows} rows (--batch-size)")
    return tokens[: length * rows].reshape(rows, length).T


class _Windows:
    """Where the training windows of each epoch begin and end, in random lengths."""

    def __init__(self, steps: int, window: int, vary: bool, seed: int):
        self.steps, self.window, self.vary, self.seed = steps, window, vary, seed
        self.first = [0]  # number of the first window of each epoch
        self.borders = lru_cache(maxsize=2)(self.borders)

    def place(self, number: int) -> tuple[int, int]:
        """First step and end of the window `number` of a run."""
        while self.first[-1] <= number:
            self.first.append(self.first[-1] + len(self.borders(len(self.first) - 1)) - 1)
        epoch = int(np.searchsorted(self.first, number, side="right")) - 1
        return tuple(self.borders(epoch)[number - self.first[epoch] :][:2])

    def borders(self, epoch: int) -> list[int]:
        """Of the windows of an epoch, from 0 to the last step."""
        random, borders = Random(f"{self.seed} {epoch}"), [0]
        while borders[-1] < self.steps:
            length = self.window
            if self.vary:
                base = self.window if random.random() >= SHORT_WINDOWS else self.window / 2
                length = min(max(SHORTEST, int(random.gauss(base, SPREAD))), self.window + EXCESS)
            borders.append(min(borders[-1] + length, self.steps))
        return borders


_windows = lru_cache(maxsize=2)(_Windows)
