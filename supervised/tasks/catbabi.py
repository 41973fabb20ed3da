"""Concatenated bAbI: an endless sequence of short stories with questions inside (Schlag et al. 2021, 4.1, App. D)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from engram.kernels import njit
from engram.supervised.tasks.examples import training_indices
from engram.supervised.tasks.stream import Stream
from engram.supervised.tasks.task import Batch
from engram.supervised.text import babi
from engram.supervised.text.origin import DATA_DIR, DataDir

END_OF_STORY = 1
RESERVED = "<pad>", "<eos>"
"""the first words of the vocabulary, as in the authors' program; nothing is padded with the first"""
PUBLISHED = {"train": (56_376, 179_909), "valid": (6_245, 19_907), "test": (6_247, 19_910)}
"""stories and questions of the 10k version (Table 3)"""
ORDER_SEED = 20_201_013
"""of the one order that the stories of valid, and of test, have"""


@dataclass(frozen=True)
class CatBabi(Stream):
    """Words of stories, each with the end-of-story word before it; the target is the next word.

    Answers follow their question marks as one word, so that the steps whose input is "?" are those that metrics judge,
    by task. Every training epoch draws the stories in a new order, each appended to the row that is shortest so far; an
    epoch's stories follow those of the one before, and no state is ever reset.
    """

    window: int = 200
    """steps of a batch, over which gradients reach back"""
    mode: Literal["qa", "lm"] = "qa"
    """the loss is that of the answers, or of all words"""
    tasks: tuple[int, ...] = tuple(babi.TASKS)
    """numbers of the bAbI tasks, out of 1..20"""
    size: babi.Size = "1k"
    """training questions of each task; tiny is generated alone"""
    drop_last: bool = True
    """leave out the last story of each file, as the authors' preprocessing does"""
    data_dir: DataDir = DATA_DIR
    """folder with the files; None for generated text"""

    metrics: ClassVar = ("accuracy", "perplexity")
    valid_rows: ClassVar = 128

    def __post_init__(self):
        super().__post_init__()
        self.require(self.mode in ("qa", "lm"), "mode", "qa or lm")
        babi.check(self)

    @property
    def parts(self) -> tuple[str, ...]:
        return babi.titles(self.tasks)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return self._text.vocabulary

    def data(self) -> dict[str, Any]:
        text = self._text
        counts = {split: (len(stories.lengths), stories.questions) for split, stories in text.splits.items()}
        report = {"data": text.origin, "stories_and_questions": counts, **text.notes}
        if self.data_dir and self.size == "10k" and len(self.tasks) == len(babi.TASKS) and self.drop_last:
            report |= babi.differences(counts, PUBLISHED)
        return report

    def train_batch(self, number: int, batch_size: int, seed: int) -> Batch:
        rows = _training_rows(self, batch_size, seed)
        start = number * self.window
        words, parts = rows.steps(start, start + self.window + 1)
        return self._batch(words, parts, np.full(batch_size, self.window))

    def chunks(self, split: str, rows: int) -> Iterator[Batch]:
        rows = _Rows(self._text.splits[split], rows, ORDER_SEED)
        ends = rows.ends(0)
        for start in range(0, ends.max(), self.window):
            lengths = (ends - start).clip(0, self.window)
            words, parts = rows.steps(start, start + lengths.max() + 1, epochs=1)
            yield self._batch(words, parts, lengths)

    def example(self, number: int) -> Batch:
        """A story of the test file, by itself."""
        stories = self._text.splits["test"]
        self.require_number(number, len(stories.lengths))
        start, length = stories.starts[number], stories.lengths[number]
        words = np.append(stories.words[start : start + length], END_OF_STORY)[:, None]
        return self._batch(words, np.full_like(words, stories.parts[number]), np.array([length]))

    def read(self, sentence: str) -> Batch:
        story = f"{RESERVED[END_OF_STORY]} {sentence}" if sentence.strip() else ""
        return super().read(story)._replace(continues=True)

    def asked(self, x: np.ndarray) -> np.ndarray:
        return x == self._text.question_mark if self.mode == "qa" else super().asked(x)

    def _batch(self, words: np.ndarray, parts: np.ndarray, lengths: np.ndarray) -> Batch:
        """From words and tasks [T + 1, B]."""
        x, y, parts = words[:-1].astype(np.int64), words[1:].astype(np.int64), parts[:-1].astype(np.int64)
        real = np.arange(len(x))[:, None] < lengths
        asked = real & (x == self._text.question_mark)
        return Batch(x, y, asked if self.mode == "qa" else real, lengths, True, np.where(asked, parts, -1))

    @property
    def _text(self) -> "_Text":
        return _load(self.data_dir, self.size, self.tasks, self.drop_last)


