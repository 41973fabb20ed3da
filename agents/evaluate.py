"""A policy judged on a fixed list of levels and episode seeds."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engram.agents.stepper import Stepper
from engram.policies import Inputs, Policy
from engram.policies.tree import tree_map

Player = Callable[[Inputs], Tensor]
"""inputs, leaves [B, ...] -> actions [B, ...] of the environment's space"""


class Score(NamedTuple):
    """Undiscounted returns, and successes as 1 or 0 or NaN, each [episodes], and what is reported of them."""

    returns: np.ndarray
    is_success: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.returns.mean())

    @property
    def standard_error(self) -> float | None:
        """Of the mean, over episodes; None for a single one."""
        return float(self.returns.std(ddof=1) / np.sqrt(len(self.returns))) if len(self.returns) > 1 else None

    @property
    def success_rate(self) -> float | None:
        """Share of successful episodes; None where the environment does not say."""
        return None if np.isnan(self.is_success).any() else float(self.is_success.mean())


FIRST_SEED = 2**31
"""of evaluations with seed 0; far above the seeds of training"""
MAX_MEMBERS = 1024
"""environments that an evaluation plays at once, at most"""


def members(episodes: int, num_levels: float | None, num_envs: int) -> int:
    """How many environments an evaluation needs: one for each level, and where training has more, as many as those."""
    return min(episodes, max(num_levels or 0, num_envs), MAX_MEMBERS)


def evaluate(
    player: Player,
    envs,
    episodes: int,
    seed: int,
    num_levels: float | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Score | None:
    """Play `episodes` episodes, one in each member of `envs` at a time.

    Episode k follows a reset seeded by `FIRST_SEED + seed + k`, on level k % num_levels if there are levels, whoever
    plays it: every player meets the same levels and starts, and short episodes do not count for more. None if `stopped`
    says so first.
    """
    outcomes = []
    for first in range(0, episodes, envs.num_envs):
        options = None
        if num_levels:
            options = {"level_ids": np.mod(first + np.arange(envs.num_envs), num_levels).astype(np.int64)}
        stepper = Stepper(envs, FIRST_SEED + seed + first, options=options)
        playing = np.arange(envs.num_envs) < episodes - first
        own = np.zeros((2, len(playing)))  # returns, successes
        while playing.any():
            if stopped():
                return None
            _, _, ended = stepper.step(player(stepper.inputs))
            now = playing[ended.member]  # not those of later episodes, which members play while others finish
            own[:, ended.member[now]] = ended.episode_return[now], ended.is_success[now]
            playing[ended.member] = False
        outcomes.append(own[:, : episodes - first])
    return Score(*np.concatenate(outcomes, axis=1))


class PolicyPlayer:
    """A policy that plays from fresh states, by the forward pass that training uses.

    Actions are drawn on the CPU, by the same random numbers whatever the policy's device.
    """

    def __init__(self, policy: Policy, num_envs: int, seed: int, greedy: bool = False):
        """greedy: take the likeliest action instead of drawing one."""
        self.policy, self.greedy = policy, greedy
        self.device = next(policy.parameters()).device
        self.state = policy.initial_state(num_envs)
        self.generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def __call__(self, inputs: Inputs) -> Tensor:
        now = tree_map(lambda leaf: leaf[None].to(self.device), inputs)
        output, self.state = self.policy(now, self.state, donate=True)
        logits, actions = output.policy_logits[0].cpu(), self.policy.actions
        return actions.to_env(actions.mode(logits) if self.greedy else actions.sample(logits, self.generator))


class ReferencePlayer:
    """A hand-written policy, called with observation and episode_starts as arrays, that plays in an agent's place."""

    def __init__(self, reference: Callable[[np.ndarray, np.ndarray], np.ndarray]):
        self.reference = reference

    def __call__(self, inputs: Inputs) -> Tensor:
        shown = tree_map(Tensor.numpy, inputs)
        return torch.as_tensor(self.reference(shown.observation, shown.episode_starts))
