"""Rollouts: all that actors hand to learners."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engram.agents.stepper import Stepper
from engram.policies import Inputs, Policy
from engram.policies.tree import tree_map


class Rollout(NamedTuple):
    """T steps of B environments. Step t leads from inputs[t] to inputs[t + 1] by action[t].

    Steps that only reset an environment are no steps of an episode: `mask` is false there.
    """

    inputs: Inputs  # [T + 1, B, ...]
    action: Tensor  # [T, B, ...] as the policy drew it
    reward: Tensor  # [T, B]
    terminated: Tensor  # bool [T, B]
    behaviour_logits: Tensor  # [T, B, num_logits]
    initial_state: tuple  # the core's state before inputs[0], leaves [B, ...]
    episode_return: np.ndarray  # [K] undiscounted, of the episodes that ended here
    episode_length: np.ndarray  # [K] steps

    @property
    def mask(self) -> Tensor:
        """Whether step t was one of an episode, bool [T, B]."""
        return ~self.inputs.episode_starts[1:]

    def to(self, device: torch.device) -> "Rollout":
        """The same on another device."""
        return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, self)

    def split(self, parts: int) -> list["Rollout"]:
        """The rollout cut into parts of about as many environments each; finished episodes stay with the first."""
        cuts = np.array_split(np.arange(self.reward.shape[1]), parts)
        return [self._part(slice(cut[0], cut[-1] + 1)) for cut in cuts]

    def _part(self, rows: slice) -> "Rollout":
        episodes = slice(None if rows.start == 0 else 0)
        return Rollout(
            tree_map(lambda leaf: leaf[:, rows].contiguous(), self.inputs),
            self.action[:, rows],
            self.reward[:, rows],
            self.terminated[:, rows],
            self.behaviour_logits[:, rows],
            tree_map(lambda leaf: leaf[rows], self.initial_state),
            self.episode_return[episodes],
            self.episode_length[episodes],
        )


@torch.no_grad()
def collect(
    stepper: Stepper,
    policy: Policy,
    state: tuple,
    unroll_length: int,
    generator: torch.Generator | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[Rollout | None, tuple]:
    """Play `unroll_length` steps from where the stepper stands.

    Returns: the rollout, and the core's state before its last inputs, from which the next one continues; None for the
             rollout if `stopped` says so between two of its steps.
    """
    initial_state = tree_map(torch.clone, state)
    inputs, actions, rewards, terminations, logits, ended = [stepper.inputs], [], [], [], [], []
    for _ in range(unroll_length):
        if stopped():
            return None, state
        now = tree_map(lambda leaf: leaf[None], stepper.inputs)
        output, state = policy(now, state, donate=True)
        action = policy.actions.sample(output.policy_logits[0], generator)
        reward, terminated, finished = stepper.step(policy.actions.to_env(action))
        inputs.append(stepper.inputs)
        actions.append(action)
        rewards.append(reward)
        terminations.append(terminated)
        logits.append(output.policy_logits[0])
        ended.append(finished)
    rollout = Rollout(
        tree_map(lambda *leaves: torch.stack(leaves), *inputs),
        torch.stack(actions),
        torch.stack(rewards),
        torch.stack(terminations),
        torch.stack(logits),
        initial_state,
        np.concatenate([finished.episode_return for finished in ended]),
        np.concatenate([finished.length for finished in ended]),
    )
    return rollout, state