class _Stories(NamedTuple):
    """The stories of a split, one after the other."""

    words: np.ndarray  # int16 [N], the end-of-story word before each story
    starts: np.ndarray  # int64 [S], of each story in them
    lengths: np.ndarray  # int64 [S], with that word
    parts: np.ndarray  # int8 [S], index of its task
    questions: int


class _Text(NamedTuple):
    vocabulary: tuple[str, ...]
    question_mark: int
    splits: dict[str, _Stories]
    origin: str
    notes: dict[str, Any]


@lru_cache(maxsize=4)
def _load(data_dir: str | None, size: str, tasks: tuple[int, ...], drop_last: bool) -> _Text:
    corpus = babi.load(data_dir, size, tasks)
    texts = {
        split: [[_text(story) for story in by_task[task]] for task in tasks]
        for split, by_task in corpus.content.items()
    }
    words = {word for by_task in texts.values() for of_task in by_task for text in of_task for word in text}
    # the authors' vocabulary has the numbers of the tasks, too, which no story contains: their count of parameters
    vocabulary = (*RESERVED, *sorted(words), *(f"<task {task}>" for task in babi.TASKS))
    index = {word: i for i, word in enumerate(vocabulary)}
    splits = {}
    for split, by_task in texts.items():
        kept = [(part, text) for part, of_task in enumerate(by_task) for text in of_task[: -1 if drop_last else None]]
        tokens = [np.array([END_OF_STORY, *map(index.__getitem__, text)], np.int16) for _, text in kept]
        lengths = np.array([len(story) for story in tokens])
        splits[split] = _Stories(
            np.concatenate(tokens),
            np.cumsum(lengths) - lengths,
            lengths,
            np.array([part for part, _ in kept], np.int8),
            sum(text.count("?") for _, text in kept),
        )
    return _Text(vocabulary, index["?"], splits, corpus.origin, corpus.notes)


def _text(story: babi.Story) -> tuple[str, ...]:
    """The words of a story, each question with its answer."""
    return tuple(word for s in story for word in (*s.words, *(() if s.answer is None else (s.answer,))))


class _Rows:
    """Which story comes where: epochs of all stories, each put at the end of the row that is shortest by then."""

    def __init__(self, stories: _Stories, rows: int, seed: int):
        self.stories, self.rows, self.seed = stories, rows, seed
        self._ends = [np.zeros(rows, np.int64)]  # of the rows before each epoch
        self._plan = lru_cache(maxsize=2)(self._plan)

    def ends(self, epoch: int) -> np.ndarray:
        """Steps of each row, int64 [B], to the end of an epoch."""
        while len(self._ends) <= epoch + 1:
            self._ends.append(self._plan(len(self._ends) - 1)[-1])
        return self._ends[epoch + 1]

    def steps(self, start: int, end: int, epochs: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Words and parts, [end - start, B]; behind the end of the last epoch, the end-of-story word."""
        words = np.full((end - start, self.rows), END_OF_STORY, np.int16)
        parts = np.zeros((end - start, self.rows), np.int8)
        epoch = 0
        while epoch != epochs and (epoch == 0 or self.ends(epoch - 1).min() < end):
            if self.ends(epoch).max() > start:
                order, row, place, _ = self._plan(epoch)
                _copy(self.stories[:4], order, row, place, start, words, parts)
            epoch += 1
        return words, parts

    def _plan(self, epoch: int) -> tuple[np.ndarray, ...]:
        """The stories in their order, the row and the place there of each, and where the rows end then."""
        count = len(self.stories.lengths)
        order = training_indices(epoch * count, count, self.seed, count).astype(np.int64)
        ends = self._ends[epoch].copy()
        row, place = np.empty(count, np.int64), np.empty(count, np.int64)
        _assign(self.stories.lengths[order], ends, row, place)
        return order, row, place, ends


@lru_cache(maxsize=2)
def _training_rows(task: CatBabi, batch_size: int, seed: int) -> _Rows:
    return _Rows(task._text.splits["train"], batch_size, seed)


@njit(cache=True)
def _assign(lengths, ends, row, place):
    for i in range(len(lengths)):
        shortest = np.argmin(ends)
        row[i], place[i] = shortest, ends[shortest]
        ends[shortest] += lengths[i]


@njit(cache=True)
def _copy(stories, order, row, place, start, words, parts):
    """Write what of the stories lies within start .. start + len(words)."""
    every, begins, lengths, part_of = stories
    end = start + len(words)
    for i in range(len(order)):
        story = order[i]
        for t in range(max(start, place[i]), min(end, place[i] + lengths[story])):
            words[t - start, row[i]] = every[begins[story] + t - place[i]]
            parts[t - start, row[i]] = part_of[story]
