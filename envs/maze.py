"""GridMaze: find an invisible goal once, then return to it from wherever one is put next.

Munkhdalai, Sordoni, Wang & Trischler 2019, "Metalearned neural memory", section 4.3, which adopts the maze of Miconi,
Clune & Stanley 2018, "Differentiable plasticity"; the other rules are those of Miconi et al. 2019, "Backpropamine".
"""

from typing import ClassVar, Literal

import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode

from engram.envs.batched import BatchedEnv
from engram.envs.levels import SPLITS, LevelSet, level_seed
from engram.envs.maze_references import MazeExplorer, MazeOracle
from engram.envs.maze_rules import MEMBER, Layout, Rules, begin_members, make_maze, play_members
from engram.envs.options import check_choice, check_integer, check_number
from engram.envs.single import SingleEnv
from engram.envs.viewport import MOVES, draw_cells, write_cells

MAX_SIZE = 99
PUBLISHED = {
    "2018": {"episode_length": 250, "wall_penalty": 0.1, "obs": "mnm"},
    "2019": {"episode_length": 200, "wall_penalty": 0.0, "obs": "backprop2019"},
}
"""Defaults of options by rules."""

_GAME = 2  # keeps the level streams of different games apart
_PALETTE = np.array([(221, 227, 235), (40, 44, 52), (88, 184, 108), (250, 204, 62)], np.uint8)
_SYMBOLS = " #AG"
_AGENT, _GOAL = 2, 3  # cells of pictures besides 0, free, and 1, wall


def divide_goals(cells: np.ndarray, base_seed: int) -> dict[str, np.ndarray]:
    """The cells of each split: a quarter of them test, a quarter valid, the others train, in an order of chance."""
    order = cells[np.argsort([level_seed(_GAME, 0, cell, base_seed) for cell in cells])]
    quarter = len(cells) // 4
    return {"train": order[2 * quarter :], "test": order[:quarter], "valid": order[quarter : 2 * quarter]}


