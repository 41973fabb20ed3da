"""What all batched environments share: episodes, seeding, autoreset, options of reset, copies and saved state.

A game is a structured array with one record per member, and compiled functions on one record that read like the rules
of the game. `BatchedEnv` is the Gymnasium vector environment around them; `single.py` has its view with one member.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from engram.envs.levels import SPLITS, LevelSet
from engram.envs.options import check_choice, check_integer, member_seeds
from engram.envs.streams import seeded

MEMBER_FIELDS = [("rng", "u8"), ("level_id", "i8"), ("done", "?")]
"""Fields every game's record starts with: its random stream, its level (-1: none), whether its episode has ended."""


class BatchedEnv(VectorEnv):
    """N members of one game with discrete actions, stepped together by a compiled kernel.

    Autoreset is NEXT_STEP: the observation returned with `terminated | truncated` is the last of its episode, and the
    next call ignores that member's action and returns the first observation of its next episode with reward 0. Under
    DISABLED the caller resets, naming the members in `options["reset_mask"]`.

    Member i of a vector seeded s plays what a single environment seeded s + i plays.

    `metadata["needs_last_action"]` is true where an agent plays blind without its previous action, which the
    observation then leaves out.

    A game keeps `self._members` and `self._observations` up to date in `_begin`, and `self._rewards`,
    `self._terminated` and `self._truncated` as well in `_play`; both must set `done`.

    Args:
        num_envs: members N.
        member: dtype of a member's record; starts with `MEMBER_FIELDS`.
        info: names of the record's fields that `info` shows besides `level_id`.
        observation_space: of one member.
        action_space: of one member.
        levels: the levels it draws from, None for a game without levels.
        render_mode: one of `metadata["render_modes"]`, or None.
        autoreset_mode: `AutoresetMode.NEXT_STEP` or `AutoresetMode.DISABLED`.
        copy: False returns the internal arrays, which the next call overwrites.

    Raises:
        ValueError: an option is out of range.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": ["rgb_array", "ansi"],
        "render_fps": 4,
        "needs_last_action": False,
    }
    reference_policies: ClassVar[dict[str, type]] = {}
    """Hand-written policies of the game by name, each made as `policy(env, seed)`."""

    def __init__(
        self,
        num_envs: int,
        member: np.dtype,
        info: tuple[str, ...],
        observation_space: gymnasium.spaces.Box,
        action_space: gymnasium.spaces.Discrete,
        *,
        levels: LevelSet | None,
        render_mode: str | None,
        autoreset_mode: AutoresetMode,
        copy: bool,
    ):
        check_integer("num_envs", num_envs, 1)
        check_choice("autoreset_mode", autoreset_mode, (AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED))
        check_choice("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        self.num_envs = num_envs
        self.metadata = self.metadata | {"autoreset_mode": autoreset_mode}
        self.render_mode = render_mode
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self.copy = copy
        self._levels = levels
        self._info_fields = ("level_id", *info)
        self._all_members = np.ones(num_envs, bool)
        self._all_members.setflags(write=False)
        self._members = np.zeros(num_envs, member)
        self._observations = np.zeros((num_envs, *observation_space.shape), observation_space.dtype)
        self._rewards = np.zeros(num_envs, np.float32)
        self._terminated = np.zeros(num_envs, bool)
        self._truncated = np.zeros(num_envs, bool)
        self._started = False

    @property
    def num_levels(self) -> float | None:
        """Levels of its split, infinity included; None for a game without levels."""
        if self._levels is None:
            return None
        return math.inf if self._levels.num_levels is None else self._levels.num_levels

    @abstractmethod
    def _begin(self, mask: np.ndarray, split: str | None) -> None:
        """Start an episode in the members of `mask` [N], on their `level_id` of `split` (None without levels)."""

    @abstractmethod
    def _play(self, mask: np.ndarray, actions: np.ndarray) -> None:
        """Advance the members of `mask` [N] by one step of `actions` int64 [N]."""

    @abstractmethod
    def _draw(self, slot: int) -> np.ndarray:
        """Picture of one member, uint8 [height, width, 3]."""

    @abstractmethod
    def _describe(self, slot: int) -> str:
        """One member as text."""

    def reset(self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None):
        """Start new episodes.

        Args:
            seed: s seeds member i with s + i; a sequence seeds each member with its own. None continues the streams.
            options: `reset_mask`, bool [N], resets these members only; `level_ids`, int [N], says which level each
                plays (-1: as usual); `split` takes the levels of this call from another split.

        Returns:
            observations of all members [N, ...] and the info dictionary.

        Raises:
            ValueError: an option is unknown or out of range.
            ResetNeeded: the first reset had a mask.
        """
        options = dict(options or {})
        mask = self._reset_mask(options.pop("reset_mask", None))
        level_ids = self._level_ids(options.pop("level_ids", None))
        split = self._chosen_split(options.pop("split", None))
        if options:
            raise ValueError(f"reset takes the options reset_mask, level_ids, split; got {', '.join(options)}")
        if not self._started and not mask.all():
            raise ResetNeeded("the first reset must be of all members, without a reset_mask")
        self._seed(seed, mask)
        self._enter(mask, level_ids, split)
        self._started = True
        return self._owned(self._observations), self._info()

    def step(self, actions):
        """Play one step in every member.

        Args:
            actions: integers [N], each in the action space.

        Returns:
            observations [N, ...], rewards float32 [N], terminated bool [N], truncated bool [N], info.

        Raises:
            ValueError: an action does not fit; nothing has been played then.
            ResetNeeded: before the first reset, or under DISABLED with a member whose episode has ended.
        """
        if not self._started:
            raise ResetNeeded("call reset before the first step")
        actions = self._checked(actions)
        ended = self._members["done"].copy()
        if ended.any():
            if self.metadata["autoreset_mode"] is AutoresetMode.DISABLED:
                raise ResetNeeded(
                    f"the episode has ended in members {np.flatnonzero(ended).tolist()}: reset them first"
                )
            self._enter(ended, np.full(self.num_envs, -1), self._chosen_split(None))
        self._play(~ended, actions)
        flags = self._owned(self._terminated), self._owned(self._truncated)
        return self._owned(self._observations), self._owned(self._rewards), *flags, self._info()

    def render(self) -> tuple[np.ndarray | str, ...] | None:
        """What `render_mode` asks for, one entry per member; None without a render mode."""
        if self.render_mode is None:
            return None
        show = self._draw if self.render_mode == "rgb_array" else self._describe
        return tuple(show(slot) for slot in range(self.num_envs))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Arrays from which `load_state_dict` of an environment with the same options continues exactly."""
        fields = {name: self._members[name].copy() for name in self._members.dtype.names}
        return fields | {"observations": self._observations.copy(), "started": np.array(self._started)}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: the state is of an environment of another kind or size.
        """
        arrays = self.state_dict()
        for name, own in arrays.items():
            if name not in state or np.shape(state[name]) != own.shape:
                got = np.shape(state[name]) if name in state else "nothing"
                raise ValueError(f"the state of {self} needs {name!r} of shape {own.shape}; got {got}")
        for name in self._members.dtype.names:
            self._members[name] = state[name]
        self._observations[:] = state["observations"]
        self._started = bool(state["started"])

    def _enter(self, mask: np.ndarray, level_ids: np.ndarray, split: str | None) -> None:
        """Start an episode in the members of `mask` [N], at `level_ids` [N] where they are not -1."""
        if self._levels is not None:
            self._levels.choose(self._members, mask, level_ids)
        self._members["level_id"][mask] = level_ids[mask]
        self._rewards[mask] = 0
        self._terminated[mask] = self._truncated[mask] = False
        self._begin(mask, split)

    def _owned(self, array: np.ndarray) -> np.ndarray:
        return array.copy() if self.copy else array

    def _info(self) -> dict[str, np.ndarray]:
        info = {}
        for name in self._info_fields:
            info[name], info[f"_{name}"] = self._owned(self._members[name]), self._all_members
        return info

    def _seed(self, seed: int | Sequence[int] | None, mask: np.ndarray) -> None:
        if seed is None:
            if self._started:
                return
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        seeds = member_seeds(seed, self.num_envs)
        self._members["rng"][mask] = seeded([seeds[slot] for slot in np.flatnonzero(mask)])

    def _reset_mask(self, mask: np.ndarray | None) -> np.ndarray:
        if mask is None:
            return self._all_members
        if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(f"reset_mask must be a bool array [{self.num_envs}] with a True in it; got {mask!r}")
        return mask

    def _chosen_split(self, split: str | None) -> str | None:
        if self._levels is None:
            if split is not None:
                raise ValueError(f"this game has no splits to choose from; got split={split!r}")
            return None
        split = split or self._levels.split
        check_choice("split", split, tuple(SPLITS))
        return split

    def _level_ids(self, level_ids: np.ndarray | None) -> np.ndarray:
        if level_ids is None:
            return np.full(self.num_envs, -1)
        if self._levels is None:
            raise ValueError(f"this game has no levels to choose from; got level_ids={level_ids!r}")
        ids, highest = np.asarray(level_ids), self._levels.highest_id
        if ids.shape != (self.num_envs,) or ids.dtype.kind not in "iu" or ids.min() < -1 or ids.max() > highest:
            raise ValueError(f"level_ids must be {self.num_envs} integers in -1..{highest}; got {level_ids!r}")
        return ids.astype(np.int64)

    def _checked(self, actions: Any) -> np.ndarray:
        array = np.asarray(actions)
        num_actions = self.single_action_space.n
        if array.shape != (self.num_envs,) or array.dtype.kind not in "iu":
            raise ValueError(f"actions must be integers [{self.num_envs}]; got {array.dtype} {list(array.shape)}")
        if array.min() < 0 or array.max() >= num_actions:
            wrong = array[(array < 0) | (array >= num_actions)][0]
            raise ValueError(f"actions must be in 0..{num_actions - 1}; got {wrong}")
        return array.astype(np.int64, copy=False)
