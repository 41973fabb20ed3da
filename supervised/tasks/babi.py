"""bAbI question answering, word by word: the story first, the question last (Munkhdalai et al. 2019, 4.2)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np

from engram.supervised.tasks.examples import training_indices
from engram.supervised.tasks.task import Batch, Task, Tokens, last_steps, time_first
from engram.supervised.text import babi
from engram.supervised.text.origin import DATA_DIR, DataDir

PADDING, PLACEHOLDER = 0, 1
RESERVED = "<pad>", "-"
"""the first words of the vocabulary"""
LONGEST = 800
"""words of a story in training; longer ones are left out (Graves et al. 2016)"""


@dataclass(frozen=True)
class Babi(Task):
    """The statements before a question, the question, then a placeholder for each word of its answer, the target there.

    Other questions of the story are left out, and answers at commas are words of their own.
    """

    tasks: tuple[int, ...] = tuple(babi.TASKS)
    """numbers of the bAbI tasks, out of 1..20"""
    size: babi.Size = "1k"
    """training questions of each task; tiny is generated alone"""
    data_dir: DataDir = DATA_DIR
    """folder with the files; None for generated stories"""

    train_size: ClassVar = None  # all that there are
    metrics: ClassVar = ("sequence_accuracy", "accuracy")
    placeholder: ClassVar = PLACEHOLDER

    def __post_init__(self):
        super().__post_init__()
        babi.check(self)

    @property
    def inputs(self) -> Tokens:
        return Tokens(len(self.vocabulary), PADDING, self.vocabulary)

    @property
    def outputs(self) -> Tokens:
        return Tokens(len(self.vocabulary), names=self.vocabulary)

    @property
    def parts(self) -> tuple[str, ...]:
        return babi.titles(self.tasks)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return self._questions.vocabulary

    @property
    def valid_size(self) -> int:
        return len(self._questions.splits["valid"])

    @property
    def test_size(self) -> int:
        return len(self._questions.splits["test"])

    def data(self) -> dict[str, Any]:
        questions = self._questions
        counts = {split: len(of_split) for split, of_split in questions.splits.items()}
        return {"data": questions.origin, "questions": counts, **questions.notes}

    def train_batch(self, number: int, batch_size: int, seed: int) -> Batch:
        size = len(self._questions.splits["train"])
        return self.batch("train", training_indices(number * batch_size, batch_size, seed, size))

    def batch(self, split: str, indices: np.ndarray) -> Batch:
        every = self._questions.splits[split]
        asked = [every[i] for i in indices]
        answers = np.array([len(question.answer) for question in asked])
        read = np.array([len(question.words) for question in asked])
        lengths = read + answers
        x = np.full((len(asked), lengths.max()), PLACEHOLDER, np.int16)
        y = np.zeros_like(x)
        for row, target, question in zip(x, y, asked, strict=True):
            row[: len(question.words)] = question.words
            target[len(question.words) : len(question.words) + len(question.answer)] = question.answer
        mask = last_steps(lengths, answers)
        part = np.where(mask, np.array([question.part for question in asked]), -1)
        return Batch(time_first(x, lengths, PADDING), time_first(y, lengths), mask, lengths, False, part)

    @property
    def _questions(self) -> "_Questions":
        return _load(self.data_dir, self.size, self.tasks)


class _Question(NamedTuple):
    words: np.ndarray  # int16: the statements before it, and itself
    answer: np.ndarray  # int16
    part: int


class _Questions(NamedTuple):
    vocabulary: tuple[str, ...]
    splits: dict[str, list[_Question]]
    origin: str
    notes: dict[str, Any]


@lru_cache(maxsize=2)
def _load(data_dir: str | None, size: str, tasks: tuple[int, ...]) -> _Questions:
    corpus = babi.load(data_dir, size, tasks)
    every = [
        s for by_task in corpus.content.values() for stories in by_task.values() for story in stories for s in story
    ]
    words = {word for sentence in every for word in (*sentence.words, *(sentence.answer or "").split(","))} - {""}
    vocabulary = (*RESERVED, *sorted(words))
    index = {word: i for i, word in enumerate(vocabulary)}
    splits = {
        split: [
            question
            for part, task in enumerate(tasks)
            for story in by_task[task]
            if split != "train" or sum(len(s.words) for s in story if s.answer is None) <= LONGEST
            for question in _ask(story, part, index)
        ]
        for split, by_task in corpus.content.items()
    }
    return _Questions(vocabulary, splits, corpus.origin, corpus.notes)


def _ask(story: babi.Story, part: int, index: dict[str, int]) -> Iterator[_Question]:
    """The questions of a story."""
    context: list[int] = []
    for sentence in story:
        words = [index[word] for word in sentence.words]
        if sentence.answer is None:
            context += words
        else:
            answer = [index[word] for word in sentence.answer.split(",")]
            yield _Question(np.array(context + words, np.int16), np.array(answer, np.int16), part)
