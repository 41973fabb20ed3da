"""Reference policies for any environment.

A reference policy is made as `policy(env, seed)` for a vector environment and called as
`policy(observation [N, ...], episode_starts bool [N]) -> actions [N, ...]`, once per step of that environment.
"""

from copy import deepcopy

import numpy as np
from gymnasium.vector import VectorEnv

from engram.envs.streams import STREAM, seeded


class RandomPolicy:
    """Actions drawn uniformly from the action space."""

    def __init__(self, env: VectorEnv, seed: int):
        self._space = deepcopy(env.action_space)
        self._space.seed(seed)

    def __call__(self, observation: np.ndarray, episode_starts: np.ndarray) -> np.ndarray:
        return self._space.sample()


def policy_streams(num_envs: int, seed: int) -> np.ndarray:
    """A random stream per member, [num_envs] of `STREAM`; none of them is that of an environment of the same seed."""
    streams = np.zeros(num_envs, STREAM)
    streams["rng"] = seeded([2**63 + seed + slot for slot in range(num_envs)])
    return streams
