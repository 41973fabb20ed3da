"""A recurrent actor-critic: encoder -> core -> policy and baseline heads."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engram.policies.core import Core, CoreConfig
from engram.policies.encoders import make_encoder


class Inputs(NamedTuple):
    """What a policy sees, leaves [T, B, ...]; last_action and last_reward are zero where an episode starts."""

    observation: Tensor  # [T, B, ...]
    last_action: Tensor  # int64 [T, B]
    last_reward: Tensor  # [T, B]
    episode_starts: Tensor  # bool [T, B]


class PolicyOutput(NamedTuple):
    """policy_logits [T, B, A], baseline [T, B], the core's reports [T, B, ...] by name."""

    policy_logits: Tensor
    baseline: Tensor
    report: dict[str, Tensor]


class Policy(nn.Module):
    """Encodes observations, remembers, and gives a categorical policy over num_actions and a value.

    Args: encoder: observations [N, ...] -> features [N, E].
          core: a memory core of input size E, plus num_actions with last_action, plus 1 with last_reward.
          last_action, last_reward: whether the core also reads what was done and earned before.
    """

    def __init__(
        self, encoder: nn.Module, core: Core, num_actions: int, last_action: bool = False, last_reward: bool = False
    ):
        super().__init__()
        self.encoder, self.core = encoder, core
        self.num_actions, self.last_action, self.last_reward = num_actions, last_action, last_reward
        self.policy_head = nn.Linear(core.output_size, num_actions)
        self.baseline_head = nn.Linear(core.output_size, 1)

    def initial_state(self, batch_size: int) -> tuple:
        return self.core.initial_state(batch_size)

    def forward(
        self, inputs: Inputs, state: tuple, report: tuple[str, ...] = (), donate: bool = False
    ) -> tuple[PolicyOutput, tuple]:
        """inputs [T, B, ...] and the state before them -> outputs [T, B, ...] and the state after them.

        `report` and `donate` are those of `Core.forward`.
        """
        T, B = inputs.episode_starts.shape
        features = [self.encoder(inputs.observation.flatten(0, 1)).unflatten(0, (T, B))]
        if self.last_action:
            acted = F.one_hot(inputs.last_action, self.num_actions) * ~inputs.episode_starts[..., None]
            features.append(acted.to(features[0].dtype))
        if self.last_reward:
            features.append(inputs.last_reward[..., None])
        xs = features[0] if len(features) == 1 else torch.cat(features, dim=-1)
        ys, state, reports = self.core(xs, state, inputs.episode_starts, report, donate)
        return PolicyOutput(self.policy_head(ys), self.baseline_head(ys)[..., 0], reports), state


def make_policy(core: CoreConfig, envs, last_action: bool = False, last_reward: bool = False) -> Policy:
    """The policy that fits the spaces of a vector environment; ValueError naming a space that no policy fits."""
    observation_space, action_space = envs.single_observation_space, envs.single_action_space
    if type(action_space).__name__ != "Discrete" or action_space.start != 0:
        raise ValueError(f"there is no policy for actions of {action_space}; Discrete(n) works")
    num_actions = int(action_space.n)
    encoder = make_encoder(observation_space)
    memory = core.build(encoder.output_size + last_action * num_actions + last_reward)
    return Policy(encoder, memory, num_actions, last_action, last_reward)


def sample(policy_logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Actions drawn from a categorical policy [..., A] -> int64 [...], by the exponential race of torch.multinomial."""
    race = torch.empty_like(policy_logits).exponential_(generator=generator)
    return (policy_logits.softmax(-1) / race).argmax(-1)


def log_prob(policy_logits: Tensor, action: Tensor) -> Tensor:
    """Log-probability of actions [...] under logits [..., A]."""
    return policy_logits.log_softmax(-1).gather(-1, action[..., None])[..., 0]


def entropy(policy_logits: Tensor) -> Tensor:
    """Entropy in nats of logits [..., A] -> [...]."""
    log_probs = policy_logits.log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1)
