"""The rules of Mini-Pacman on the record of one member, and the loops over members, all compiled.

Weber et al. 2017, "Imagination-augmented agents for deep reinforcement learning", as their own program plays the game.
"""

from typing import NamedTuple

import numpy as np

from engram.envs.batched import MEMBER_FIELDS
from engram.envs.mini_pacman_map import (
    CORRIDORS,
    FOOD,
    FREE,
    GHOST,
    HEIGHT,
    NEW_GROUND,
    PACMAN,
    PILL,
    STEPS,
    WALL,
    WALLS,
    WIDTH,
)
from engram.envs.streams import below, chance
from engram.envs.viewport import crop, paint
from engram.kernels import njit

MAX_GHOSTS = 16
MEMBER = np.dtype(
    [
        *MEMBER_FIELDS,
        ("ground", "u1", WALLS.size),  # cells without Pacman and ghosts
        ("pacman", "i4"),
        ("ghosts", "i4", MAX_GHOSTS),  # places of the living ghosts
        ("headings", "i4", MAX_GHOSTS),
        ("level", "i4"),  # from 1
        ("food_left", "i4"),
        ("pills_left", "i4"),
        ("ghosts_left", "i4"),
        ("power", "i4"),  # steps for which ghosts can still be eaten
        ("timer", "i4"),  # steps played in this level
        ("frame", "i4"),  # steps played in this episode
        ("dead", "?"),
    ],
    align=True,
)


class Mode(NamedTuple):
    """What a mode pays, and when a level is cleared."""

    step: float
    food: float
    pill: float
    ghost: float
    death: float
    cleared_by: int
    """what must be gone: FOOD, PILL or GHOST"""
    level_time: int
    """steps after which the level is cleared anyway, -1: never"""


MODES = {
    "regular": Mode(step=0.0, food=1.0, pill=2.0, ghost=5.0, death=0.0, cleared_by=FOOD, level_time=-1),
    "avoid": Mode(step=0.1, food=-0.1, pill=-5.0, ghost=-10.0, death=-20.0, cleared_by=FOOD, level_time=128),
    "hunt": Mode(step=0.0, food=0.0, pill=1.0, ghost=10.0, death=-20.0, cleared_by=GHOST, level_time=-1),
    "ambush": Mode(step=0.0, food=-0.1, pill=0.0, ghost=10.0, death=-20.0, cleared_by=GHOST, level_time=-1),
    "rush": Mode(step=0.0, food=-0.1, pill=10.0, ghost=0.0, death=0.0, cleared_by=PILL, level_time=-1),
}


class Rules(NamedTuple):
    """The options that the kernels need."""

    mode: Mode
    frame_cap: int
    num_pills: int
    pill_duration: int
    ghost_randomness: float
    safe_distance: int
    ghost_speed: float
    ghost_speed_increment: float


