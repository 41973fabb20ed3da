"""The map of Mini-Pacman, and what may be on its cells.

A place is one integer, row * WIDTH + column. The border is wall, so every free place has four neighbours.
"""

import numpy as np

_QUADRANT = [
    "##########",
    "#...#.....",
    "#.#.#.####",
    "#.........",
    "#.#.#.####",
    "#.#.......",
    "#.####.###",
    "#......###",
]

_ROWS = [row + row[-2::-1] for row in _QUADRANT]
_MAP = _ROWS + _ROWS[-2::-1]
HEIGHT, WIDTH = len(_MAP), len(_MAP[0])
WALLS = np.array([cell == "#" for row in _MAP for cell in row])
"""bool [285]: the quadrant, mirrored about its last column and its last row"""

FREE = np.flatnonzero(~WALLS)
"""the free places, [138]"""

RIGHT, UP, LEFT, DOWN = range(4)
STEPS = np.array([1, -WIDTH, -1, WIDTH])
"""what a step in each direction adds to a place"""

WALL, FOOD, PACMAN, GHOST, PILL = 1, 2, 4, 8, 16
"""A cell is a sum of these, with one PILL for every power pill on it."""

NEW_GROUND = np.where(WALLS, WALL, FOOD).astype(np.uint8)
"""cells of the map at the start of a level, but for the pills; uint8 [285]"""


def _corridors() -> np.ndarray:
    ways = np.full((WALLS.size, 4), -1, np.int8)
    for place in FREE:
        free = [direction for direction in range(4) if not WALLS[place + STEPS[direction]]]
        if len(free) == 2:
            for heading in range(4):
                back = (heading + 2) % 4
                ways[place, heading] = heading if heading in free else free[1] if free[0] == back else free[0]
    return ways


CORRIDORS = _corridors()
"""int8 [285, 4]: the heading with which one who does not turn back leaves a place with two ways; -1 at other places"""


def _distances() -> np.ndarray:
    distances = np.full((WALLS.size, WALLS.size), -1, np.int8)
    for start in FREE:
        distances[start, start] = 0
        reached = [start]
        for place in reached:
            for neighbour in place + STEPS:
                if not WALLS[neighbour] and distances[start, neighbour] < 0:
                    distances[start, neighbour] = distances[start, place] + 1
                    reached.append(neighbour)
    return distances


DISTANCES = _distances()
"""int8 [285, 285]: steps from one free place to another, -1 for walls"""
