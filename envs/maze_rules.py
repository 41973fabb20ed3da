"""The maze and the rules of GridMaze on the record of one member, and the loops over members, all compiled.

Miconi, Clune & Stanley 2018, "Differentiable plasticity"; Miconi et al. 2019, "Backpropamine".
"""

from typing import NamedTuple

import numpy as np

from engram.envs.batched import MEMBER_FIELDS
from engram.envs.streams import below, other_than
from engram.envs.viewport import MOVES, crop
from engram.kernels import njit

MEMBER = np.dtype(
    [
        *MEMBER_FIELDS,
        ("goal", "i4"),
        ("position", "i4"),
        ("time", "i4"),  # steps played in this episode
        ("last_action", "i4"),  # -1: none
        ("last_reward", "f8"),
        ("goal_reached", "?"),
        ("hit_wall", "?"),
        ("num_goals", "i8"),
    ],
    align=True,
)


class Maze(NamedTuple):
    """The map; its m free cells are numbered in reading order."""

    walls: np.ndarray
    """1 where there is a wall, uint8 [size, size]"""
    cells: np.ndarray
    """row and column of each free cell, [m, 2]"""
    successors: np.ndarray
    """cell that each action leads to, the cell itself if there is a wall, int32 [m, 4]"""
    views: np.ndarray
    """the 3 x 3 patch of `walls` around each free cell, in reading order, float32 [m, 9]"""
    start: int
    """number of the centre cell"""


class Rules(NamedTuple):
    """The options that the kernels need."""

    episode_length: int
    reward: float
    wall_penalty: float
    may_land_on_goal: bool


class Layout(NamedTuple):
    """Where the parts of the observation are, behind the nine cells of the view; -1: absent."""

    size: int
    time: int
    reward: int
    last_action: int
    bias: int
    time_unit: int
    """what the time input counts in, in steps"""


def make_maze(size: int) -> Maze:
    """A maze of `size` x `size` cells, border included, with pillars where row and column are even, the centre free."""
    walls = np.zeros((size, size), np.uint8)
    walls[::2, ::2] = 1
    walls[[0, -1]] = walls[:, [0, -1]] = 1
    walls[size // 2, size // 2] = 0
    cells = np.argwhere(walls == 0)
    numbers = np.full((size, size), -1, np.int32)
    numbers[tuple(cells.T)] = np.arange(len(cells))
    successors = np.stack([numbers[tuple((cells + move).T)] for move in MOVES], 1)
    successors = np.where(successors < 0, np.arange(len(cells), dtype=np.int32)[:, None], successors)
    windows = np.empty((len(cells), 3, 3), np.uint8)
    for (row, column), window in zip(cells, windows, strict=True):
        crop(walls, row, column, 1, window)
    return Maze(walls, cells, successors, windows.reshape(-1, 9).astype(np.float32), int(numbers[size // 2, size // 2]))


@njit(cache=True)
def begin(member, goals, start):
    """Start an episode; `goals` are those of the split."""
    member.level_id %= len(goals)
    member.goal = goals[member.level_id]
    member.position = start
    member.time = member.num_goals = 0
    member.last_action = -1
    member.last_reward = 0.0
    member.goal_reached = member.hit_wall = member.done = False


@njit(cache=True)
def play(member, successors, action, rules):
    """One step of the game; the reward is left in `last_reward`."""
    target = successors[member.position, action]
    member.hit_wall = target == member.position
    member.goal_reached = target == member.goal  # also if the agent was put on the goal and did not move
    member.position = target
    member.last_action = action
    member.last_reward = 0.0
    if member.hit_wall:
        member.last_reward -= rules.wall_penalty
    if member.goal_reached:
        member.last_reward += rules.reward
        member.num_goals += 1
        if rules.may_land_on_goal:
            member.position = below(member, len(successors))
        else:
            member.position = other_than(member, len(successors), member.goal)
    member.time += 1
    member.done = member.time >= rules.episode_length


@njit(cache=True)
def observe(member, views, layout, row):
    """Write the observation; the layouts are described at `GridMazeVector`."""
    row[:9] = views[member.position]
    row[9:] = 0
    row[layout.time] = member.time / layout.time_unit
    row[layout.reward] = member.last_reward
    if layout.last_action >= 0 and member.last_action >= 0:
        row[layout.last_action + member.last_action] = 1
    if layout.bias >= 0:
        row[layout.bias] = 1


@njit(cache=True)
def begin_members(members, goals, start, views, layout, mask, observations):
    for slot in range(members.shape[0]):
        if mask[slot]:
            begin(members[slot], goals, start)
            observe(members[slot], views, layout, observations[slot])


@njit(cache=True)
def play_members(members, successors, views, rules, layout, mask, actions, observations, rewards, terminated):
    for slot in range(members.shape[0]):
        if mask[slot]:
            member = members[slot]
            play(member, successors, actions[slot], rules)
            observe(member, views, layout, observations[slot])
            rewards[slot] = member.last_reward
            terminated[slot] = member.done
