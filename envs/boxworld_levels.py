"""BoxWorld levels: a loose key, boxes that lead from it to the gem, and boxes that lead nowhere (distractors).

A level is a grid of cells, int8 [room + 2, room + 2] with a wall around it. For C colours a cell is `FLOOR`, `WALL`,
`AGENT`, `GEM`, a key (`KEY` + colour), the lock of a box on the path (`KEY` + C + colour) or of a distractor (`KEY` +
2C + colour). A box is two cells, its content and to the right of it its lock.

Exactly one sequence of boxes leads to the gem. All keys of a level differ in colour, and a lock uses its key up. The
keys on a distractor's branch open boxes of that branch only, and its first box takes a key of the path, of which there
is no other: whoever opens it leaves the rest of the path locked for good. Objects keep a free cell from each other and
from the walls, so that the floor stays connected and everything can be walked to.
"""

from typing import NamedTuple

import numpy as np

from engram.envs.levels import SPLITS, level_seed, split_of
from engram.envs.streams import below, mix
from engram.kernels import njit

FLOOR, WALL, AGENT, GEM, KEY = range(5)
MAX_COLOURS = 26
"""Colours are letters in text."""

_GAME = 4  # keeps the level streams of different games apart
_MAX_DRAWS = 100_000  # layouts of one level, most of which are thrown away only if the room is crowded


class LevelOptions(NamedTuple):
    """What levels are made of; the options of the same names are described at `BoxWorldVector`."""

    room: int
    solution_length: np.ndarray
    num_distractors: np.ndarray
    distractor_length: int
    num_colours: int


@njit(cache=True)
def _draw_layout(stream, cells, length, distractors, options):
    """Fill `cells` with the next layout of the stream; its hash, 0 if not everything found a place.

    Box b holds key b + 1, or the gem at the end of the path, and takes key b; the first box of a distractor's branch
    takes a key of the path instead. The hash does not depend on the colours or on the order of the branches: it is a
    sum over boxes of where they are and what has to be opened before them.
    """
    side, num_colours, branch = cells.shape[0], options.num_colours, options.distractor_length
    num_boxes = length + distractors * branch
    colours = np.arange(num_colours)
    for key in range(num_boxes + 1):
        other = key + below(stream, num_colours - key)
        colours[key], colours[other] = colours[other], colours[key]
    cells[:] = WALL
    cells[1:-1, 1:-1] = FLOOR
    rows, columns = np.empty(side * side, np.int64), np.empty(side * side, np.int64)  # where a box still fits
    num_places = 0
    for row in range(2, side - 2):
        for column in range(2, side - 4):
            rows[num_places], columns[num_places] = row, column
            num_places += 1

    ways = np.zeros(num_boxes + 1, np.uint64)  # how each key is come by
    layout_hash = np.uint64(0)
    for key in range(num_boxes + 1):
        if num_places == 0:
            return np.uint64(0)
        choice = below(stream, num_places)
        row, column = rows[choice], columns[choice]
        way = np.uint64(row * side + column)
        cells[row, column] = KEY + colours[key]
        if key > 0:
            box = key - 1
            on_path = box < length
            takes = below(stream, length) if not on_path and (box - length) % branch == 0 else box
            cells[row, column + 1] = KEY + colours[takes] + (num_colours if on_path else 2 * num_colours)
            way ^= ways[takes]
        ways[key] = mix(way)
        layout_hash += ways[key]
        if key == length:
            cells[row, column] = GEM
            layout_hash += mix(ways[key])
        width = 1 if key == 0 else 2
        num_left = 0
        for place in range(num_places):
            right = columns[place] - column
            if abs(rows[place] - row) > 1 or right < -2 or right > width:
                rows[num_left], columns[num_left] = rows[place], columns[place]
                num_left += 1
        num_places = num_left
    return layout_hash


@njit(cache=True)
def _find_layout(stream, cells, length, distractors, options, split, max_draws):
    """Fill `cells` with the stream's next layout that belongs to the split; whether there was one."""
    for _ in range(max_draws):
        layout_hash = _draw_layout(stream, cells, length, distractors, options)
        if layout_hash != 0 and split_of(layout_hash) == split:
            return True
    return False


@njit(cache=True)
def make_level(member, cells, split, base_seed, options):
    """Fill `cells` with the level `member.level_id`.

    Returns:
        boxes on the path (0 if no level was found), number of distractors, row and column of the agent.
    """
    episode_rng = member.rng
    member.rng = level_seed(_GAME, split, member.level_id, base_seed)
    length = options.solution_length[member.level_id % len(options.solution_length)]
    distractors = options.num_distractors[below(member, len(options.num_distractors))]
    found = _find_layout(member, cells, length, distractors, options, split, _MAX_DRAWS)
    row, column, side = 0, 0, cells.shape[0]
    while found and cells[row, column] != FLOOR:
        row, column = 2 + below(member, side - 4), 1 + below(member, side - 3)
    cells[row, column] = AGENT
    member.rng = episode_rng
    return length if found else 0, distractors, row, column


def fits(member: np.void, options: LevelOptions) -> bool:
    """Whether the largest number of boxes finds places in the room reasonably often; tried with a member's stream."""
    cells = np.empty((options.room + 2, options.room + 2), np.int8)
    most = options.solution_length.max(), options.num_distractors.max()
    return _find_layout(member, cells, *most, options, SPLITS["train"], _MAX_DRAWS // 100)
