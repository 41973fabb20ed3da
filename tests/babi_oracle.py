"""Answers bAbI questions from what is said alone: an independent statement of what the 20 tasks mean."""

import re
from collections import defaultdict

MOVE = re.compile(r"(.+?) (?:moved|went|journeyed|travelled)(?: back)? to the (\w+)")
TAKE = re.compile(r"(\w+) (?:picked up|got|took|grabbed) the (\w+)")
DROP = re.compile(r"(\w+) (?:dropped|left|put down|discarded) the (\w+)")
GIVE = re.compile(r"(\w+) (?:gave|handed|passed) the (\w+) to (\w+)")
IS_IN = re.compile(r"(\w+) is (in|not in|no longer in|either in) the (\w+)(?: or the (\w+))?")
OF = re.compile(r"the (\w+) is (\w+) of the (\w+)")
RELATIONS = {"above": (0, 1), "below": (0, -1), "to the left of": (-1, 0), "to the right of": (1, 0)}
BESIDE = re.compile(rf"the (.+) is ({'|'.join(RELATIONS)}) the (.+)")
TIMES = ["yesterday", "this morning", "this afternoon", "this evening"]
SHIFT = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)} | RELATIONS
MOODS = {"hungry": ("kitchen", "apple"), "thirsty": ("kitchen", "milk")}
MOODS |= {"bored": ("garden", "football"), "tired": ("bedroom", "pajamas")}


def answer(task, statements, question):
    """The answer to a question, both in lower case without their last mark, after the statements before it."""
    words = question.split()
    if task in (4, 17, 19):
        return _on_a_grid(task, statements, question)
    if task == 14:
        return _in_time(statements, words[2], words[-1])
    if task == 15:
        kind = {m[1]: m[2] for s in statements if (m := re.match(r"(\w+) is a (\w+)", s))}
        singular = {"mice": "mouse", "wolves": "wolf", "cats": "cat", "sheep": "sheep"}
        fears = {singular[m[1]]: singular[m[2]] for s in statements if (m := re.match(r"(\w+) are afraid of (\w+)", s))}
        return fears[kind[words[2]]]
    if task == 16:
        kind = {m[1]: m[2] for s in statements if (m := re.match(r"(\w+) is a (\w+)", s))}
        colour = {m[1]: m[2] for s in statements if (m := re.match(r"(\w+) is (\w+)$", s))}
        return [colour[person] for person, k in kind.items() if k == kind[words[-1]] and person in colour][-1]
    if task == 18:
        return _by_size(statements, question)
    if task == 20:
        moods = {m[1]: m[2] for s in statements if (m := re.match(r"(\w+) is (\w+)$", s))}
        mood = moods[words[2]]
        return MOODS[mood][0] if words[0] == "where" else mood
    return _among_persons(task, statements, words)


def _among_persons(task, statements, words):
    place, holder, order, gifts, last = {}, {}, [], [], None
    said = {}  # person: last statement on their place
    journey = defaultdict(list)  # thing: places where it was known to be, while it was held
    for statement in statements:
        if m := MOVE.match(statement):
            subject, to = m.groups()
            subject = re.sub(r"^(after that|then|afterwards|following that) ", "", subject)
            last = last if subject in ("he", "she", "they") else subject.split(" and ")
            for person in last:
                place[person] = to
                said[person] = ("in", {to})
                for thing, who in holder.items():
                    if who == person:
                        journey[thing].append(to)
        elif m := TAKE.match(statement):
            person, thing = m.groups()
            holder[thing] = person
            journey[thing] = [place.get(person)]
            order += [thing] if thing not in order else []
        elif m := DROP.match(statement):
            holder[m[2]] = None
        elif m := GIVE.match(statement):
            gifts.append(m.groups())
            holder[m[2]] = m[3]
        elif m := IS_IN.match(statement):
            said[m[1]] = (m[2], {m[3], m[4]} - {None})
    if task in (1, 11, 12, 13):
        return place[words[2]]
    if task == 2:
        return journey[words[3]][-1]
    if task == 3:
        places = journey[words[3]]
        return places[len(places) - 2 - places[::-1].index(words[-1])]
    if task == 5:
        return _gift(words, gifts)
    if task in (6, 9, 10):
        how, where = said[words[1]]
        there = words[-1] in where
        return "no" if not there or how in ("not in", "no longer in") else "maybe" if how == "either in" else "yes"
    person = words[2] if task == 8 else words[4]
    held = [thing for thing in order if holder.get(thing) == person]
    return (",".join(held) or "nothing") if task == 8 else ["none", "one", "two", "three"][len(held)]


