"""A sentence that somebody types, as the tokens of a task."""

import re
from difflib import get_close_matches

import numpy as np

FEW = 40
"""names that an error shows all of"""


def read(sentence: str, names: tuple[str, ...]) -> np.ndarray:
    """The tokens of a sentence, int64 [T].

    Blanks part words, and punctuation may follow a word at once; where all names are single characters, blanks part
    nothing. Letters may be large or small.

    Raises: ValueError naming a word that is none of the names, or if there are no words.
    """
    index = {name.lower(): token for token, name in enumerate(names)}
    index |= {name: token for token, name in enumerate(names)}  # as they are, before they are small

    def find(word: str) -> int | None:
        return index.get(word, index.get(word.lower()))

    if all(len(name) == 1 for name in names):
        words = list("".join(sentence.split()))
    else:
        words = []
        for piece in sentence.split():
            words += [piece] if find(piece) is not None else re.findall(r"\w+|[^\w\s]", piece)
    if not words:
        raise ValueError("there is no word in the sentence to inspect")
    tokens = [find(word) for word in words]
    if None in tokens:
        strange = words[tokens.index(None)]
        raise ValueError(f"{strange!r} is no word of this task; {_choices(strange, names)}")
    return np.array(tokens, np.int64)


def _choices(word: str, names: tuple[str, ...]) -> str:
    if len(names) <= FEW:
        return f"its words are {' '.join(names)}"
    close = get_close_matches(word, names, n=3)
    return f"it has {len(names):,}" + (f", {' and '.join(map(repr, close))} among them" if close else "")
