"""Any core of Engram that has a memory in RecurrentPPO of sb3-contrib, where its LSTM would stand."""

import torch
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from torch import nn

from engram.policies import make_core

ENV = "engram:engram/GraphPOMDP-v0"


class Memory(nn.Module):
    """A core with the state of an LSTM: the halves of all its numbers in a row are (h, c), each [1, B, hidden_size]."""

    num_layers = 1

    def __init__(self, core: str, input_size: int):
        super().__init__()
        self.core, self.input_size = make_core(core, input_size), input_size
        state = self.core.initial_state(1)
        self.state_type, self.shapes = type(state), [leaf.shape[1:] for leaf in state]
        self.hidden_size = (sum(leaf.numel() for leaf in state) + 1) // 2

    def forward(self, xs, pair, episode_starts):
        """xs [T, B, input_size], episode_starts bool [T, B] -> ys [T, B, Y] and the next pair."""
        numbers = torch.cat(pair, dim=2)[0]
        sizes = [shape.numel() for shape in self.shapes]
        leaves = numbers[:, : sum(sizes)].split(sizes, dim=1)
        state = self.state_type(*(leaf.unflatten(1, shape) for leaf, shape in zip(leaves, self.shapes, strict=True)))
        ys, state, _ = self.core(xs, state, episode_starts)
        numbers = torch.cat([leaf.flatten(1) for leaf in state], dim=1)
        numbers = nn.functional.pad(numbers, (0, 2 * self.hidden_size - numbers.shape[1]))
        return ys, numbers[None].chunk(2, dim=2)


class CorePolicy(RecurrentActorCriticPolicy):
    """RecurrentPPO's policy with a core each for actions and values; `core` is its name."""

    def __init__(self, observation_space, action_space, lr_schedule, core: str = "fwm", **choices):
        self.core = core
        super().__init__(observation_space, action_space, lr_schedule, **choices)
        self.lstm_actor, self.lstm_critic = (Memory(core, self.features_dim) for _ in range(2))
        self.lstm_hidden_state_shape = (1, 1, self.lstm_actor.hidden_size)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def _build_mlp_extractor(self):
        self.lstm_output_dim = make_core(self.core, self.features_dim).output_size
        super()._build_mlp_extractor()

    @staticmethod
    def _process_sequence(features, lstm_states, episode_starts, lstm):
        B = lstm_states[0].shape[1]
        xs, starts = (x.unflatten(0, (B, -1)).transpose(0, 1).contiguous() for x in (features, episode_starts > 0))
        ys, lstm_states = lstm(xs, lstm_states, starts)  # a core starts anew by itself, and not always from zero
        return ys.transpose(0, 1).flatten(0, 1), lstm_states


def main(total_steps: int = 200_000, core: str = "fwm") -> float:
    """Mean return on graphs that were not trained on."""
    envs = make_vec_env(ENV, n_envs=16, seed=0)
    options = {"core": core}
    model = RecurrentPPO(CorePolicy, envs, n_steps=60, batch_size=240, gamma=0.9, policy_kwargs=options, seed=0)
    model.learn(total_steps)
    test_envs = make_vec_env(ENV, n_envs=16, seed=1, env_kwargs={"split": "test"})
    return evaluate_policy(model, test_envs, n_eval_episodes=64, deterministic=False)[0]


if __name__ == "__main__":
    print(f"return on unseen graphs: {main():.1f}")