@njit(cache=True)
def begin_level(member, level, rules):
    """Lay out a level."""
    member.level = level
    member.power = member.timer = 0
    member.ground[:] = NEW_GROUND
    member.food_left = FREE.size
    member.pills_left = rules.num_pills
    for _ in range(rules.num_pills):
        member.ground[FREE[below(member, FREE.size)]] += PILL
    member.pacman = FREE[below(member, FREE.size)]
    member.ghosts_left = min(1 + (level - 1) // 2, MAX_GHOSTS)
    for ghost in range(member.ghosts_left):
        place = FREE[below(member, FREE.size)]
        while is_near(place, member.pacman, rules.safe_distance):
            place = FREE[below(member, FREE.size)]
        member.ghosts[ghost] = place
        member.headings[ghost] = below(member, 4)


@njit(cache=True)
def is_near(place, pacman, distance):
    """Whether a place is too close to Pacman for a ghost to start there; the rectangle is half-open."""
    down, right = place // WIDTH - pacman // WIDTH, place % WIDTH - pacman % WIDTH
    return -distance <= down < distance and -distance <= right < distance


@njit(cache=True)
def begin(member, rules):
    """Start an episode."""
    member.frame = 0
    member.dead = member.done = False
    begin_level(member, 1, rules)


@njit(cache=True)
def play(member, action, rules):
    """One step of the game; returns the reward."""
    mode = rules.mode
    member.frame += 1
    member.timer += 1
    member.power = max(member.power - 1, 0)
    reward = mode.step
    if action > 0 and not WALLS[member.pacman + STEPS[action - 1]]:
        member.pacman += STEPS[action - 1]
    if member.ground[member.pacman] & FOOD:
        member.ground[member.pacman] -= FOOD
        member.food_left -= 1
        reward += mode.food
        if member.food_left == 0 and mode.cleared_by == FOOD:
            begin_level(member, member.level + 1, rules)
    if member.ground[member.pacman] >= PILL:
        member.ground[member.pacman] -= PILL
        member.pills_left -= 1
        member.power = rules.pill_duration
        reward += mode.pill
        if member.pills_left == 0 and mode.cleared_by == PILL:
            begin_level(member, member.level + 1, rules)
    reward += move_ghosts(member, rules)
    no_ghost = member.ghosts_left == 0 and mode.cleared_by == GHOST
    if not member.dead and (no_ghost or member.timer == mode.level_time):
        begin_level(member, member.level + 1, rules)
    member.done = member.dead or member.frame >= rules.frame_cap
    return reward


@njit(cache=True)
def move_ghosts(member, rules):
    """Let the ghosts move in turn until one meets Pacman; returns the reward for that."""
    speed = rules.ghost_speed + rules.ghost_speed_increment * (member.level - 1)
    if member.power > 0:
        speed /= 2
    for ghost in range(member.ghosts_left):
        place = member.ghosts[ghost]
        if place != member.pacman and chance(member, speed):
            heading = member.headings[ghost]
            heading = next_heading(member, place, heading, member.pacman, member.power > 0, rules.ghost_randomness)
            place += STEPS[heading]
            member.ghosts[ghost], member.headings[ghost] = place, heading
        if place == member.pacman:
            if member.power == 0:
                member.dead = True
                return rules.mode.death
            member.ghosts_left -= 1
            for later in range(ghost, member.ghosts_left):
                member.ghosts[later], member.headings[later] = member.ghosts[later + 1], member.headings[later + 1]
            return rules.mode.ghost
    return 0.0


@njit(cache=True)
def next_heading(stream, place, heading, pacman, flees, randomness):
    """Direction in which a ghost leaves `place`, at a distance from Pacman.

    At a crossing it does not turn back. Fleeing, it takes the way that points most away from Pacman; hunting, the one
    that points most towards him, or with probability `randomness` any. Of equally good ways it takes the first in the
    order right, up, left, down.
    """
    if CORRIDORS[place, heading] >= 0:
        return CORRIDORS[place, heading]
    aimless = not flees and chance(stream, randomness)
    sign = -1 if flees else 1
    right = sign * (pacman % WIDTH - place % WIDTH)
    down = sign * (pacman // WIDTH - place // WIDTH)
    best, best_score = -1, -WIDTH  # below any score
    for direction, score in enumerate((right, -down, -right, down)):
        if direction != (heading + 2) % 4 and not WALLS[place + STEPS[direction]]:
            if aimless:
                score = below(stream, 2**31)
            if score > best_score:
                best, best_score = direction, score
    return best


@njit(cache=True)
def look(member, row, column, cells):
    """Fill `cells` [V, U] with what is on the map around (row, column)."""
    crop(member.ground.reshape(HEIGHT, WIDTH), row, column, WALL, cells)
    top, left = row - cells.shape[0] // 2, column - cells.shape[1] // 2
    for ghost in range(member.ghosts_left):
        i, j = member.ghosts[ghost] // WIDTH - top, member.ghosts[ghost] % WIDTH - left
        if 0 <= i < cells.shape[0] and 0 <= j < cells.shape[1]:
            cells[i, j] |= GHOST
    cells[member.pacman // WIDTH - top, member.pacman % WIDTH - left] |= PACMAN


@njit(cache=True)
def observe(member, palettes, follow, cells, planes):
    """Write the observation, by way of `cells`: around Pacman if `follow`, else around the centre of the map."""
    if follow:
        look(member, member.pacman // WIDTH, member.pacman % WIDTH, cells)
    else:
        look(member, HEIGHT // 2, WIDTH // 2, cells)
    paint(cells, palettes[member.power], planes)


@njit(cache=True)
def begin_members(members, rules, palettes, follow, mask, observations):
    cells = np.empty(observations.shape[2:], np.uint8)
    for slot in range(members.shape[0]):
        if mask[slot]:
            begin(members[slot], rules)
            observe(members[slot], palettes, follow, cells, observations[slot])


@njit(cache=True)
def play_members(members, rules, palettes, follow, mask, actions, observations, rewards, terminated, truncated):
    cells = np.empty(observations.shape[2:], np.uint8)
    for slot in range(members.shape[0]):
        if mask[slot]:
            member = members[slot]
            rewards[slot] = play(member, actions[slot], rules)
            observe(member, palettes, follow, cells, observations[slot])
            terminated[slot] = member.dead
            truncated[slot] = member.done and not member.dead
