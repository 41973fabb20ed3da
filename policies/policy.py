"""A recurrent actor-critic: encoder -> core -> policy and baseline heads."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from engram.policies.actions import Actions, make_actions
from engram.policies.core import Core, CoreConfig
from engram.policies.encoders import Encoder, EncoderName, NormalizedEncoder, make_encoder
from engram.policies.tree import tree_map


class Inputs(NamedTuple):
    """What a policy sees, leaves [T, B, ...]; last_action and last_reward are zero where an episode starts."""

    observation: Tensor | dict[str, Tensor]  # [T, B, ...], of the type the environment gives
    last_action: Tensor  # [T, B, ...] as the environment took it
    last_reward: Tensor  # [T, B]
    episode_starts: Tensor  # bool [T, B]


class PolicyOutput(NamedTuple):
    """policy_logits [T, B, num_logits], baseline [T, B], the core's reports [T, B, ...] by name."""

    policy_logits: Tensor
    baseline: Tensor
    report: dict[str, Tensor]


class Policy(nn.Module):
    """Encodes observations, remembers, and gives a distribution over actions and a value.

    Args: encoder: observations [N, ...] -> features [N, E].
          core: a memory core of input size E, plus actions.num_features with last_action, plus 1 with last_reward.
          actions: what the logits mean.
          last_action, last_reward: whether the core also reads what was done and earned before.
          reward_clip: size to which the reward it reads is clamped; None for no limit.
    """

    def __init__(
        self,
        encoder: Encoder,
        core: Core,
        actions: Actions,
        last_action: bool = False,
        last_reward: bool = False,
        reward_clip: float | None = None,
    ):
        super().__init__()
        self.encoder, self.core, self.actions = encoder, core, actions
        self.last_action, self.last_reward, self.reward_clip = last_action, last_reward, reward_clip
        self.policy_head = actions.head(core.output_size)
        self.baseline_head = nn.Linear(core.output_size, 1)

    def initial_state(self, batch_size: int) -> tuple:
        return self.core.initial_state(batch_size)

    @torch.no_grad()
    def observe(self, inputs: Inputs, total: Callable[[Tensor], Tensor]) -> None:
        """Take the observations of inputs [T, B, ...] into the encoder's statistics; see `Encoder.observe`."""
        self.encoder.observe(tree_map(lambda leaf: leaf.flatten(0, 1), inputs.observation), total)

    def forward(
        self, inputs: Inputs, state: tuple, report: tuple[str, ...] = (), donate: bool = False
    ) -> tuple[PolicyOutput, tuple]:
        """inputs [T, B, ...] and the state before them -> outputs [T, B, ...] and the state after them.

        `report` and `donate` are those of `Core.forward`.
        """
        T, B = inputs.episode_starts.shape
        observation = tree_map(lambda leaf: leaf.flatten(0, 1), inputs.observation)
        features = [self.encoder(observation).unflatten(0, (T, B))]
        if self.last_action:
            acted = self.actions.encode(inputs.last_action) * ~inputs.episode_starts[..., None]
            features.append(acted.to(features[0].dtype))
        if self.last_reward:
            limit = self.reward_clip
            reward = inputs.last_reward if limit is None else inputs.last_reward.clamp(-limit, limit)
            features.append(reward[..., None])
        xs = features[0] if len(features) == 1 else torch.cat(features, dim=-1)
        ys, state, reports = self.core(xs, state, inputs.episode_starts, report, donate)
        return PolicyOutput(self.policy_head(ys), self.baseline_head(ys)[..., 0], reports), state


def make_policy(
    core: CoreConfig,
    envs,
    encoder: EncoderName = "auto",
    last_action: bool | None = None,
    last_reward: bool = False,
    reward_clip: float | None = None,
    normalize_observation: bool = False,
) -> Policy:
    """The policy that fits the spaces of a vector environment; ValueError naming a space that no policy fits.

    Args: encoder: how images are read.
          last_action: whether the core reads the previous action; None for what the environment's metadata say under
          "needs_last_action", which is where nobody could play well without it.
          normalize_observation: whether vectors of floats and pixels are normalised by their running mean and
          deviation.
    """
    actions = make_actions(envs.single_action_space)
    encode = make_encoder(envs.single_observation_space, encoder, normalize_observation)
    if normalize_observation and not any(isinstance(part, NormalizedEncoder) for part in encode.modules()):
        shown = " ".join(str(envs.single_observation_space).split())
        raise ValueError(
            f"--policy.normalize-observation is for vectors of floats and images; observations are of {shown}"
        )
    if core.map_shape not in (None, encode.map_shape):
        given = "features that are none" if encode.map_shape is None else f"maps of {encode.map_shape}"
        raise ValueError(
            f"the core reads maps of {core.map_shape} (--core.height, --core.width), but {type(encode).__name__} "
            f"gives {given}"
        )
    if last_action is None:
        last_action = bool(envs.metadata.get("needs_last_action", False))
    memory = core.build(encode.output_size + last_action * actions.num_features + last_reward)
    return Policy(encode, memory, actions, last_action, last_reward, reward_clip)
