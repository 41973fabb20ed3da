"""Text for language models: one parser for the files of Penn Treebank and WikiText, and for generated lines.

A file is lines of words between blanks; each line, an empty one too, ends with the word <eos>.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engram.supervised.text import articles
from engram.supervised.text.origin import GENERATED, REAL, Corpus, missing

END = "<eos>"


class Source(NamedTuple):
    """A published corpus."""

    folders: tuple[str, ...]
    """of the user's folder where its files may lie"""
    files: tuple[str, ...]
    """their names, of which the first that are there count"""
    home: str
    """where they come from"""
    tokens: dict[str, int]
    """in its splits, with <eos>"""
    vocabulary: int


CORPORA = {
    "penn-treebank": Source(
        ("", "ptb", "penn", "simple-examples/data"),
        ("ptb.{}.txt", "{}.txt"),
        "Tomas Mikolov's RNNLM page has them in simple-examples.tgz, folder data",
        {"train": 929_589, "valid": 73_760, "test": 82_430},
        10_000,
    ),
    "wikitext-2": Source(
        ("", "wikitext-2"),
        ("wiki.{}.tokens", "{}.txt"),
        "Salesforce's page of the WikiText language modeling dataset has them in wikitext-2-v1.zip",
        {"train": 2_088_628, "valid": 217_646, "test": 245_569},
        33_278,
    ),
    "wikitext-103": Source(
        ("", "wikitext-103"),
        ("wiki.{}.tokens", "{}.txt"),
        "Salesforce's page of the WikiText language modeling dataset has them in wikitext-103-v1.zip",
        {"train": 103_227_021, "valid": 217_646, "test": 245_569},
        267_735,
    ),
}


class Text(NamedTuple):
    """A corpus as numbers of words."""

    vocabulary: tuple[str, ...]
    """in the order in which they first appear"""
    train: np.ndarray
    """int32 [N]"""
    valid: np.ndarray
    test: Callable[[], Iterator[int]]
    """reads the test set again, from its first line"""
    counts: dict[str, int]
    """tokens of each split"""


def words(lines: Iterable[str]) -> Iterator[str]:
    """Those of all lines."""
    for line in lines:
        yield from line.split()
        yield END


def parse(lines: Callable[[str], Iterable[str]]) -> Text:
    """A corpus from the lines of its splits; `lines` is called anew wherever they are read again."""
    numbers: dict[str, int] = {}
    tokens = {}
    for split in ("train", "valid", "test"):
        ids = (numbers.setdefault(word, len(numbers)) for word in words(lines(split)))
        tokens[split] = sum(1 for _ in ids) if split == "test" else np.array(array("i", ids), np.int32)
    test = partial(map, numbers.__getitem__)
    counts = {split: len(ids) if split != "test" else ids for split, ids in tokens.items()}
    return Text(tuple(numbers), tokens["train"], tokens["valid"], lambda: test(words(lines("test"))), counts)


@lru_cache(maxsize=2)
def load(data_dir: str | None, name: str, size: str) -> Corpus:
    """The `Text` of a corpus.

    Args:   data_dir: where its files are; None for generated articles.
            name: of the corpus; of articles: any.
            size: of the articles.
    Raises: ValueError naming the files sought.
    """
    if data_dir is None:
        return Corpus(parse(lambda split: articles.lines(split, size)), GENERATED, {})
    source = CORPORA[name]
    pattern = _pattern(Path(data_dir), source)
    text = parse(lambda split: _lines(Path(pattern.format(split))))
    expected = source.tokens | {"vocabulary": source.vocabulary}
    found = text.counts | {"vocabulary": len(text.vocabulary)}
    differs = {key: f"{found[key]}, not {expected[key]}" for key in expected if found[key] != expected[key]}
    return Corpus(text, REAL, {"differs": differs} if differs else {})


def recalled(split: str, size: str) -> Iterator[bool]:
    """Of each token of the articles, whether it is a recalled word."""
    return chain.from_iterable((*sentence.recalled, False) for sentence in articles.sentences(split, size))


def _lines(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8") as file:
        yield from file


def _pattern(data_dir: Path, source: Source) -> str:
    """The path of the files, with {} for the split."""
    patterns = [str(data_dir / folder / name) for folder in source.folders for name in source.files]
    for pattern in patterns:
        if all(Path(pattern.format(split)).is_file() for split in ("train", "valid", "test")):
            return pattern
    raise missing([Path(pattern.format("{train,valid,test}")) for pattern in patterns], source.home)
