"""Reference policies for any environment.

A reference policy is made as `policy(env, seed)` for a vector environment and called as
`policy(observation [N, ...], episode_starts bool [N]) -> actions [N, ...]`, once per step of that environment.
"""

from copy import deepcopy

import numpy as np
from gymnasium.vector import VectorEnv


class RandomPolicy:
    """Actions drawn uniformly from the action space."""

    def __init__(self, env: VectorEnv, seed: int):
        self._space = deepcopy(env.action_space)
        self._space.seed(seed)

    def __call__(self, observation: np.ndarray, episode_starts: np.ndarray) -> np.ndarray:
        return self._space.sample()
