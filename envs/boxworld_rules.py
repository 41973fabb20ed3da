"""The rules of BoxWorld on the record of one member, and the loops over members, all compiled.

Zambaldi et al. 2019, "Deep reinforcement learning with relational inductive biases".
"""

from typing import NamedTuple

import numpy as np

from engram.envs.batched import MEMBER_FIELDS
from engram.envs.boxworld_levels import AGENT, FLOOR, GEM, KEY, WALL, make_level
from engram.envs.viewport import MOVES, crop, paint
from engram.kernels import njit

MEMBER = np.dtype(
    [
        *MEMBER_FIELDS,
        ("row", "i4"),
        ("column", "i4"),
        ("held", "i4"),  # colour of the key in hand, -1: none
        ("time", "i4"),  # steps played in this episode
        ("solution_length", "i8"),
        ("num_distractors", "i8"),
        ("num_opened", "i8"),
        ("is_success", "?"),
        ("opened_wrong", "?"),
    ],
    align=True,
)


class Rules(NamedTuple):
    """The options that the kernels need besides `LevelOptions`."""

    num_colours: int
    view_size: int
    """side of the view, 0 for the whole room"""
    max_steps: int
    reward_gem: float
    reward_open: float
    reward_wrong: float


@njit(cache=True)
def begin(member, cells, split, base_seed, options):
    """Start an episode; whether its level was found."""
    length, distractors, row, column = make_level(member, cells, split, base_seed, options)
    member.row, member.column = row, column
    member.held = -1
    member.time = member.num_opened = 0
    member.solution_length, member.num_distractors = length, distractors
    member.done = member.is_success = member.opened_wrong = False
    return length > 0


@njit(cache=True)
def play(member, cells, action, rules):
    """One step of the game; its reward."""
    member.time += 1
    member.done = member.time >= rules.max_steps
    row, column = member.row + MOVES[action, 0], member.column + MOVES[action, 1]
    cell = cells[row, column]
    if cell == WALL:
        return 0.0
    first_lock = KEY + rules.num_colours
    first_wrong_lock = first_lock + rules.num_colours
    reward = 0.0
    if cell >= first_lock:
        if (cell - KEY) % rules.num_colours != member.held:
            return 0.0
        member.held = -1
        if cell >= first_wrong_lock:
            reward = rules.reward_wrong
            member.opened_wrong = member.done = True
        else:
            reward = rules.reward_open
            member.num_opened += 1
    elif cell != FLOOR:
        if cells[row, column + 1] >= first_lock:
            return 0.0
        if cell == GEM:
            reward = rules.reward_gem
            member.is_success = member.done = True
        else:
            member.held = cell - KEY
    cells[member.row, member.column] = FLOOR
    cells[row, column] = AGENT
    member.row, member.column = row, column
    return reward


@njit(cache=True)
def observe(member, cells, palette, window, picture):
    """Write the observation; its layout is described at `BoxWorldVector`. `window` [view, view] is overwritten."""
    held = palette[KEY + member.held if member.held >= 0 else WALL]
    if window.size:
        crop(cells, member.row, member.column, WALL, window)
        paint(window, palette, picture[:3])
    else:
        paint(cells, palette, picture)
    for channel in range(3):
        if window.size:
            picture[3 + channel] = held[channel]
        else:
            picture[channel, 0, 0] = held[channel]


@njit(cache=True)
def begin_members(members, cells, split, base_seed, options, rules, palette, slots, observations):
    window = np.empty((rules.view_size, rules.view_size), cells.dtype)
    for slot in slots:
        if not begin(members[slot], cells[slot], split, base_seed, options):
            return False
        observe(members[slot], cells[slot], palette, window, observations[slot])
    return True


@njit(cache=True)
def play_members(members, cells, rules, palette, mask, actions, observations, rewards, terminated, truncated):
    window = np.empty((rules.view_size, rules.view_size), cells.dtype)
    for slot in range(members.shape[0]):
        if mask[slot]:
            member = members[slot]
            rewards[slot] = play(member, cells[slot], actions[slot], rules)
            observe(member, cells[slot], palette, window, observations[slot])
            terminated[slot] = member.is_success or member.opened_wrong
            truncated[slot] = member.done and not terminated[slot]