class GridMazeVector(BatchedEnv):
    """N agents, each in the same small maze with an invisible goal of its own.

    The maze has walls around it and a pillar at every cell whose row and column are both even, except the centre, where
    each episode starts. Actions 0 to 3 go up, down, left and right; a wall stops the agent and costs `wall_penalty`.
    An agent that stands on the goal after its action, moved or not, earns `reward` and is put on a random free cell.
    The goal stays for the whole episode, which terminates after `episode_length` steps.

    Observation, float32: the 3 x 3 cells around the agent, 1 for a wall, in reading order, and then by `obs`:

    | entry | `"mnm"` | `"miconi2018"` | `"backprop2019"` |
    |---|---|---|---|
    | steps played / episode_length | 9 | 15, steps | 11 |
    | last reward | 10 | 14 | 12 |
    | last action, one-hot; zeros at the start | 11 .. 14 with `prev_action` | | 13 .. 16 |
    | 1 | last, with `bias` | 16 | 10 |
    | 0 | | 9 .. 13 | 9 |
    | size | 11 to 16 | 17 | 17 |

    The observation after a success has the view from the new cell, beside the reward.

    `info` holds for each member `level_id`, `num_goals` of the episode, whether the last step had `goal_reached` or
    `hit_wall`, and the cells of `position` and `goal`, numbers of free cells in reading order. A level is a goal:
    level k has goal k mod G of the G goals of its split.

    Args:
        num_envs: agents N.
        size: rows and columns of the maze, border included, odd, 5 to 99.
        rules: "2018": any free cell may be the goal, and agents are put on any, the goal included; "2019": the centre
            is never the goal, and nobody is put on the goal.
        episode_length: steps of an episode; None is 250 by the rules of 2018 and 200 by those of 2019.
        reward: for reaching the goal.
        wall_penalty: for walking into a wall, subtracted; None is 0.1 in 2018 and 0 in 2019.
        obs: "mnm", "miconi2018" or "backprop2019"; None is "mnm" in 2018 and "backprop2019" in 2019.
        prev_action: of "mnm": append the last action.
        bias: of "mnm": append a 1.
        raw_time: of "mnm": the time input counts steps.
        split: "train", "test" or "valid" have the goals of an episode among a part of the cells, about one half, one
            quarter and one quarter, without overlap; None has them anywhere, whatever split a reset names.
        level_base_seed: names the division of the goals.
        render_mode: "rgb_array" or "ansi".
        autoreset_mode: `AutoresetMode.NEXT_STEP` or `AutoresetMode.DISABLED`.
        copy: False returns arrays that the next call overwrites.

    Raises:
        ValueError: an option is out of range.
    """

    reference_policies: ClassVar = {"explorer": MazeExplorer, "oracle": MazeOracle}

    def __init__(
        self,
        num_envs: int = 1,
        *,
        size: int = 9,
        rules: Literal["2018", "2019"] = "2018",
        episode_length: int | None = None,
        reward: float = 10.0,
        wall_penalty: float | None = None,
        obs: Literal["mnm", "miconi2018", "backprop2019"] | None = None,
        prev_action: bool = False,
        bias: bool = False,
        raw_time: bool = False,
        split: Literal["train", "test", "valid"] | None = None,
        level_base_seed: int = 0,
        render_mode: Literal["rgb_array", "ansi"] | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        copy: bool = True,
    ):
        check_integer("size", size, 5, MAX_SIZE)
        if size % 2 == 0:
            raise ValueError(f"size must be odd; got {size}")
        check_choice("rules", rules, tuple(PUBLISHED))
        published = PUBLISHED[rules]
        episode_length = published["episode_length"] if episode_length is None else episode_length
        wall_penalty = published["wall_penalty"] if wall_penalty is None else wall_penalty
        obs = published["obs"] if obs is None else obs
        check_integer("episode_length", episode_length, 1)
        check_number("reward", reward, 0, above=True)
        check_number("wall_penalty", wall_penalty, 0)
        check_choice("split", split, (None, *SPLITS))
        self.rules = Rules(int(episode_length), float(reward), float(wall_penalty), rules == "2018")
        self.layout = _layout(obs, self.rules.episode_length, prev_action, bias, raw_time)
        self.maze = make_maze(int(size))

        low, high = np.zeros(self.layout.size, np.float32), np.ones(self.layout.size, np.float32)
        high[self.layout.time] = episode_length / self.layout.time_unit
        limits = np.float32([-wall_penalty, reward])
        low[self.layout.reward], high[self.layout.reward] = np.nextafter(limits, np.float32([-np.inf, np.inf]))
        super().__init__(
            num_envs,
            MEMBER,
            ("goal_reached", "hit_wall", "num_goals", "position", "goal"),
            Box(low, high),
            Discrete(len(MOVES)),
            levels=LevelSet("train" if split is None else split, None, level_base_seed, "uniform"),
            render_mode=render_mode,
            autoreset_mode=autoreset_mode,
            copy=copy,
        )
        self.metadata["needs_last_action"] = self.layout.last_action < 0
        cells = np.arange(len(self.maze.cells))
        goals = cells if rules == "2018" else np.delete(cells, self.maze.start)
        self._goals = dict.fromkeys(SPLITS, goals) if split is None else divide_goals(goals, level_base_seed)

    @property
    def members(self) -> np.ndarray:
        """State of all members, a structured array [N] of `MEMBER`."""
        return self._members

    @property
    def num_levels(self):
        """Goals of its split; level ids beyond them begin again."""
        return len(self._goals[self._levels.split])

    def _begin(self, mask, split):
        where = self._goals[split], self.maze.start, self.maze.views
        begin_members(self._members, *where, self.layout, mask, self._observations)

    def _play(self, mask, actions):
        results = self._observations, self._rewards, self._terminated
        _, _, successors, views, _ = self.maze
        play_members(self._members, successors, views, self.rules, self.layout, mask, actions, *results)

    def state_dict(self):
        """See `BatchedEnv.state_dict`; the walls tell mazes of different sizes apart."""
        return super().state_dict() | {"walls": self.maze.walls.copy()}

    def _draw(self, slot):
        return draw_cells(self._picture(slot), _PALETTE, (*self.maze.cells[self._members[slot]["position"]], 3))

    def _describe(self, slot):
        member = self._members[slot]
        head = f"step {member['time']}/{self.rules.episode_length}, {member['num_goals']} goals"
        return f"{head}\n{write_cells(self._picture(slot), _SYMBOLS)}"

    def _picture(self, slot: int) -> np.ndarray:
        """The maze with the goal and, above it, the agent, [size, size]."""
        picture = self.maze.walls.copy()
        for cell, mark in (("goal", _GOAL), ("position", _AGENT)):
            picture[tuple(self.maze.cells[self._members[slot][cell]])] = mark
        return picture


def _layout(obs: str, episode_length: int, prev_action: bool, bias: bool, raw_time: bool) -> Layout:
    """The layout `obs`; the three flags are options of "mnm". Raises ValueError if they are given to another."""
    check_choice("obs", obs, ("mnm", "miconi2018", "backprop2019"))
    for name, value in (("prev_action", prev_action), ("bias", bias), ("raw_time", raw_time)):
        check_choice(name, value, (False, True))
        if value and obs != "mnm":
            raise ValueError(f"{name} is an option of obs='mnm'; got obs={obs!r}")
    if obs == "miconi2018":
        return Layout(17, time=15, reward=14, last_action=-1, bias=16, time_unit=1)
    if obs == "backprop2019":
        return Layout(17, time=11, reward=12, last_action=13, bias=10, time_unit=episode_length)
    actions = len(MOVES) if prev_action else 0
    return Layout(
        size=11 + actions + bias,
        time=9,
        reward=10,
        last_action=11 if prev_action else -1,
        bias=11 + actions if bias else -1,
        time_unit=1 if raw_time else episode_length,
    )


class GridMaze(SingleEnv):
    """One agent in a maze with an invisible goal; rules, observation and options as in `GridMazeVector`."""

    vector_class: ClassVar = GridMazeVector
