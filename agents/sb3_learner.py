"""Agents of Stable-Baselines3 and its contrib package in the places of our learner and our actors."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnvWrapper
from torch import Tensor

from engram import ranks
from engram.agents.config import RunConfig
from engram.agents.sb3 import SB3A2C, SB3PPO, SB3RecurrentPPO
from engram.agents.stepper import EnvError
from engram.command_line import ConfigError
from engram.optim import Diverged
from engram.policies import Inputs
from engram.policies.tree import tree_map

ALGORITHMS = {SB3A2C: A2C, SB3PPO: PPO, SB3RecurrentPPO: RecurrentPPO}
CNN_SIZE = 36
"""pixels a side that the packages' convolutions need; smaller images are flattened"""


def make_model(config: RunConfig, env_id: str, device: torch.device | str) -> OnPolicyAlgorithm:
    """The package's algorithm on single environments, member i of which plays what seed + i plays."""
    if ranks.count() > 1:
        raise ConfigError(f"--agent {config.agent_name} learns in one process: start it with python, not torchrun")
    options = config.env.options()
    if options.get("level_sampling") == "fixed" and options["num_levels"] is not None:
        raise ConfigError(
            f"--agent {config.agent_name} plays single environments, each of which would have the same fixed level: "
            "choose --env.kwargs.level-sampling uniform"
        )
    envs = Explained(make_vec_env(env_id, config.env.num_envs, env_kwargs=options))
    choices, space = vars(config.agent).copy(), envs.observation_space
    parts = getattr(space, "spaces", None)
    if isinstance(parts, tuple):
        raise ConfigError(f"--agent {config.agent_name} cannot play {env_id}: it does not read {space}")
    if parts is not None:
        policy = "MultiInput"
    else:
        policy = "Cnn" if is_image_space(space) and sorted(space.shape)[1] >= CNN_SIZE else "Mlp"
    if "lstm_hidden_size" in choices:
        choices["policy_kwargs"] = {"lstm_hidden_size": choices.pop("lstm_hidden_size")}
        policy += "Lstm"
    make, shared = ALGORITHMS[type(config.agent)], {"seed": config.seed, "device": device}
    try:
        return make(f"{policy}Policy", envs, n_steps=config.unroll_length, **shared, **choices)
    except (AssertionError, NotImplementedError, ValueError) as error:
        raise ConfigError(f"--agent {config.agent_name} cannot play {env_id}: {str(error).splitlines()[0]}") from error


class Explained(VecEnvWrapper):
    """Environments whose errors are told from the package's."""

    def reset(self):
        return self._call(self.venv.reset)

    def step_wait(self):
        return self._call(self.venv.step_wait)

    def _call(self, method):
        try:
            return method()
        except Exception as error:
            raise EnvError(f"the environment raised {type(error).__name__}: {error}") from error


class _Stopped(Exception):
    """Ends an update in its midst."""


class SB3Learner:
    """The part of a package's algorithm that learns; `updates` counts its gradient steps.

    A request to stop ends an update between two of them, as one may take minutes.

    Args:   env_id: of Gymnasium's registry.
    Raises: ConfigError if the package cannot play there, or not with these options.
    """

    def __init__(self, config: RunConfig, env_id: str, device: torch.device | str = "cpu"):
        self.model = make_model(config, env_id, device)
        self.policy, self.seed, self.updates = self.model.policy, config.seed, 0
        self.stopped: Callable[[], bool] = lambda: False
        self.model.set_logger(Logger(None, []))
        self.policy.optimizer.register_step_pre_hook(self._count)

    def update(self, rollout: "SB3Rollout", progress: float = 0.0) -> dict[str, float]:
        """Learn from the rollout that the model has just played. Returns: what the package logs, by its names."""
        try:
            with suppress(_Stopped):
                self.model.train()
        except ValueError as error:  # distributions refuse logits that are not finite
            raise self._diverged() from error
        logged = self.model.logger.name_to_value.items()
        return {name.removeprefix("train/"): value for name, value in logged if name.startswith("train/")}

    def check(self, metrics: dict[str, float]) -> None:
        """Raise Diverged unless the weights are finite."""
        if not all(parameter.isfinite().all() for parameter in self.policy.parameters()):
            raise self._diverged()

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy.state_dict(),
            "optimizer": self.policy.optimizer.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.policy.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]

    def _count(self, *_: object) -> None:
        if self.stopped():
            raise _Stopped
        self.updates += 1

    def _diverged(self) -> Diverged:
        return Diverged(
            f"update {self.updates}: the weights are not finite; "
            "try a lower --agent.learning-rate or --agent.max-grad-norm"
        )


class SB3Rollout(NamedTuple):
    """What a run has to know of a rollout that lies in the model."""

    mask: Tensor  # bool [T, B]: every step is one of an episode
    episode_return: np.ndarray  # [K] undiscounted, of the episodes that ended here
    episode_length: np.ndarray  # [K] steps


class SB3Actors:
    """The part of a package's algorithm that plays, in turn with learning."""

    def __init__(self, learner: SB3Learner):
        self.learner, self.model = learner, learner.model

    def __enter__(self) -> Self:
        self._watch = _Watch()
        self.model.learn(0, self._watch)  # resets the environments
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def next_rollout(self, stopped: Callable[[], bool]) -> tuple[SB3Rollout, int] | None:
        self.learner.stopped = self._watch.stopped = stopped
        self._watch.ended = []
        model = self.model
        if not model.collect_rollouts(model.env, self._watch, model.rollout_buffer, model.n_steps):
            return None
        mask = torch.ones(model.n_steps, model.n_envs, dtype=torch.bool)
        returns, lengths = ([episode[key] for episode in self._watch.ended] for key in ("r", "l"))
        return SB3Rollout(mask, np.array(returns), np.array(lengths)), 0

    def state_dict(self) -> list:
        return []

    def load_state_dict(self, states: list, step: int) -> None:
        self.model.env.seed(self.learner.seed + step)


class _Watch(BaseCallback):
    """Notes the episodes that end, and ends a rollout where the run is to stop."""

    def _on_step(self) -> bool:
        self.ended += [info["episode"] for info in self.locals["infos"] if "episode" in info]
        return not self.stopped()


class SB3Player:
    """A package's policy that plays from fresh states, with random numbers of its own; see `evaluate.PolicyPlayer`."""

    def __init__(self, policy: BasePolicy, num_envs: int, seed: int, greedy: bool = False):
        self.policy, self.greedy = policy, greedy
        self.state: tuple | None = None  # which the policy takes for the beginning of every member's
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, inputs: Inputs) -> Tensor:
        shown = tree_map(Tensor.numpy, inputs)
        with torch.random.fork_rng():  # the policy draws from the global generator
            torch.manual_seed(int(torch.randint(2**63 - 1, (), generator=self.generator)))
            actions, self.state = self.policy.predict(
                shown.observation, self.state, shown.episode_starts, deterministic=self.greedy
            )
        return torch.as_tensor(actions)
