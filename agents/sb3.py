"""Agents of Stable-Baselines3 and its contrib package, to compare with: their constants under their own names.

Each has the package's defaults. What runs of every agent have in common keeps the name it has here: n_steps is
--unroll-length, n_envs is --env.num-envs, total_timesteps is --total-steps.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from engram.flags import Flags


class SB3Flags(Flags):
    """What the packages take without a word, and fail or go astray by."""

    section: ClassVar[str] = "agent"

    def __post_init__(self):
        for name in ("gamma", "gae_lambda"):
            self.require(0 <= getattr(self, name) <= 1, name, "between 0 and 1")
        for name in ("learning_rate", "max_grad_norm"):
            self.require(0 < getattr(self, name) < math.inf, name, "above 0 and finite")
        for name in ("ent_coef", "vf_coef"):
            self.require(math.isfinite(getattr(self, name)), name, "finite")


@dataclass(frozen=True)
class SB3A2C(SB3Flags):
    """A2C of Stable-Baselines3, without memory (Mnih et al. 2016)."""

    learning_rate: float = 7e-4
    """of RMSprop"""
    gamma: float = 0.99
    """discount"""
    gae_lambda: float = 1.0
    """lambda of generalised advantage estimation (Schulman et al. 2016)"""
    ent_coef: float = 0.0
    """weight of the entropy"""
    vf_coef: float = 0.5
    """weight of the value function's loss"""
    max_grad_norm: float = 0.5
    """norm to which the gradient is clipped"""
    rms_prop_eps: float = 1e-5
    """added to the root of RMSprop's squared-gradient average"""
    normalize_advantage: bool = False
    """advantages of a rollout get mean 0 and deviation 1"""

    def __post_init__(self):
        super().__post_init__()
        self.require(self.rms_prop_eps > 0, "rms_prop_eps", "above 0")


@dataclass(frozen=True)
class SB3PPO(SB3Flags):
    """PPO of Stable-Baselines3, without memory (Schulman et al. 2017)."""

    learning_rate: float = 3e-4
    """of Adam"""
    batch_size: int = 64
    """steps in a minibatch"""
    n_epochs: int = 10
    """times that a rollout is learned from"""
    gamma: float = 0.99
    """discount"""
    gae_lambda: float = 0.95
    """lambda of generalised advantage estimation (Schulman et al. 2016)"""
    clip_range: float = 0.2
    """bound of the probability ratio's distance from 1"""
    normalize_advantage: bool = True
    """advantages of a minibatch get mean 0 and deviation 1"""
    ent_coef: float = 0.0
    """weight of the entropy"""
    vf_coef: float = 0.5
    """weight of the value function's loss"""
    max_grad_norm: float = 0.5
    """norm to which the gradient is clipped"""
    target_kl: float | None = None
    """divergence from the policy that played at which a rollout is put away; None for none"""

    def __post_init__(self):
        super().__post_init__()
        for name in ("batch_size", "n_epochs"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
        self.require(self.clip_range > 0, "clip_range", "above 0")
        self.require(self.target_kl is None or self.target_kl > 0, "target_kl", "above 0, or None")


@dataclass(frozen=True)
class SB3RecurrentPPO(SB3PPO):
    """RecurrentPPO of sb3-contrib: PPO with an LSTM each for policy and value function."""

    batch_size: int = 128
    """steps in a minibatch"""
    lstm_hidden_size: int = 256
    """units of an LSTM"""

    def __post_init__(self):
        super().__post_init__()
        self.require(self.lstm_hidden_size >= 1, "lstm_hidden_size", "at least 1")


SB3_AGENTS = {"sb3-ppo": SB3PPO(), "sb3-a2c": SB3A2C(), "sb3-rppo": SB3RecurrentPPO()}
"""name -> its constants, defaults of the package; `sb3_learner.py` trains with them"""
