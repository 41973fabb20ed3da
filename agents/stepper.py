"""A vector environment under the NEXT_STEP rule, as a recurrent policy sees it."""

import logging
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engram.policies import Inputs
from engram.policies.tree import tree_map

_log = logging.getLogger(__name__)


class EnvError(Exception):
    """An environment raised while it was reset, stepped or drawn, or drew no picture."""


class Finished(NamedTuple):
    """Episodes that ended in one step: member, undiscounted return, length in steps, success, each [K]."""

    member: np.ndarray
    episode_return: np.ndarray
    length: np.ndarray
    is_success: np.ndarray
    """1 or 0, as `info["is_success"]` says of episodes that have an aim; NaN where the environment has no such info"""


class Stepper:
    """Steps `envs` and keeps what the next step needs: the inputs of the policy, and running returns.

    Where an episode has ended, the next `step` ignores the action and brings the first observation of the next one:
    `inputs.episode_starts` is true there, and last_action and last_reward are zero. `info` is what `envs` said last.
    """

    def __init__(self, envs, seed: int | None = None, device: torch.device | str = "cpu", options: dict | None = None):
        self.envs, self.device = envs, torch.device(device)
        self._start(seed, options)

    def _start(self, seed: int | None, options: dict | None = None) -> None:
        observation, self.info = self.call(self.envs.reset, seed=seed, options=options)
        n, actions = self.envs.num_envs, self.envs.single_action_space
        self._ended = np.zeros(n, bool)  # whether the current observation is the last of its episode
        self._return, self._length = np.zeros(n), np.zeros(n, np.int64)
        nothing = np.zeros((n, *actions.shape), actions.dtype)
        self.inputs = self._inputs(observation, nothing, np.zeros(n, np.float32), np.ones(n, bool))

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Finished]:
        """action [B, ...], in the environment's form -> reward float32 [B], terminated bool [B], ended episodes."""
        starts, acted = self._ended, action.cpu().numpy()
        observation, reward, terminated, truncated, self.info = self.call(self.envs.step, acted)
        reward = np.where(starts, 0, reward).astype(np.float32)
        self._return = np.where(starts, 0, self._return + reward)
        self._length = np.where(starts, 0, self._length + 1)
        self._ended = (terminated | truncated) & ~starts
        member = np.flatnonzero(self._ended)
        last_action = acted.copy()
        last_action[starts] = 0
        self.inputs = self._inputs(observation, last_action, reward, starts)
        success = np.broadcast_to(np.asarray(self.info.get("is_success", np.nan), float), starts.shape)
        ended = Finished(member, self._return[member], self._length[member], success[member])
        return self.inputs.last_reward, self._tensor(terminated & ~starts), ended

    def state_dict(self) -> dict:
        """Everything to continue exactly; without "envs" where the environment cannot save its state."""
        state = {
            "inputs": self.inputs._asdict(),
            "ended": self._ended,
            "episode_return": self._return,
            "length": self._length,
        }
        if hasattr(self.envs.unwrapped, "state_dict"):
            state["envs"] = self.envs.unwrapped.state_dict()
        return state

    def load_state_dict(self, state: dict, seed: int) -> None:
        """Continue from `state_dict()`; an environment that cannot load its state starts new episodes from `seed`."""
        if "envs" not in state:
            _log.warning("%s cannot continue its episodes and starts new ones", self.envs)
            self._start(seed)
            return
        self.envs.unwrapped.load_state_dict(state["envs"])
        self._ended, self._return, self._length = state["ended"], state["episode_return"], state["length"]
        self.inputs = tree_map(lambda leaf: leaf.to(self.device), Inputs(**state["inputs"]))

    def call(self, method, *args, **options):
        """What a method of the environment returns. Raises: EnvError if it raises anything."""
        try:
            return method(*args, **options)
        except (Exception, SystemExit) as error:
            said = str(error).split("\n")[0]
            raise EnvError(f"the environment {self.envs} raised {type(error).__name__}: {said}") from error

    def _inputs(self, observation, last_action, last_reward, episode_starts) -> Inputs:
        return tree_map(self._tensor, Inputs(observation, last_action, last_reward, episode_starts))

    def _tensor(self, array: np.ndarray) -> Tensor:
        """A copy: environments may write their next observation into the same array."""
        return torch.tensor(array, device=self.device)
