"""Atari games through envpool: emulators that run in threads of C++, under the rules of this folder.

Preprocessing of Mnih et al. 2015, with the settings that Irie et al. 2021, "Going beyond linear transformers with
recurrent fast weight programmers", took from TorchBeast; and the Pong of Le et al. 2020, "Self-attentive associative
memory".
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
from gymnasium.error import DependencyNotInstalled, ResetNeeded
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from engram.envs.options import check_choice, check_integer, check_probability, member_seeds
from engram.envs.streams import seeded

try:
    import envpool
    from envpool.registration import registry
except ModuleNotFoundError as error:
    raise DependencyNotInstalled("Atari games need envpool: pip install envpool") from error

GAMES = tuple(task.removesuffix("-v5") for task, (module, *_) in registry.specs.items() if module == "envpool.atari")
"""Names of all games."""


class AtariVector(VectorEnv):
    """N copies of the game that a subclass names; its emulators are made at the first reset and at each with a seed.

    Observation: the last frames, oldest first, uint8 [stack_num, 84, 84], grey. Reward: the change of the score.

    `info` has `lives`, and `game_return` and `game_length`, the score and the steps of the game so far; `_game_return`
    and `_game_length` are true where the game, not only a life, has ended.

    Args:
        num_envs: members N.
        frame_skip: frames that an action is repeated for; an observation is the pixelwise maximum of the last two.
        stack_num: frames in an observation, one from each of the last steps.
        noop_max: frames, at most, that pass without an action when an episode starts, at random.
        episodic_life: an episode is a life, and `terminated` tells of each life lost; the next episode goes on in the
            same game, and the first frames of its stack are those of the life before. Otherwise an episode is a game.
        reward_clip: the reward is the sign of the change of the score.
        use_fire_reset: FIRE is pressed for the agent, in games that have it, when a game starts and after each life
            lost. Where an episode is a game, the step after a lost life goes to this and ignores its action.
        repeat_action_probability: chance in each frame that the action before is played again ("sticky actions",
            Machado et al. 2018, who use 0.25).
        full_action_space: all 18 actions of the console instead of those the game knows.
        max_episode_steps: steps after which a game is `truncated`; 27,000 are half an hour.
        num_threads: of the emulators; 0 is one per core.
        render_mode: "rgb_array", or None.

    Raises:
        ValueError: an option is out of range.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "autoreset_mode": AutoresetMode.NEXT_STEP}
    reference_policies: ClassVar[dict[str, type]] = {}
    evaluation_options: ClassVar[dict[str, Any]] = {"episodic_life": False, "reward_clip": False}
    """What evaluation changes: an episode is a game, and its return the score."""
    game: ClassVar[str]
    """One of `GAMES`."""
    screen_size: ClassVar[int] = 84

    def __init__(
        self,
        num_envs: int,
        *,
        frame_skip: int = 4,
        stack_num: int = 4,
        noop_max: int = 30,
        episodic_life: bool = True,
        reward_clip: bool = False,
        use_fire_reset: bool = True,
        repeat_action_probability: float = 0.0,
        full_action_space: bool = False,
        max_episode_steps: int = 27_000,
        num_threads: int = 0,
        render_mode: str | None = None,
    ):
        counts = {
            "num_envs": num_envs,
            "frame_skip": frame_skip,
            "stack_num": stack_num,
            "noop_max": noop_max,  # 0 crashes envpool
            "max_episode_steps": max_episode_steps,
        }
        switches = {
            "episodic_life": episodic_life,
            "reward_clip": reward_clip,
            "use_fire_reset": use_fire_reset,
            "full_action_space": full_action_space,
        }
        for name, value in counts.items():
            check_integer(name, value, 1, 2**31 - 1)
        for name, value in switches.items():
            check_choice(name, value, (False, True))
        check_probability("repeat_action_probability", repeat_action_probability)
        check_integer("num_threads", num_threads, 0, 2**31 - 1)
        check_choice("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        self.num_envs, self.render_mode = num_envs, render_mode
        self.metadata = self.metadata | {"render_fps": 60 / frame_skip}
        self._episodic_life = episodic_life
        self._options = counts | switches | {"episodic_life": episodic_life or use_fire_reset}  # FIRE for every life
        self._options |= {"repeat_action_probability": repeat_action_probability, "num_threads": num_threads}
        self._options |= {"img_height": self.screen_size, "img_width": self.screen_size}
        num_actions = envpool.make_spec(f"{self.game}-v5", **self._options).action_space.n
        self.single_observation_space = Box(0, 255, (stack_num, self.screen_size, self.screen_size), np.uint8)
        self.single_action_space = Discrete(int(num_actions))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._emulators = None

    def reset(self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None):
        """Start new games.

        Args:
            seed: s seeds member i with s + i; a sequence seeds each member with its own. None continues the streams.
            options: none are known.

        Returns:
            observations [N, stack_num, 84, 84] and the info dictionary.

        Raises:
            ValueError: a seed does not fit, or there are options.
        """
        if options:
            raise ValueError(f"reset of an Atari game takes no options; got {', '.join(options)}")
        if seed is None and self._emulators is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        if seed is not None:
            self._emulators = self._made(seed)  # envpool seeds emulators when it makes them and never again
        observations, info = self._emulators.reset()
        self._restarts = np.zeros(self.num_envs, bool)
        self._scores = np.zeros(self.num_envs)
        return observations, self._info(info, self._restarts)

    def step(self, actions):
        """Play one step in every member; where an episode has ended, start the next one instead.

        Args:
            actions: integers [N], each in the action space.

        Returns:
            observations [N, stack_num, 84, 84], rewards float32 [N], terminated bool [N], truncated bool [N], info.

        Raises:
            ValueError: an action does not fit; nothing has been played then.
            ResetNeeded: before the first reset.
        """
        self._check_started("step")
        actions = np.asarray(actions)
        if actions not in self.action_space:
            highest = self.single_action_space.n - 1
            raise ValueError(f"actions must be {self.num_envs} integers in 0..{highest}; got {actions!r}")
        starts = self._restarts
        observations, rewards, terminated, truncated, info = self._emulators.step(actions.astype(np.int32))
        self._restarts = terminated | truncated
        if not self._episodic_life:
            terminated = terminated & (info["terminated"] == 1)
        self._scores[starts & (info["elapsed_step"] == 0)] = 0
        self._scores += np.where(starts, 0, info["reward"])
        info = self._info(info, truncated | (info["terminated"] == 1))
        return observations, np.where(starts, 0, rewards), terminated, truncated, info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The screens in colour, uint8 [210, 160, 3] per member; None without a render mode."""
        if self.render_mode is None:
            return None
        self._check_started("picture")
        return tuple(self._emulators.render(env_ids=np.arange(self.num_envs)))

    def close_extras(self, **kwargs: Any) -> None:
        """End the emulators and their threads."""
        self._emulators = None

    def _check_started(self, what: str) -> None:
        if self._emulators is None:
            raise ResetNeeded(f"call reset before the first {what}")

    def _made(self, seed: int | Sequence[int]) -> VectorEnv:
        seeds = (seeded(member_seeds(seed, self.num_envs)) >> np.uint64(33)).tolist()  # envpool's are below 2**31
        options = self._options | {"env_seed": seeds, "render_mode": self.render_mode}
        return envpool.make(f"{self.game}-v5", env_type="gymnasium", **options)

    def _info(self, info: dict[str, np.ndarray], game_ended: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "lives": info["lives"],
            "_lives": np.ones(self.num_envs, bool),
            "game_return": self._scores.copy(),
            "_game_return": game_ended,
            "game_length": info["elapsed_step"],
            "_game_length": game_ended.copy(),
        }


@cache
def game_vector(game: str) -> type[AtariVector]:
    """The vector environment class of one of `GAMES`."""
    return type(f"Atari{game}Vector", (AtariVector,), {"game": game, "__doc__": AtariVector.__doc__})


class PongVector(AtariVector):
    """Pong as a game of memory: one frame at a time, seen only every `frame_skip` frames (Le et al. 2020, section 3.4).

    Observation: the last frame, uint8 [1, 80, 80], grey. A game is truncated after 10,000 steps.

    Args:
        num_envs: members N.
        frame_skip: frames that an action is repeated for, 1 (every frame is seen; the paper's 0), 4, 16 or 32.
        num_threads: of the emulators; 0 is one per core.
        render_mode: "rgb_array", or None.

    Raises:
        ValueError: an option is out of range.
    """

    evaluation_options: ClassVar[dict[str, Any]] = {}
    game = "Pong"
    screen_size = 80

    def __init__(
        self,
        num_envs: int,
        *,
        frame_skip: Literal[1, 4, 16, 32] = 4,
        num_threads: int = 0,
        render_mode: str | None = None,
    ):
        check_choice("frame_skip", frame_skip, (1, 4, 16, 32))
        super().__init__(
            num_envs,
            frame_skip=frame_skip,
            stack_num=1,
            max_episode_steps=10_000,
            num_threads=num_threads,
            render_mode=render_mode,
        )
