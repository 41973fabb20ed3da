"""Stories in the format of bAbI, after the public description of its tasks (Weston et al. 2015) and the statistics of
version 1.2: what stands in for the files of those who have none. They are easier to tell than to confuse with the real
ones: results on them are no results on bAbI.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from random import Random

from engram.supervised.text import babi_world
from engram.supervised.text.babi_world import MOVED, PERSONS, PLACES, Tale

QUESTIONS = {"10k": (9_000, 1_000, 1_000), "1k": (900, 100, 1_000), "tiny": (60, 60, 60)}
"""of each task in train, valid and test, by size"""
TOWN_PERSONS = "Bill", "Fred", "Julie", "Mary"
TOWN_PLACES = "school", "park", "cinema", "office", "kitchen", "bedroom"
PRONOUN = {"Mary": "she", "Sandra": "she", "John": "he", "Daniel": "he"}
CONNECTIVES = "After that", "Then", "Afterwards", "Following that"
DIRECTIONS = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}
RELATIONS = {"above": (0, 1), "below": (0, -1), "to the left of": (-1, 0), "to the right of": (1, 0)}
TIMES = "yesterday", "this morning", "this afternoon", "this evening"
PLURALS = {"mouse": "mice", "sheep": "sheep", "wolf": "wolves", "cat": "cats"}
MOTIVES = {
    "hungry": ("kitchen", "apple"),
    "thirsty": ("kitchen", "milk"),
    "bored": ("garden", "football"),
    "tired": ("bedroom", "pajamas"),
}


def lines(task: int, split: str, size: str) -> Iterator[str]:
    """A file: stories with as many questions as the size has, always the same.

    Args: task: 1..20.
          split: train, valid or test.
          size: 10k, 1k or tiny.
    """
    random = Random(f"{task} {split}")
    wanted = QUESTIONS[size][("train", "valid", "test").index(split)]
    while wanted > 0:
        story = STORIES[task](random)
        wanted -= sum("\t" in line for line in story)
        yield from story


def _other(random: Random, options: tuple[str, ...], *excluded: str) -> str:
    return random.choice([option for option in options if option not in excluded])


def _two_arguments(random: Random) -> list[str]:
    """Three places on a line; where is the one, seen from its neighbour? (task 4)"""
    tale = Tale()
    direction, inverse = random.choice([("north", "south"), ("south", "north"), ("east", "west"), ("west", "east")])
    first, middle, last = random.sample(PLACES, 3)
    facts = []
    pairs = [(first, middle), (middle, last)]
    random.shuffle(pairs)
    for a, b in pairs:  # a is in the direction, seen from b
        told = (a, direction, b) if random.random() < 0.5 else (b, inverse, a)
        facts.append((tale.tell(f"The {told[0]} is {told[1]} of the {told[2]}."), a, b))
    line, a, b = random.choice(facts)
    question, answer = random.choice(
        [
            (f"What is {direction} of the {b}?", a),
            (f"What is {inverse} of the {a}?", b),
            (f"What is the {a} {direction} of?", b),
            (f"What is the {b} {inverse} of?", a),
        ]
    )
    tale.ask(question, answer, line)
    return tale.lines


def _rounds(random: Random, tell: Callable, ask: Callable) -> list[str]:
    """Five times two statements and a question; `tell` returns what became of persons, that `ask` asks for."""
    tale, known = Tale(), {}
    for _ in range(5):
        for i in range(2):
            known |= tell(tale, known, i)
        ask(tale, known)
    return tale.lines


def _is_in(places: tuple[str, ...], kinds: dict[str, int], yes: float, maybe: float) -> Callable[[Random], list[str]]:
    """Statements on the whereabouts of persons, some of them negated or indefinite (tasks 9 and 10).

    Args: kinds: weights of statements.
          yes: share of questions, after a definite statement, whose answer is yes; maybe: the same after an either.
    """
    persons = PERSONS if "either" not in kinds else TOWN_PERSONS

    def story(random: Random) -> list[str]:
        def tell(tale, known, _):
            (kind,) = random.choices(list(kinds), kinds.values())
            person = random.choice(persons)
            positive, where = known.get(person, (None, (None,)))[:2]
            place = _other(random, places, *(where if positive else ()))
            if kind == "no longer" and positive and len(where) == 1:
                place = where[0]
            other = _other(random, places, place)
            said = {
                "is": f"is in the {place}",
                "moved": f"{random.choice(MOVED)} the {place}",
                "no longer": f"is no longer in the {place}",
                "not": f"is not in the {place}",
                "either": f"is either in the {place} or the {other}",
            }[kind]
            line = tale.tell(f"{person} {said}.")
            return {person: (kind in ("is", "moved", "either"), (place, other) if kind == "either" else (place,), line)}

        def ask(tale, known):
            person, (positive, where, line) = random.choice(list(known.items()))
            if not positive:
                place, answer = where[0], "no"
            elif random.random() < (yes if len(where) == 1 else maybe):
                place, answer = random.choice(where), "yes" if len(where) == 1 else "maybe"
            else:
                place, answer = _other(random, places, *where), "no"
            tale.ask(f"Is {person} in the {place}?", answer, line)

        return _rounds(random, tell, ask)

    return story


def _coreference(pairs: bool, pronouns: bool) -> Callable[[Random], list[str]]:
    """Where is somebody who moved alone or with another, by name or as "they"? (tasks 11, 12 and 13)"""

    def story(random: Random) -> list[str]:
        before = []  # who moved in the statement before, where, and its number

        def tell(tale, known, i):
            if pronouns and i == 1:
                persons, place, line = before.pop()
                subject = "they" if pairs else PRONOUN[persons[0]]
                text = f"{random.choice(CONNECTIVES)} {subject} {random.choice(MOVED)} the "
                supports = (line,)
            else:
                persons, place, supports = random.sample(PERSONS, 2 if pairs else 1), None, ()
                text = f"{' and '.join(persons)} {random.choice(MOVED)} the "
            place = _other(random, PLACES, place, *(known[person][0] for person in persons if person in known))
            line = tale.tell(f"{text}{place}.")
            before.append((persons, place, line))
            return {person: (place, (*supports, line)) for person in persons}

        def ask(tale, known):
            before.clear()
            person, (place, supports) = random.choice(list(known.items()))
            tale.ask(f"Where is {person}?", place, *supports)

        return _rounds(random, tell, ask)

    return story


def _time(random: Random) -> list[str]:
    """Moves told out of order: where was somebody before? (task 14)"""
    tale = Tale()
    places: dict[str, list[str]] = {person: [random.choice(TOWN_PLACES)] for person in TOWN_PERSONS}
    for visits in places.values():
        for _ in TIMES[1:]:
            visits.append(_other(random, TOWN_PLACES, visits[-1]))
    untold = [(person, time) for person in TOWN_PERSONS for time in range(len(TIMES))]
    random.shuffle(untold)
    (first,) = random.choices((2, 4, 6), (24, 66, 10))
    told: dict[str, dict[int, int]] = {person: {} for person in TOWN_PERSONS}  # lines by time
    statements = 0
    while tale.questions < 5:
        for person, time in (untold.pop() for _ in range(min(2, len(untold)))):
            move, when = f"{random.choice(MOVED)} the {places[person][time]}", TIMES[time]
            early = random.random() < 0.5
            text = f"{when.capitalize()} {person} {move}." if early else f"{person} {move} {when}."
            told[person][time] = tale.tell(text)
        statements += 2
        known = [
            (person, earlier, later)
            for person, times in told.items()
            for earlier, later in pairwise(sorted(times))
            # before the last visit to a place, so far as told
            if places[person][later] not in {places[person][t] for t in times if t > later} | {places[person][earlier]}
        ]
        if statements >= first and known:
            person, earlier, later = random.choice(known)
            question = f"Where was {person} before the {places[person][later]}?"
            tale.ask(question, places[person][earlier], told[person][later], told[person][earlier])
    return tale.lines


def _deduction(random: Random) -> list[str]:
    """Who is afraid of whom, by their kinds? (task 15)"""
    tale, kinds = Tale(), tuple(PLURALS)
    fears = {kind: _other(random, kinds, kind) for kind in kinds}
    kind_of = {person: random.choice(kinds) for person in ("Gertrude", "Winona", "Jessica", "Emily")}
    facts = [(kind, f"{PLURALS[kind].capitalize()} are afraid of {PLURALS[feared]}.") for kind, feared in fears.items()]
    facts += [(person, f"{person} is a {kind}.") for person, kind in kind_of.items()]
    random.shuffle(facts)
    line = {about: tale.tell(text) for about, text in facts}
    for _ in range(4):
        person, kind = random.choice(list(kind_of.items()))
        tale.ask(f"What is {person.lower()} afraid of?", fears[kind], line[person], line[kind])
    return tale.lines


def _induction(random: Random) -> list[str]:
    """What colour is somebody, if others of their kind are any guide? (task 16)"""
    tale = Tale()
    persons = random.sample(("Lily", "Bernhard", "Greg", "Julius", "Brian"), 5)
    asked, alike, *others = persons
    kinds = {person: random.choice(("swan", "lion", "frog", "rhino")) for person in others}
    kinds[asked] = kinds[alike] = random.choice(("swan", "lion", "frog", "rhino"))
    colours = ("gray", "white", "yellow", "green")
    of_kind = {kind: random.choice(colours) for kind in sorted(set(kinds.values()))}
    of_person = {person: of_kind[kind] for person, kind in kinds.items() if person != asked}
    if random.random() < 1 / 3:
        of_person[random.choice(list(of_person))] = random.choice(colours)
    facts = [(person, f"{person} is a {kind}.") for person, kind in kinds.items()]
    facts += [(person, f"{person} is {colour}.") for person, colour in of_person.items()]
    random.shuffle(facts)
    lines = {(person, text.endswith(f"a {kinds[person]}.")): tale.tell(text) for person, text in facts}
    # of those of the same kind, the one whose kind was told last
    like = max((p for p in of_person if kinds[p] == kinds[asked]), key=lambda person: lines[person, True])
    supports = lines[asked, True], lines[like, True], lines[like, False]
    tale.ask(f"What color is {asked}?", of_person[like], *supports)
    return tale.lines


def _position(random: Random) -> list[str]:
    """Three shapes on a grid, two of their relations, eight questions (task 17)."""
    tale = Tale()
    coloured = random.random() < 0.8
    shapes = random.sample(("square", "rectangle", "triangle", "sphere"), 3)
    if coloured:
        colours = random.sample(("red", "blue", "pink", "yellow"), 3)
        shapes = [f"{colour} {shape}" for colour, shape in zip(colours, shapes, strict=True)]
    position = {shapes[1]: (0, 0)}
    for a, b in ((shapes[0], shapes[1]), (shapes[2], shapes[1])):
        relation, (dx, dy) = random.choice(list(RELATIONS.items()))
        if random.random() < 0.5:
            tale.tell(f"The {a} is {relation} the {b}.")
        else:
            tale.tell(f"The {b} is {next(r for r, d in RELATIONS.items() if d == (-dx, -dy))} the {a}.")
        position[a] = (dx, dy)
    pairs = [(a, b) for a in shapes for b in shapes if a != b and position[a] != position[b]]
    for _ in range(8):
        by_answer: dict[str, list[str]] = {"yes": [], "no": []}
        for a, b in pairs:
            for relation, (dx, dy) in RELATIONS.items():
                along = (position[a][0] - position[b][0]) * dx + (position[a][1] - position[b][1]) * dy
                by_answer["yes" if along > 0 else "no"].append(f"Is the {a} {relation} the {b}?")
        answer = random.choice(("yes", "no"))
        tale.ask(random.choice(by_answer[answer]), answer, 1, 2)
    return tale.lines


def _size(random: Random) -> list[str]:
    """Which fits into which? Answers take two facts (task 18)."""
    while True:
        tale = Tale()
        containers = ["box", "suitcase", "container", "chest"]
        random.shuffle(containers)
        order = ["chocolate", "box of chocolates", *containers]  # from small to large
        pairs = [(a, b) for i, a in enumerate(order) for b in order[i + 1 :]]
        facts = random.sample(pairs, 5)
        chains = [
            (a, c, i + 1, j + 1)
            for i, (a, b) in enumerate(facts)
            for j, (b_again, c) in enumerate(facts)
            if b == b_again and (a, c) not in facts
        ]
        if chains:
            break
    for a, b in facts:
        tale.tell(f"The {b} is bigger than the {a}." if random.random() < 0.5 else f"The {a} fits inside the {b}.")
    for _ in range(5):
        a, c, *supports = random.choice(chains)
        yes, bigger = random.random() < 0.5, random.random() < 0.5
        if bigger:
            question = f"Is the {c} bigger than the {a}?" if yes else f"Is the {a} bigger than the {c}?"
        else:
            question = f"Does the {a} fit in the {c}?" if yes else f"Does the {c} fit in the {a}?"
        tale.ask(question, "yes" if yes else "no", *supports)
    return tale.lines


def _path(random: Random) -> list[str]:
    """Six places on a grid, joined as a tree: two steps from one to another (task 19)."""
    tale = Tale()
    places = random.sample(PLACES, len(PLACES))
    position = {places[0]: (0, 0)}
    facts = []
    for place in places[1:]:
        free = [
            (other, direction, (x + dx, y + dy))
            for other, (x, y) in position.items()
            for direction, (dx, dy) in DIRECTIONS.items()
            if (x + dx, y + dy) not in position.values()
        ]
        other, direction, position[place] = random.choice(free)
        facts.append((place, direction, other))
    random.shuffle(facts)
    steps: dict[str, list[tuple[str, str, int]]] = {place: [] for place in places}  # to, letter, line
    inverse = {"north": "south", "south": "north", "east": "west", "west": "east"}
    for a, direction, b in facts:  # a is in the direction, seen from b
        if random.random() < 0.5:
            line = tale.tell(f"The {a} is {direction} of the {b}.")
        else:
            line = tale.tell(f"The {b} is {inverse[direction]} of the {a}.")
        steps[b].append((a, direction[0], line))
        steps[a].append((b, inverse[direction][0], line))
    ways = [
        (start, end, f"{first},{second}", line, next_line)
        for start in places
        for middle, first, line in steps[start]
        for end, second, next_line in steps[middle]
        if end != start
    ]
    start, end, way, *supports = random.choice(ways)
    tale.ask(f"How do you go from the {start} to the {end}?", way, *supports)
    return tale.lines


def _motivation(random: Random) -> list[str]:
    """Persons in a mood go somewhere and get something: where will they, why did they? (task 20)"""
    tale = Tale()
    moods = {person: random.choice(list(MOTIVES)) for person in ("Jason", "Antoine", "Sumit", "Yann")}
    stages = dict.fromkeys(moods, 0)
    mood_lines: dict[str, int] = {}
    for _ in range(random.randint(10, 12)):
        person = random.choice([person for person, stage in stages.items() if stage < 3])
        mood, name = moods[person], person.lower()
        place, thing = MOTIVES[mood]
        if stages[person] == 0:
            mood_lines[person] = tale.tell(f"{person} is {mood}.")
            tale.ask(f"Where will {name} go?", place, mood_lines[person])
        elif stages[person] == 1:
            tale.tell(f"{person} {random.choice(MOVED)} the {place}.")
            tale.ask(f"Why did {name} go to the {place}?", mood, mood_lines[person])
        else:
            tale.tell(f"{person} {random.choice(babi_world.TOOK)} the {thing} there.")
            tale.ask(f"Why did {name} get the {thing}?", mood, mood_lines[person])
        stages[person] += 1
    return tale.lines


STORIES: dict[int, Callable[[Random], list[str]]] = babi_world.STORIES | {
    4: _two_arguments,
    9: _is_in(PLACES, {"is": 25, "no longer": 13, "not": 13, "moved": 49}, 0.5, 0.0),
    10: _is_in(TOWN_PLACES, {"is": 25, "either": 25, "moved": 50}, 0.51, 0.6),
    11: _coreference(pairs=False, pronouns=True),
    12: _coreference(pairs=True, pronouns=False),
    13: _coreference(pairs=True, pronouns=True),
    14: _time,
    15: _deduction,
    16: _induction,
    17: _position,
    18: _size,
    19: _path,
    20: _motivation,
}
"""task -> a story with random choices"""
