"""Reference policies for any environment.

A reference policy is made as `policy(env, seed)` for a vector environment and called as
`policy(observation [N, ...], episode_starts bool [N]) -> actions [N, ...]`, once per step of that environment.
"""

import math
from copy import deepcopy

import numpy as np
from gymnasium.vector import VectorEnv

from engram.envs.streams import STREAM, seeded

MAX_PLAN_BYTES = 2**31
"""What a policy may hold of actions worked out in advance."""


class PlanTooLarge(ValueError):
    """A reference policy cannot be had: its plan would take more than `MAX_PLAN_BYTES`."""


def new_plan(*shape: int) -> np.ndarray:
    """Zeros int8 of a shape, for an action in every situation. Raises PlanTooLarge."""
    if math.prod(shape) > MAX_PLAN_BYTES:
        sizes, limit = " x ".join(map(str, shape)), MAX_PLAN_BYTES / 2**30
        raise PlanTooLarge(f"a plan of {sizes} actions takes {math.prod(shape) / 2**30:.1f} GiB, more than {limit:.1f}")
    return np.zeros(shape, np.int8)


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
