"""Generated news in the format of the Penn Treebank: what stands in for the files of those who have none.

An article is on two to four persons or firms, each with a role, a town and a partner. They are introduced once; later
sentences name one of them and then its role, town or partner, which a model can know from the article alone.
"""

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

TOKENS = {
    "tiny": {"train": 20_000, "valid": 5_000, "test": 5_000},
    "small": {"train": 200_000, "valid": 20_000, "test": 20_000},
    "full": {"train": 1_000_000, "valid": 80_000, "test": 80_000},
}
"""by size and split, with the end of each sentence"""
UNKNOWN = 0.03
"""share of nouns, verbs and adjectives that is <unk>"""


def _words(kind: str, count: int, ending: str) -> list[str]:
    """Different made-up words, the same in every process."""
    random, words = Random(kind), {}
    while len(words) < count:
        syllables = [random.choice("bdfgklmnprstvz") + random.choice("aeiou") for _ in range(random.randint(1, 2))]
        words["".join(syllables) + ending] = None
    return list(words)


NAMES, ROLES, TOWNS = _words("names", 600, "n"), _words("roles", 40, "er"), _words("towns", 60, "ville")
FILLERS = {
    "noun": _words("nouns", 150, "t"),
    "verb": _words("verbs", 80, "d"),
    "adjective": _words("adjectives", 60, "c"),
}

INTRODUCTIONS = (
    "{name} , a {role} from {town} , said it will {verb} {partner}",
    "{name} , the {adjective} {role} , moved from {town} to join {partner}",
    "in {town} , {name} was named {role} by {partner}",
    "{partner} hired {name} of {town} as a {role}",
)
MENTIONS = (
    "{short} returned to {town} after N {noun}s",
    "{short} , the {role} , {verb} the {adjective} {noun}",
    "mr. {short} and {partner} {verb} a {noun} of $ N million",
    "the {noun} of {short} in {town} {verb} N %",
    "{short} told {partner} that the {noun} was {adjective}",
    "last year {short} {verb} {partner} over the {noun}",
    "the {adjective} {noun} that {short} {verb} was for {town}",
    "according to {short} , every {role} {verb} a {noun}",
    "{short} {verb} N {noun}s",
    "in N {short} {verb} the {noun} and the {adjective} {noun}",
)
FILLING = (
    "the {noun} {verb} N to N",
    "analysts {verb} that the {adjective} {noun} would {verb} a {noun}",
    "a {noun} of the {adjective} {noun} {verb} it",
    "the {noun} was {adjective} and the {noun} {adjective}",
    "in N the {noun} {verb} $ N billion",
    "it {verb} the {noun} for a {adjective} {noun}",
    "N {noun}s {verb} in the {adjective} {noun}",
    "shares {verb} N % on {adjective} {noun}",
    "but the {noun} {verb} {adjective}",
    "they {verb} a {noun} with the {noun} of N {noun}s",
    "no {noun} {verb} this {adjective} {noun}",
)


class Sentence(NamedTuple):
    words: list[str]
    recalled: list[bool]
    """of each word: role, town or partner of who was named before it in the sentence, introduced in an earlier one"""


class Entity(NamedTuple):
    name: str
    short: str
    """by which later sentences name it"""
    role: str
    town: str


def sentences(split: str, size: str) -> Iterator[Sentence]:
    """The articles of a split one after the other, cut at its number of tokens."""
    random, left = Random(f"articles {split}"), TOKENS[size][split]
    while True:
        for sentence in _article(random):
            if left <= len(sentence.words):
                if left:
                    yield Sentence(sentence.words[: left - 1], sentence.recalled[: left - 1])
                return
            yield sentence
            left -= len(sentence.words) + 1


def lines(split: str, size: str) -> Iterator[str]:
    """The same as the lines of a file."""
    for sentence in sentences(split, size):
        yield f" {' '.join(sentence.words)} \n"


def _article(random: Random) -> list[Sentence]:
    entities: dict[str, Entity] = {}
    wanted = random.randint(2, 4)
    while len(entities) < wanted:
        short = _zipf(random, NAMES)
        name = f"{_zipf(random, NAMES)} {short}" if random.random() < 0.7 else f"{short} corp."
        entities[short] = Entity(name, short, random.choice(ROLES), random.choice(TOWNS))
    names = list(entities)
    partners = dict(zip(names, names[1:] + names[:1], strict=True))
    known, article = [], []
    for _ in range(random.randint(8, 16)):
        new = len(known) < len(names) and random.random() < 0.5
        if new:
            known.append(names[len(known)])
        if new or (known and random.random() < 0.85):
            entity = entities[known[-1] if new else random.choice(known)]
            template = random.choice(INTRODUCTIONS if new else MENTIONS)
            article.append(_fill(random, template, entity, partners[entity.short]))
        else:
            article.append(_fill(random, random.choice(FILLING)))
    return article


def _fill(random: Random, template: str, entity: Entity | None = None, partner: str = "") -> Sentence:
    """A sentence from a template."""
    words, recalled, named = [], [], False
    for slot in template.split():
        kind = slot[1 : slot.index("}")] if slot.startswith("{") else ""
        if kind in FILLERS:
            word = _zipf(random, FILLERS[kind]) + slot[len(kind) + 2 :]
            said = [word if random.random() > UNKNOWN else "<unk>"]
        elif kind == "partner":
            said = [partner]
        else:
            said = getattr(entity, kind).split() if kind else [slot]
        words += said
        recalled += [named and kind in ("role", "town", "partner")] * len(said)
        named |= kind == "short"
    return Sentence(words, recalled)


def _zipf(random: Random, words: list[str]) -> str:
    """One of the words, the n-th with a probability that falls about as 1 / n."""
    return words[int(len(words) ** random.random() * (1 + 1e-12)) - 1]
