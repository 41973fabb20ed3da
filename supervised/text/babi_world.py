"""Persons who move about and take, drop and give things, and what can be asked of it: bAbI tasks 1, 2, 3 and 5 to 8."""

from collections.abc import Callable
from random import Random
from typing import NamedTuple

PERSONS = "Mary", "John", "Sandra", "Daniel"
PLACES = "bedroom", "kitchen", "garden", "hallway", "bathroom", "office"
THINGS = "apple", "football", "milk"
NUMBERS = "none", "one", "two", "three"
MOVED = "moved to", "went to", "journeyed to", "travelled to", "went back to"
TOOK = "picked up", "got", "took", "grabbed"
DROPPED = "dropped", "left", "put down", "discarded"
GAVE = "gave", "handed", "passed"


class Tale:
    """The lines of one story."""

    def __init__(self):
        self.lines: list[str] = []
        self.questions = 0

    def tell(self, text: str) -> int:
        """A statement; returns its number."""
        self.lines.append(f"{len(self.lines) + 1} {text}")
        return len(self.lines)

    def ask(self, question: str, answer: str, *supports: int) -> None:
        """A question, and the numbers of the lines that answer it."""
        self.lines.append(f"{len(self.lines) + 1} {question}\t{answer}\t{' '.join(map(str, supports))}")
        self.questions += 1


class Event(NamedTuple):
    """A statement that was told."""

    kind: str
    line: int
    person: str
    thing: str = ""
    receiver: str = ""
    place: str = ""
    """to which the person moved"""


class World:
    """Nobody is told where persons and things are at first: a person's place is known after their first move.

    Args: shares: of moves, takes, drops and gives among the statements.
          there: share of takes, and of drops, that end with "there".
    """

    def __init__(
        self,
        random: Random,
        persons: tuple[str, ...],
        shares: dict[str, float],
        there: tuple[float, float] = (1.0, 0.2),
    ):
        self.random, self.persons, self.shares, self.there = random, persons, shares, there
        self.tale = Tale()
        self.events: list[Event] = []
        self.place = {person: random.choice(PLACES) for person in persons}
        self.lying = {thing: random.choice(PLACES) for thing in THINGS}
        self.held: dict[str, list[str]] = {person: [] for person in persons}

    def happen(self) -> None:
        """Tell the next statement."""
        choices = {
            "move": [(person, "", "") for person in self.persons],
            "take": [(p, t, "") for p in self.persons for t, place in self.lying.items() if place == self.place[p]],
            "drop": [(p, t, "") for p in self.persons for t in self.held[p]],
            "give": [
                (p, t, q)
                for p in self.persons
                for t in self.held[p]
                for q in self.persons
                if p != q and self.place[p] == self.place[q]
            ],
        }
        kinds = [kind for kind in self.shares if choices[kind]] if self.events else ["move"]
        (kind,) = self.random.choices(kinds, [self.shares[kind] for kind in kinds])
        getattr(self, f"_{kind}")(*self.random.choice(choices[kind]))

    def _move(self, person: str, *_: str) -> None:
        place = self.random.choice([place for place in PLACES if place != self.place[person]])
        self.place[person] = place
        line = self.tale.tell(f"{person} {self.random.choice(MOVED)} the {place}.")
        self.events.append(Event("move", line, person, place=place))

    def _take(self, person: str, thing: str, *_: str) -> None:
        del self.lying[thing]
        self.held[person].append(thing)
        line = self.tale.tell(f"{person} {self.random.choice(TOOK)} the {thing}{self._there(0)}.")
        self.events.append(Event("take", line, person, thing))

    def _drop(self, person: str, thing: str, *_: str) -> None:
        self.held[person].remove(thing)
        self.lying[thing] = self.place[person]
        line = self.tale.tell(f"{person} {self.random.choice(DROPPED)} the {thing}{self._there(1)}.")
        self.events.append(Event("drop", line, person, thing))

    def _give(self, person: str, thing: str, receiver: str) -> None:
        self.held[person].remove(thing)
        self.held[receiver].append(thing)
        line = self.tale.tell(f"{person} {self.random.choice(GAVE)} the {thing} to {receiver}.")
        self.events.append(Event("give", line, person, thing, receiver))

    def _there(self, which: int) -> str:
        return " there" if self.random.random() < self.there[which] else ""

    def last_moves(self, until: int | None = None) -> dict[str, Event]:
        """The last move of each person who has moved, before the line `until`."""
        return {e.person: e for e in self.events if e.kind == "move" and (until is None or e.line < until)}

    def handlings(self, person: str) -> list[Event]:
        """What a person took, dropped, gave or received."""
        return [e for e in self.events if e.kind != "move" and person in (e.person, e.receiver)]


def tell(world: World, ask: Callable[[World], None], chance: float = 1.0) -> list[str]:
    """A story of five questions: after every second statement one, where `ask` finds something to ask, by `chance`."""
    while world.tale.questions < 5:
        world.happen()
        world.happen()
        if world.random.random() < chance:
            ask(world)
    return world.tale.lines


