"""Learning, end to end, where only memory can help: the whole path from an environment to a policy that knows."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv

from engram.agents.a2c import A2C
from engram.agents.evaluate import PolicyPlayer, evaluate
from engram.agents.impala import IMPALA
from engram.agents.learner import Learner
from engram.agents.rollout import collect
from engram.agents.stepper import Stepper
from engram.optim import OptimConfig
from engram.policies import FWM, LSTM, Policy
from engram.policies.actions import Categorical
from engram.policies.encoders import FlatEncoder

SYMBOLS = 4


class Recall(VectorEnv):
    """Shows a symbol, then `delay` times nothing, then a question; naming the symbol there pays 1."""

    def __init__(self, num_envs, delay):
        self.num_envs, self.delay = num_envs, delay
        self.single_observation_space, self.single_action_space = Box(0, 1, (SYMBOLS + 1,)), Discrete(SYMBOLS)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.time = 0  # all members keep step
        self.symbol = self.random.integers(SYMBOLS, size=self.num_envs)
        return self._observation(), {}

    def step(self, actions):
        none, ends = np.zeros(self.num_envs), np.zeros(self.num_envs, bool)
        if self.time > self.delay + 1:
            return self.reset()[0], none, ends, ends, {}
        self.time += 1
        if self.time <= self.delay + 1:
            return self._observation(), none, ends, ends, {}
        return self._observation(), (actions == self.symbol).astype(float), ~ends, ends, {}

    def _observation(self):
        observation = np.zeros((self.num_envs, SYMBOLS + 1), np.float32)
        if self.time == 0:
            observation[np.arange(self.num_envs), self.symbol] = 1
        observation[:, SYMBOLS] = self.time == self.delay + 1
        return observation


class Forgetful(LSTM):
    """Takes every observation for the first of an episode."""

    def forward(self, xs, state, episode_starts=None, report=(), donate=False):
        return super().forward(xs, state, torch.ones(xs.shape[:2], dtype=torch.bool), report, donate)


def best_score(make_core, updates, agent=A2C, delay=4, num_envs=64):
    """The largest share of symbols recalled, looked at after every 100 updates up to `updates` or to success.

    An update is on one episode of every member.
    """
    torch.manual_seed(0)
    envs, test_envs = Recall(num_envs, delay), Recall(num_envs, delay)
    policy = Policy(FlatEncoder((SYMBOLS + 1,)), make_core(SYMBOLS + 1), Categorical(SYMBOLS))
    learner = Learner(policy, agent(entropy_cost=0.05), OptimConfig(learning_rate=5e-3, max_grad_norm=1.0))
    stepper, state, generator = Stepper(envs, 0), policy.initial_state(num_envs), torch.Generator().manual_seed(0)
    best = 0.0
    while learner.updates < updates and best <= 0.95:
        for _ in range(100):
            rollout, state = collect(stepper, policy, state, delay + 3, generator)
            learner.update(rollout)
        score = evaluate(PolicyPlayer(policy, num_envs, seed=0, greedy=True), test_envs, 4 * num_envs, seed=1_000)
        best = max(best, score.mean)
    return best


def lstm(input_size):
    return LSTM(input_size, LSTM.Config(32))


def fwm(input_size):
    return FWM(input_size, FWM.Config(hidden_size=16, memory_size=8))


def forgetful(input_size):
    return Forgetful(input_size, LSTM.Config(32))


@pytest.mark.parametrize(("make_core", "agent"), [(lstm, A2C), (fwm, A2C), (lstm, IMPALA)])
def test_memory_recalls_the_first_symbol(make_core, agent):
    assert best_score(make_core, 800, agent) > 0.95


def test_without_memory_it_is_a_guess():
    assert best_score(forgetful, updates=300) < 1 / SYMBOLS + 0.1


def test_without_memory_a_question_that_shows_the_symbol_is_answered():
    assert best_score(forgetful, updates=800, delay=-1) > 0.95