def _gift(words, gifts):
    """Task 5: what, who, to whom, of the last gift that fits."""
    for giver, thing, receiver in reversed(gifts):
        asked = {
            f"what did {giver} give to {receiver}": thing,
            f"who gave the {thing} to {receiver}": giver,
            f"who gave the {thing}": giver,
            f"who received the {thing}": receiver,
            f"who did {giver} give the {thing} to": receiver,
        }
        if " ".join(words) in asked:
            return asked[" ".join(words)]
    raise AssertionError(words)


def _on_a_grid(task, statements, question):
    """Tasks 4, 17 and 19: coordinates from relations."""
    facts = [(BESIDE if task == 17 else OF).match(s).groups() for s in statements]
    position = {facts[0][0]: (0, 0)}
    for _ in facts:
        for a, relation, b in facts:
            dx, dy = SHIFT[relation]
            if a in position:
                position.setdefault(b, (position[a][0] - dx, position[a][1] - dy))
            if b in position:
                position.setdefault(a, (position[b][0] + dx, position[b][1] + dy))
    at = {where: name for name, where in position.items()}
    if task == 17:
        a, relation, b = re.match(
            r"is the (.+) (above|below|to the left of|to the right of) the (.+)", question
        ).groups()
        (dx, dy), (ax, ay), (bx, by) = SHIFT[relation], position[a], position[b]
        return "yes" if (ax - bx) * dx + (ay - by) * dy > 0 else "no"
    if task == 19:
        start, end = re.match(r"how do you go from the (\w+) to the (\w+)", question).groups()
        near = [{a, b} for a, _, b in facts]
        (middle,) = {c for c in position if {start, c} in near and {c, end} in near}
        letter = {shift: name[0] for name, shift in SHIFT.items() if name in ("north", "south", "east", "west")}
        way = [
            letter[position[b][0] - position[a][0], position[b][1] - position[a][1]]
            for a, b in ((start, middle), (middle, end))
        ]
        return ",".join(way)
    if m := re.match(r"what is the (\w+) (\w+) of", question):
        (x, y), (dx, dy) = position[m[1]], SHIFT[m[2]]
        return at[x - dx, y - dy]
    m = re.match(r"what is (\w+) of the (\w+)", question)
    (x, y), (dx, dy) = position[m[2]], SHIFT[m[1]]
    return at[x + dx, y + dy]


def _in_time(statements, person, place):
    """Task 14: where a person was before a place."""
    visits = {}
    for statement in statements:
        time = next(t for t in TIMES if statement.startswith(t) or statement.endswith(t))
        who, where = MOVE.match(statement.replace(time, "").strip()).groups()
        if who == person:
            visits[TIMES.index(time)] = where
    places = [visits[time] for time in sorted(visits)]
    return places[len(places) - 2 - places[::-1].index(place)]


def _by_size(statements, question):
    """Task 18: whether one is bigger, by chains of facts."""
    bigger = set()
    for statement in statements:
        if m := re.match(r"the (.+) is bigger than the (.+)", statement):
            bigger.add(m.groups())
        else:
            a, b = re.match(r"the (.+) fits inside the (.+)", statement).groups()
            bigger.add((b, a))
    for _ in statements:
        bigger |= {(a, d) for a, b in bigger for c, d in bigger if b == c}
    if m := re.match(r"is the (.+) bigger than the (.+)", question):
        return "yes" if m.groups() in bigger else "no"
    a, b = re.match(r"does the (.+) fit in the (.+)", question).groups()
    return "yes" if (b, a) in bigger else "no"