def where_is_person(world: World) -> None:
    """Task 1."""
    move = world.random.choice(list(world.last_moves().values()))
    world.tale.ask(f"Where is {move.person}?", move.place, move.line)


def where_is_thing(world: World) -> None:
    """Task 2: with its holder, or where it was dropped."""
    known = []
    for event in {e.thing: e for e in world.events if e.kind != "move"}.values():
        moves = world.last_moves(event.line if event.kind == "drop" else None)
        if event.person in moves:
            known.append((event, moves[event.person]))
    if not known:
        return
    # most questions of the files are on things that lie somewhere
    dropped = [pair for pair in known if pair[0].kind == "drop"]
    held = [pair for pair in known if pair[0].kind == "take"]
    event, move = world.random.choice(dropped if dropped and (not held or world.random.random() < 0.6) else held)
    world.tale.ask(f"Where is the {event.thing}?", move.place, event.line, move.line)


class WhereWasThing:
    """Task 3: where a thing was carried from, on the last way that it was carried."""

    def __init__(self):
        self.left: dict[int, int] = {}  # questions that an episode may yet have, by the line of its taking

    def __call__(self, world: World) -> None:
        for thing in world.random.sample(THINGS, len(THINGS)):
            handled = [e for e in world.events if e.thing == thing]
            if not handled:
                continue
            end = handled[-1]
            start = end if end.kind == "take" else handled[-2]
            episode = world.events[world.events.index(start) : None if end is start else world.events.index(end)]
            moves = [e for e in episode if e.kind == "move" and e.person == start.person]
            if len(moves) < 2:
                continue
            if end is start:
                if len(moves) != 2 or world.random.random() > 0.17:
                    continue
            else:
                left = self.left.setdefault(start.line, world.random.choice((2, 3)))
                if not left:
                    continue
                self.left[start.line] = left - 1
            before, last = moves[-2:]
            question = f"Where was the {thing} before the {last.place}?"
            world.tale.ask(question, before.place, end.line, last.line, before.line)
            return


def who_gave_what(world: World) -> None:
    """Task 5, on the latest gift."""
    gift = next((e for e in reversed(world.events) if e.kind == "give"), None)
    if gift is None:
        return
    giver, thing, receiver = gift.person, gift.thing, gift.receiver
    questions = {
        f"What did {giver} give to {receiver}?": (thing, 2),
        f"Who gave the {thing} to {receiver}?": (giver, 1),
        f"Who gave the {thing}?": (giver, 1),
        f"Who received the {thing}?": (receiver, 1),
        f"Who did {giver} give the {thing} to?": (receiver, 1),
    }
    (question,) = world.random.choices(list(questions), [weight for _, weight in questions.values()])
    world.tale.ask(question, questions[question][0], gift.line)


def is_person_there(world: World) -> None:
    """Task 6."""
    move = world.random.choice(list(world.last_moves().values()))
    is_there = world.random.random() < 0.5
    place = move.place if is_there else world.random.choice([place for place in PLACES if place != move.place])
    world.tale.ask(f"Is {move.person} in the {place}?", "yes" if is_there else "no", move.line)


def how_many(world: World) -> None:
    """Task 7."""
    handlings = {person: lines for person in world.persons if (lines := world.handlings(person))}
    if not handlings:
        return
    person = world.random.choice(list(handlings))
    supports = [e.line for e in handlings[person]]
    world.tale.ask(f"How many objects is {person} carrying?", NUMBERS[len(world.held[person])], *supports)


def which_things(world: World) -> None:
    """Task 8: in the order in which they were first taken in the story."""
    handlings = {person: lines for person in world.persons if (lines := world.handlings(person))}
    if not handlings:
        return
    person = world.random.choice(list(handlings))
    order = list(dict.fromkeys(e.thing for e in world.events if e.kind == "take"))
    things = ",".join(thing for thing in order if thing in world.held[person])
    supports = [e.line for e in handlings[person]]
    world.tale.ask(f"What is {person} carrying?", things or "nothing", *supports)


def _shares(move: float, take: float = 0, drop: float = 0, give: float = 0) -> dict[str, float]:
    return {"move": move, "take": take, "drop": drop, "give": give}


# of the files of version 1.2: shares of statements, and of the times at which there is a question
STORIES: dict[int, Callable[[Random], list[str]]] = {
    1: lambda random: tell(World(random, PERSONS, {"move": 1.0}), where_is_person),
    2: lambda random: tell(World(random, PERSONS, _shares(65, 20, 15)), where_is_thing, 0.72),
    3: lambda random: tell(World(random, PERSONS, _shares(63, 19, 18), (0.2, 0.2)), WhereWasThing()),
    5: lambda random: tell(
        World(random, ("Bill", "Fred", "Jeff", "Mary"), _shares(56, 20, 8, 50)), who_gave_what, 0.87
    ),
    6: lambda random: tell(World(random, PERSONS, _shares(68, 21, 11)), is_person_there),
    7: lambda random: tell(World(random, PERSONS, _shares(50, 32, 32, 25)), how_many),
    8: lambda random: tell(World(random, PERSONS, _shares(66, 21, 13)), which_things),
}
"""task -> a story with random choices"""
