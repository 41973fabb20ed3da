"""BoxWorld: find the one sequence of keys and boxes that leads to a gem, seeing a few cells at a time.

Zambaldi et al. 2019, "Deep reinforcement learning with relational inductive biases"; the partial view is that of
Santoro et al. 2018, "Relational recurrent neural networks", appendix A.3.
"""

import colorsys
from collections.abc import Sequence
from string import ascii_lowercase, ascii_uppercase
from typing import Any, ClassVar, Literal

import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode

from engram.envs.batched import BatchedEnv
from engram.envs.boxworld_levels import AGENT, FLOOR, GEM, KEY, MAX_COLOURS, WALL, LevelOptions, fits
from engram.envs.boxworld_references import BoxWorldExplorer, BoxWorldOracle
from engram.envs.boxworld_rules import MEMBER, Rules, begin_members, play_members
from engram.envs.levels import SPLITS, LevelSet
from engram.envs.options import check_integer, check_number
from engram.envs.single import SingleEnv
from engram.envs.viewport import MOVES, check_view, draw_cells, write_cells

MAX_ROOM = 99
"""Side of the largest room, in which a member takes 10 kB, and 30 kB more with the whole room in view."""


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
        room: side of the room without its walls, 5 to 99.
        solution_length: numbers of boxes on the path; level k has the (k mod n)-th of these n.
        num_distractors: numbers of distractor branches, of which a level draws one.
        distractor_length: boxes of a branch.
        num_colours: colours of keys, at most 26; the keys of a level all differ.
        view: side of the view, odd, 3 to 199; or "full".
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
        check_integer("room", room, 5, MAX_ROOM)
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
        if not begin_members(self._members, self.cells, *level, self.rules, self.palette, slots, self._observations):
            raise ValueError(f"room={self.level_options.room} is too small: no level was found")

    def _play(self, mask, actions):
        results = self._observations, self._rewards, self._terminated, self._truncated
        play_members(self._members, self.cells, self.rules, self.palette, mask, actions, *results)

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
