"""MiniPacman: eat the food of a maze in which food and ghosts are mostly out of sight.

Santoro et al. 2018, "Relational recurrent neural networks", sections 4.2 and 5.3; the game comes from Weber et al.
2017, "Imagination-augmented agents for deep reinforcement learning".
"""

from typing import ClassVar, Literal

import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode

from engram.envs.batched import BatchedEnv
from engram.envs.mini_pacman_map import HEIGHT, WIDTH
from engram.envs.mini_pacman_references import MiniPacmanGreedy
from engram.envs.mini_pacman_rendering import letters, plane_palettes, rgb_palettes
from engram.envs.mini_pacman_rules import MEMBER, MODES, Rules, begin_members, look, play_members
from engram.envs.options import check_choice, check_integer, check_number, check_probability
from engram.envs.single import SingleEnv
from engram.envs.viewport import check_view, draw_cells, write_cells


class MiniPacmanVector(BatchedEnv):
    """N Pacmen, each in a map of 15 x 19 cells of which it sees a window.

    Actions: 0 stay, 1 right, 2 up, 3 left, 4 down; a wall stops Pacman.

    A level starts with food on all 138 free cells, `num_pills` power pills, Pacman and 1, 1, 2, 2, 3, ... ghosts (at
    most 16) in places drawn anew. Pacman moves first and eats what is on his cell, one pill a step. A pill gives him
    power for `pill_duration` steps, in which ghosts flee at half speed and he eats them, one a step; without power,
    meeting a ghost ends the episode (`terminated`). A cleared level is followed by the next, with faster ghosts.
    `frame_cap` steps end the episode as `truncated`.

    | mode | per step | food | pill | ghost | death | level is cleared when |
    |---|---|---|---|---|---|---|
    | regular | 0 | 1 | 2 | 5 | 0 | all food is eaten |
    | avoid | 0.1 | -0.1 | -5 | -10 | -20 | all food is eaten, or after 128 steps |
    | hunt | 0 | 0 | 1 | 10 | -20 | all ghosts are eaten |
    | ambush | 0 | -0.1 | 0 | 10 | -20 | all ghosts are eaten |
    | rush | 0 | -0.1 | 10 | 0 | 0 | all pills are eaten |

    Observation, uint8 [channels, height, width], Pacman in the centre of a window, wall beyond the map. Of several
    things on a cell "rgb" shows the first of this list, "planes" has a channel for each of them with 0 or 255:

    | on the cell | "rgb" | channel of "planes" |
    |---|---|---|
    | Pacman | (0, 255, 0) | 2 |
    | ghosts, e the part of the power that is left | (255, 255 e, 0) | 3: 255 (1 - e), 4: 255 e |
    | pill | (0, 255, 255) | 5 |
    | food | (0, 0, 255) | 1 |
    | wall | (255, 255, 255) | 0 |

    `info` holds for each member `level` (from 1), `food_left`, `pills_left` and `ghosts_left` of that level, and
    `level_id`, always -1: the map is fixed, so there are no splits.

    Args:
        num_envs: Pacmen N.
        mode: "regular", "avoid", "hunt", "ambush" or "rush".
        view: side of the window, odd, 3 to 199; "full" shows the whole map.
        obs_format: "rgb" or "planes".
        frame_cap: longest episode, in steps.
        num_pills: power pills of a level, 1 to 15.
        pill_duration: steps that a pill lasts, 1 to 1000.
        ghost_speed: probability that a ghost moves in a step of the first level.
        ghost_speed_increment: what is added to it with every level.
        ghost_randomness: probability that a hunting ghost takes any way at a crossing.
        safe_distance: ghosts start outside of the rectangle that reaches this far around Pacman, 0 to 8.
        render_mode: "rgb_array" or "ansi".
        autoreset_mode: `AutoresetMode.NEXT_STEP` or `AutoresetMode.DISABLED`.
        copy: False returns arrays that the next call overwrites.

    Raises:
        ValueError: an option is out of range.
    """

    reference_policies: ClassVar = {"greedy": MiniPacmanGreedy}

    def __init__(
        self,
        num_envs: int = 1,
        *,
        mode: Literal["regular", "avoid", "hunt", "ambush", "rush"] = "regular",
        view: int | Literal["full"] = 5,
        obs_format: Literal["rgb", "planes"] = "rgb",
        frame_cap: int = 3000,
        num_pills: int = 2,
        pill_duration: int = 20,
        ghost_speed: float = 0.5,
        ghost_speed_increment: float = 0.1,
        ghost_randomness: float = 0.05,
        safe_distance: int = 5,
        render_mode: Literal["rgb_array", "ansi"] | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        copy: bool = True,
    ):
        check_choice("mode", mode, tuple(MODES))
        check_view(view)
        check_choice("obs_format", obs_format, ("rgb", "planes"))
        check_integer("frame_cap", frame_cap, 1)
        check_integer("num_pills", num_pills, 1, 15)
        check_integer("pill_duration", pill_duration, 1, 1000)
        check_number("ghost_speed", ghost_speed, 0)
        check_number("ghost_speed_increment", ghost_speed_increment, 0)
        check_probability("ghost_randomness", ghost_randomness)
        check_integer("safe_distance", safe_distance, 0, 8)
        self.rules = Rules(
            MODES[mode],
            int(frame_cap),
            int(num_pills),
            int(pill_duration),
            float(ghost_randomness),
            int(safe_distance),
            float(ghost_speed),
            float(ghost_speed_increment),
        )
        self._follow = view != "full"
        self._view = view
        self._colours = rgb_palettes(num_pills, pill_duration)
        self._palettes = self._colours if obs_format == "rgb" else plane_palettes(num_pills, pill_duration)
        shape = (self._palettes.shape[2], *((view, view) if self._follow else (HEIGHT, WIDTH)))
        super().__init__(
            num_envs,
            MEMBER,
            ("level", "food_left", "pills_left", "ghosts_left"),
            Box(0, 255, shape, np.uint8),
            Discrete(5),
            levels=None,
            render_mode=render_mode,
            autoreset_mode=autoreset_mode,
            copy=copy,
        )
        self.metadata["needs_last_action"] = view != "full"

    @property
    def members(self) -> np.ndarray:
        """State of all members, a structured array [N] of `MEMBER`."""
        return self._members

    def _begin(self, mask, split):
        begin_members(self._members, self.rules, self._palettes, self._follow, mask, self._observations)

    def _play(self, mask, actions):
        results = self._observations, self._rewards, self._terminated, self._truncated
        play_members(self._members, self.rules, self._palettes, self._follow, mask, actions, *results)

    def _draw(self, slot):
        member = self._members[slot]
        row, column = divmod(int(member["pacman"]), WIDTH)
        view = (row, column, self._view) if self._follow else None
        return draw_cells(self._cells(slot), self._colours[member["power"]], view)

    def _describe(self, slot):
        member = self._members[slot]
        head = f"step {member['frame']}/{self.rules.frame_cap}, level {member['level']}, power {member['power']}"
        return f"{head}\n{write_cells(self._cells(slot), letters(self.rules.num_pills))}"

    def _cells(self, slot):
        """All cells of a member's map, [15, 19]."""
        cells = np.empty((HEIGHT, WIDTH), np.uint8)
        look(self._members[slot], HEIGHT // 2, WIDTH // 2, cells)
        return cells


class MiniPacman(SingleEnv):
    """One Pacman; rules, observation and options as in `MiniPacmanVector`."""

    vector_class: ClassVar = MiniPacmanVector
