"""BoxWorld: find the one sequence of keys and boxes that leads to a gem, seeing a few cells at a time.

Zambaldi et al. 2019, "Deep reinforcement learning with relational inductive biases"; the partial view is that of
Santoro et al. 2018, "Relational recurrent neural networks", appendix A.3.
"""

import colorsys
from collections.abc import Sequence
from string import ascii_lowercase, ascii_uppercase
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from numba import njit

from engram.envs.batched import MEMBER_FIELDS, BatchedEnv, SingleEnv
from engram.envs.boxworld_levels import AGENT, FLOOR, GEM, KEY, MAX_COLOURS, WALL, LevelOptions, fits, make_level
from engram.envs.boxworld_references import BoxWorldExplorer, BoxWorldOracle
from engram.envs.levels import SPLITS, LevelSet
from engram.envs.options import check_integer, check_number
from engram.envs.viewport import MOVES, check_view, crop, draw_cells, paint, write_cells

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
def _begin_members(members, cells, split, base_seed, options, rules, palette, slots, observations):
    window = np.empty((rules.view_size, rules.view_size), cells.dtype)
    for slot in slots:
        if not begin(members[slot], cells[slot], split, base_seed, options):
            return False
        observe(members[slot], cells[slot], palette, window, observations[slot])
    return True


@njit(cache=True)
def _play_members(members, cells, rules, palette, mask, actions, observations, rewards, terminated, truncated):
    window = np.empty((rules.view_size, rules.view_size), cells.dtype)
    for slot in range(members.shape[0]):
        if mask[slot]:
            member = members[slot]
            rewards[slot] = play(member, cells[slot], actions[slot], rules)
            observe(member, cells[slot], palette, window, observations[slot])
            terminated[slot] = member.is_success or member.opened_wrong
            truncated[slot] = member.done and not terminated[slot]


def make_palette(num_colours: int) -> np.ndarray:
    """Colours of the cells of boxworld_levels.py, uint8 [4 + 3 num_colours, 3]; a lock has the colour of its key."""
    hues = [colorsys.hsv_to_rgb(colour / num_colours, 0.5, 0.7) for colour in range(num_colours)]
    greys = {FLOOR: 0.8, WALL: 0.0, AGENT: 0.5, GEM: 1.0}
    colours = [(greys[cell],) * 3 for cell in sorted(greys)] + 3 * hues
    return np.round(255 * np.array(colours)).astype(np.uint8)


