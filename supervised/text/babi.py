"""The 20 bAbI tasks (Weston et al. 2015): one parser for the files of version 1.2 and for generated lines.

A file is lines "1 Mary moved to the garden." and "3 Where is Mary? <tab>garden<tab>1"; number 1 starts a story.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from engram.supervised.text import babi_simulator
from engram.supervised.text.origin import GENERATED, PARTLY_GENERATED, REAL, Corpus, missing

Size = Literal["10k", "1k", "tiny"]
"""training questions of each task"""
TASKS = {
    1: "single fact",
    2: "two facts",
    3: "three facts",
    4: "two arguments",
    5: "three arguments",
    6: "yes or no",
    7: "counting",
    8: "lists",
    9: "negation",
    10: "indefinite",
    11: "coreference",
    12: "conjunction",
    13: "compound coreference",
    14: "time",
    15: "deduction",
    16: "induction",
    17: "position",
    18: "size",
    19: "path finding",
    20: "motivation",
}
FOLDERS = {"10k": ("en-valid-10k", "en-10k"), "1k": ("en-valid", "en")}
"""of the files, by size; the second has no valid set, and every tenth training story is taken for it"""
COUNTS = {
    "10k": {"train": (56_396, 179_998), "valid": (6_265, 20_002), "test": (6_267, 20_000)},
    "1k": {"train": (5_642, 18_013), "valid": (625, 1_987), "test": (6_267, 20_000)},
}
"""stories and questions of all tasks together, in the folders that have a valid set"""


class Sentence(NamedTuple):
    words: tuple[str, ...]
    """in lower case, with the full stop or the question mark as the last"""
    answer: str | None = None
    """of a question; several answers are joined by commas"""
    supports: tuple[int, ...] = ()
    """of a question: numbers of the lines, counted from 1, that it takes"""


Story = tuple[Sentence, ...]


def parse(lines: Iterable[str]) -> Iterator[Story]:
    """The stories in the lines of a file. Raises ValueError showing a line that is none of bAbI."""
    story: list[Sentence] = []
    for line in lines:
        if not line.strip():
            continue
        number, _, text = line.strip().lower().partition(" ")
        if not number.isdecimal() or not text:
            raise ValueError(f"{line.strip()[:60]!r} is no line of a bAbI file")
        if number == "1" and story:
            yield tuple(story)
            story = []
        if "\t" in text:
            question, answer, *supports = (part.strip() for part in text.split("\t"))
            numbers = tuple(int(number) for number in " ".join(supports).split())
            story.append(Sentence((*question.removesuffix("?").split(), "?"), answer, numbers))
        else:
            story.append(Sentence((*text.removesuffix(".").split(), ".")))
    if story:
        yield tuple(story)


def titles(tasks: tuple[int, ...]) -> tuple[str, ...]:
    """What each of the tasks is called in reports."""
    return tuple(f"{task} {TASKS[task]}" for task in tasks)


def check(options: Any) -> None:
    """Of a task on these stories: make `tasks` a tuple, and raise a ValueError unless it and `size` are possible."""
    tasks = tuple(options.tasks)
    object.__setattr__(options, "tasks", tasks)  # a list where it was read from JSON
    options.require(
        tasks and len(set(tasks)) == len(tasks) and set(tasks) <= set(TASKS), "tasks", "in 1..20, once each"
    )
    options.require(options.size in get_args(Size), "size", " or ".join(get_args(Size)))


@lru_cache(maxsize=2)
def load(data_dir: str | None, size: str, tasks: tuple[int, ...]) -> Corpus:
    """Stories by split and task, {split: {task: [story, ...]}}.

    Args:   data_dir: where the files are; None for generated stories.
            size: of the training set: 10k or 1k questions a task, or tiny.
            tasks: numbers in 1..20.
    Raises: ValueError naming the files sought.
    """
    if data_dir is None:
        stories = {
            split: {task: list(parse(babi_simulator.lines(task, split, size))) for task in tasks}
            for split in ("train", "valid", "test")
        }
        return Corpus(stories, GENERATED, {})
    folder, has_valid = _folder(Path(data_dir), size)
    origins, stories = set(), {"train": {}, "valid": {}, "test": {}}
    for task in tasks:
        for split in ("train", "valid", "test") if has_valid else ("train", "test"):
            paths, origin = _files(folder, task, split)
            origins.add(origin)
            stories[split][task] = [story for path in paths for story in _read(path)]
        if not has_valid:
            every = stories["train"][task]
            if len(every) < 10:
                raise ValueError(f"{folder} has {len(every)} training stories of task {task}; 10 are the least")
            stories["valid"][task] = every[9::10]
            stories["train"][task] = [story for i, story in enumerate(every) if i % 10 != 9]
    notes = {} if has_valid else {"valid_set": "every tenth training story"}
    if has_valid and set(tasks) == set(TASKS):
        found = {}
        for split, by_task in stories.items():
            every = [story for of_task in by_task.values() for story in of_task]
            found[split] = len(every), sum(sentence.answer is not None for story in every for sentence in story)
        notes |= differences(found, COUNTS[size])
    return Corpus(stories, PARTLY_GENERATED if PARTLY_GENERATED in origins else REAL, notes)


def _folder(data_dir: Path, size: str) -> tuple[Path, bool]:
    """The folder of the files, and whether they include a valid set."""
    if size not in FOLDERS:
        raise ValueError(f"there is no real data of size {size}; choose --task.size 10k or 1k, or drop --data-dir")
    places = [data_dir, data_dir / "babi", data_dir / "tasks_1-20_v1-2"]
    for name in FOLDERS[size]:
        for place in places:
            if (place / name).is_dir():
                return place / name, name.startswith("en-valid")
    source = "the bAbI project page of Facebook AI Research has them as tasks_1-20_v1-2.tar.gz"
    raise missing([place / name / "qa1_train.txt" for name in FOLDERS[size] for place in places[:2]], source)


def _files(folder: Path, task: int, split: str) -> tuple[list[Path], str]:
    """The files of a task and split, and where they come from."""
    for path in (folder / f"qa{task}_{split}.txt", *sorted(folder.glob(f"qa{task}_*_{split}.txt"))):
        if path.is_file():
            return [path], REAL
    stem = f"qa{task}_{split}"
    parts = [folder / f"{stem}.partial.txt", folder.parent / "generated" / f"{stem}_fill.txt"]
    if all(part.is_file() for part in parts):
        return parts, PARTLY_GENERATED
    raise missing([folder / f"{stem}.txt"], "tasks_1-20_v1-2.tar.gz of Facebook AI Research has it")


def _read(path: Path) -> list[Story]:
    with open(path, encoding="utf-8") as lines:
        return list(parse(lines))


def differences(found: dict[str, tuple[int, int]], published: dict[str, tuple[int, int]]) -> dict[str, dict[str, str]]:
    """A note on the splits whose stories and questions are not as many as published, if there are any."""
    said = "{} stories with {} questions, not {} with {}"
    differs = {
        split: said.format(*found[split], *published[split]) for split in found if found[split] != published[split]
    }
    return {"differs": differs} if differs else {}