class BoxWorldVector(BatchedEnv):
    """N agents, each in a room with a loose key, boxes and a gem in one of them.

    A box is two cells: its content, and to the right of it its lock, in the colour of the key that opens it. Walking
    onto a lock with its key in hand opens the box and uses the key up; walking onto a key that nothing locks takes it
    in place of the one in hand. Walls, locked contents and other locks are in the way. Opening a box on the path to the
    gem pays `reward_open`; opening a distractor pays `reward_wrong` and terminates the episode, and so does taking the
    gem, which pays `reward_gem`. After `max_steps` steps, which the agent does not see, the episode is truncated.

    A distractor takes a key that the path needs and gives one that opens no box of the path, so exactly one sequence
    of boxes leads to the gem.

    Actions: 0 up, 1 down, 2 left, 3 right.

    Observation, uint8, channels first, in RGB:

    | view | shape | content |
    |---|---|---|
    | V | [6, V, V] | planes 0 .. 2: the V x V cells around the agent; planes 3 .. 5: colour of the key in hand, or 0 |
    | "full" | [3, room + 2, room + 2] | the room and its walls; the top left corner has the colour of the key in hand |

    The floor is light grey, the agent grey, the gem white; walls and what lies behind them are black.

    `info` holds for each member `level_id`, `solution_length` and `num_distractors` of the level, `num_opened` boxes of
    the path, and whether the episode was solved, `is_success`, or has `opened_wrong`.

    Args:
        num_envs: agents N.
        room: side of the room without its walls, at least 5.
        solution_length: numbers of boxes on the path; level k has the (k mod n)-th of these n.
        num_distractors: numbers of distractor branches, of which a level draws one.
        distractor_length: boxes of a branch.
        num_colours: colours of keys, at most 26; the keys of a level all differ.
        view: side of the view, odd, at least 3; or "full".
        max_steps: steps after which an episode is truncated.
        reward_gem: for taking the gem.
        reward_open: for opening a box on the path, that with the gem included.
        reward_wrong: for opening a distractor.
        split: "train", "test" or "valid"; no level of one split is one of another in other colours or from another
            start.
        num_levels: levels in the split; None draws a new one for every episode.
        level_base_seed: names the family of level sets.
        level_sampling: "uniform" draws a level, "fixed" gives member i the level i % num_levels in every episode.
        render_mode: "rgb_array" or "ansi".
        autoreset_mode: `AutoresetMode.NEXT_STEP` or `AutoresetMode.DISABLED`.
        copy: False returns arrays that the next call overwrites.

    Raises:
        ValueError: an option is out of range, or the boxes do not fit into the room.
    """

    reference_policies: ClassVar = {"explorer": BoxWorldExplorer, "oracle": BoxWorldOracle}

    def __init__(
        self,
        num_envs: int = 1,
        *,
        room: int = 12,
        solution_length: tuple[int, ...] = (1, 2, 3, 4, 5),
        num_distractors: tuple[int, ...] = (0, 1, 2, 3, 4, 5),
        distractor_length: int = 1,
        num_colours: int = 20,
        view: int | Literal["full"] = 5,
        max_steps: int = 120,
        reward_gem: float = 10.0,
        reward_open: float = 1.0,
        reward_wrong: float = -1.0,
        split: Literal["train", "test", "valid"] = "train",
        num_levels: int | None = None,
        level_base_seed: int = 0,
        level_sampling: Literal["fixed", "uniform"] = "uniform",
        render_mode: Literal["rgb_array", "ansi"] | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        copy: bool = True,
    ):
        check_integer("room", room, 5)
        _check_numbers("solution_length", solution_length, 1)
        _check_numbers("num_distractors", num_distractors, 0)
        check_integer("distractor_length", distractor_length, 1)
        check_integer("num_colours", num_colours, 2, MAX_COLOURS)
        check_view(view)
        check_integer("max_steps", max_steps, 1)
        rewards = {"reward_gem": reward_gem, "reward_open": reward_open, "reward_wrong": reward_wrong}
        for name, value in rewards.items():
            check_number(name, value, -np.inf)
        most = max(solution_length) + max(num_distractors) * distractor_length
        if num_colours <= most:
            raise ValueError(f"num_colours must be more than the {most} boxes of the largest level; got {num_colours}")

        side = room + 2
        shape = (3, side, side) if view == "full" else (6, int(view), int(view))
        super().__init__(
            num_envs,
            MEMBER,
            ("solution_length", "num_distractors", "num_opened", "is_success", "opened_wrong"),
            Box(0, 255, shape, np.uint8),
            Discrete(len(MOVES)),
            levels=LevelSet(split, num_levels, level_base_seed, level_sampling),
            render_mode=render_mode,
            autoreset_mode=autoreset_mode,
            copy=copy,
        )
        self.metadata["needs_last_action"] = view != "full"
        self.level_options = LevelOptions(
            room=int(room),
            solution_length=np.array(solution_length, np.int64),
            num_distractors=np.array(num_distractors, np.int64),
            distractor_length=int(distractor_length),
            num_colours=int(num_colours),
        )
        self.rules = Rules(
            num_colours=int(num_colours),
            view_size=0 if view == "full" else int(view),
            max_steps=int(max_steps),
            **{name: float(value) for name, value in rewards.items()},
        )
        self.cells = np.zeros((num_envs, side, side), np.int8)
        """each member's room as boxworld_levels.py describes it, [N, room + 2, room + 2]"""
        self.palette = make_palette(num_colours)
        """colour of each kind of cell, uint8 [4 + 3 num_colours, 3]"""
        if not fits(np.zeros(1, MEMBER)[0], self.level_options):
            raise ValueError(f"room={room} is too small for levels of {most} boxes")

    @property
    def members(self) -> np.ndarray:
        """State of all members, a structured array [N] of `MEMBER`."""
        return self._members

    def _begin(self, mask, split):
        level = SPLITS[split], self._levels.base_seed, self.level_options
        slots = np.flatnonzero(mask)
        if not _begin_members(self._members, self.cells, *level, self.rules, self.palette, slots, self._observations):
            raise ValueError(f"room={self.level_options.room} is too small: no level was found")

    def _play(self, mask, actions):
        results = self._observations, self._rewards, self._terminated, self._truncated
        _play_members(self._members, self.cells, self.rules, self.palette, mask, actions, *results)

    def _draw(self, slot):
        member, cells = self._members[slot], self.cells[slot].copy()
        if member["held"] >= 0:
            cells[0, 0] = KEY + member["held"]
        view = (member["row"], member["column"], self.rules.view_size) if self.rules.view_size else None
        picture = draw_cells(cells, self.palette, view)
        elapsed = len(picture) * member["time"] // self.rules.max_steps
        picture[-4:, :elapsed] = self.palette[FLOOR]
        return picture

    def _describe(self, slot):
        member, colours = self._members[slot], self.rules.num_colours
        keys, locks = ascii_lowercase[:colours], ascii_uppercase[:colours]
        held = keys[member["held"]] if member["held"] >= 0 else "nothing"
        head = f"step {member['time']}/{self.rules.max_steps}, holds {held}"
        return f"{head}\n{write_cells(self.cells[slot], '.#@*' + keys + locks + locks)}"

    def state_dict(self):
        """See `BatchedEnv.state_dict`."""
        return super().state_dict() | {"cells": self.cells.copy()}

    def load_state_dict(self, state):
        """See `BatchedEnv.load_state_dict`."""
        super().load_state_dict(state)
        self.cells[:] = state["cells"]


class BoxWorld(SingleEnv):
    """One agent in a room with keys, boxes and a gem; rules, observation and options as in `BoxWorldVector`."""

    vector_class: ClassVar = BoxWorldVector


def _check_numbers(name: str, values: Sequence[Any], low: int) -> None:
    """Raise a ValueError unless `values` are one or more integers at least `low`."""
    if not isinstance(values, tuple | list) or not values:
        raise ValueError(f"{name} must be one or more integers; got {values!r}")
    for value in values:
        check_integer(name, value, low)
