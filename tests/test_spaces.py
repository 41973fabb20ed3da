"""Runs, end to end, whatever the spaces of the environment: rollouts keep its types, runs go on, policies learn."""

import json
import shutil
import signal
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate

import eval_rl
import train_rl
from engram import envs as engram_envs
from engram.agents import actors
from engram.agents.evaluate import PolicyPlayer, ReferencePlayer, evaluate
from engram.agents.rollout import collect
from engram.agents.stepper import Stepper
from engram.envs import make_vec
from engram.envs.references import RandomPolicy
from engram.policies import LSTM, make_policy
from engram.policies.tree import tree_map
from engram.run import load_checkpoint

SMALL = (
    "--core lstm --core.hidden-size 8 --env.num-envs 4 --unroll-length 9 --minibatches 2 --log-interval 3"
    " --eval-interval 100 --eval-episodes 4 --save-minutes 0 --total-steps 300"
)


class Drawn(VectorEnv):
    """Observations drawn from any space, episodes of 5 steps; takes nothing but actions of its space, pays their sum.

    It can save its state: a seed and a time that all members share.
    """

    def __init__(self, observation_space, action_space, num_envs):
        self.num_envs, self.metadata = num_envs, {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)

    def reset(self, *, seed=None, options=None):
        self.seed, self.time = seed, 0
        return self._observation(), {}

    def step(self, actions):
        taken = list(iterate(self.action_space, actions))
        assert all(self.single_action_space.contains(action) for action in taken), taken
        self.time += 1
        none = np.zeros(self.num_envs, bool)
        if self.time % 6 == 0:  # this step only resets
            return self._observation(), np.zeros(self.num_envs), none, none, {}
        return self._observation(), np.array([np.sum(a) for a in taken], float), none | (self.time % 6 == 5), none, {}

    def state_dict(self):
        return {"seed": self.seed, "time": self.time}

    def load_state_dict(self, state):
        self.seed, self.time = state["seed"], state["time"]

    def _observation(self):
        self.observation_space.seed(self.seed + self.time)
        return self.observation_space.sample()


VIEW = Box(0, 255, (5, 5, 3), np.uint8)
SPACES = {
    "image": (VIEW, Discrete(3, start=1)),
    "reals": (Box(-1, 1, (2,)), Box(-2, 3, (2,))),
    "named": (Dict(view=VIEW, far=Dict(place=Box(-1, 1, (2,)), alarm=MultiBinary(2))), Box(-np.inf, np.inf, (2, 2))),
    "choices": (MultiDiscrete([2, 3]), MultiDiscrete([[2, 3]], start=[[0, -1]])),
    "number": (Discrete(4, start=2), Discrete(2)),
}


@pytest.fixture(params=SPACES)
def spaces(request):
    return SPACES[request.param]


def leaves(tree):
    """(dtype, shape) of every leaf of a tree."""
    found = []
    tree_map(lambda leaf: found.append((str(leaf.dtype).removeprefix("torch."), tuple(leaf.shape))), tree)
    return found


def test_a_rollout_holds_what_the_environment_returns(spaces):
    T, B = 8, 4
    envs = Drawn(*spaces, B)
    torch.manual_seed(0)
    policy = make_policy(LSTM.Config(8), envs, last_action=True, last_reward=True)
    rollout, _ = collect(Stepper(envs, 3), policy, policy.initial_state(B), T, torch.Generator().manual_seed(0))
    assert leaves(rollout.inputs.observation) == [
        (dtype, (T + 1, *shape)) for dtype, shape in leaves(envs.observation_space.sample())
    ]
    twin = Drawn(*spaces, B)
    observation, _ = twin.reset(seed=3)
    for t in range(T):
        tree_map(
            np.testing.assert_array_equal, tree_map(lambda leaf, t=t: leaf[t], rollout.inputs.observation), observation
        )
        action = policy.actions.to_env(rollout.action[t])
        np.testing.assert_array_equal(rollout.inputs.last_action[t + 1], action if t != 5 else np.zeros_like(action))
        assert rollout.inputs.last_action.numpy().dtype == spaces[1].dtype
        observation, reward, _, _, _ = twin.step(action.numpy())
        np.testing.assert_array_equal(rollout.reward[t], reward.astype(np.float32))

    output, _ = policy(rollout.inputs, rollout.initial_state)
    torch.testing.assert_close(output.policy_logits[:-1], rollout.behaviour_logits)
    parts = rollout.split(3)
    joined = tree_map(lambda *parts: torch.cat(parts, 1), *(part.inputs for part in parts))
    tree_map(np.testing.assert_array_equal, joined, rollout.inputs)


def test_greedy_actions_are_the_likeliest(spaces):
    envs = Drawn(*spaces, 4)
    torch.manual_seed(0)
    policy, inputs = make_policy(LSTM.Config(8), envs), Stepper(envs, seed=0).inputs
    output, _ = policy(tree_map(lambda leaf: leaf[None], inputs), policy.initial_state(4))
    likeliest = policy.actions.to_env(policy.actions.mode(output.policy_logits[0].detach()))
    drawn = [PolicyPlayer(policy, 4, seed)(inputs) for seed in range(20)]
    assert torch.equal(PolicyPlayer(policy, 4, seed=0, greedy=True)(inputs), likeliest)
    assert any(not torch.equal(action, likeliest) for action in drawn)


def test_a_reference_policy_sees_arrays(spaces):
    envs, seen = Drawn(*spaces, 4), []
    random = RandomPolicy(envs, seed=0)

    def reference(observation, episode_starts):
        seen.append(observation)
        return random(observation, episode_starts)

    assert len(evaluate(ReferencePlayer(reference), envs, 8, seed=0).returns) == 8
    for observation in seen:
        assert leaves(observation) == leaves(envs.observation_space.sample())
        tree_map(lambda leaf: isinstance(leaf, np.ndarray) or pytest.fail("not an array"), observation)


# Runs


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(line, folder, monkeypatch, stop_in=None):
    """A run, or one that a SIGTERM stops in the midst of its n-th rollout."""
    done = []

    def interrupting(*args):
        done.append(None)
        if len(done) == stop_in:
            signal.raise_signal(signal.SIGTERM)
        return collect(*args)

    monkeypatch.setattr(actors, "collect", interrupting)
    return train_rl.main([*line.split(), "--folder", folder])


def outcome(folder):
    """All metrics of a run, and all weights at its end."""
    lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    weights = load_checkpoint(folder)[1]["learner"]["policy"]
    return [line | {"wall_time": None} for line in lines], {name: w.tolist() for name, w in weights.items()}


def test_a_run_that_is_stopped_and_resumed_is_the_same_run(spaces, monkeypatch):
    monkeypatch.setattr(engram_envs, "make_vec", lambda name, num_envs: Drawn(*spaces, num_envs))
    line = f"--env drawn {SMALL} --policy.last-action True --policy.last-reward"
    assert train(line, "whole", monkeypatch) == 0
    assert train(line, "cut", monkeypatch, stop_in=4) == 143
    assert train_rl.main(["--resume", "cut"]) == 0
    assert outcome("cut") == outcome("whole")
    assert load_checkpoint("cut")[0] >= 300
    for greedy in ("", " --greedy"):
        assert eval_rl.main(f"cut --episodes 8{greedy}".split()) == 0


class Dots(gymnasium.Env):
    """A bright dot at the left or at the right of a picture; choosing its side pays 1."""

    observation_space, action_space = Box(0, 255, (5, 6, 3), np.uint8), Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._observation(), {}

    def step(self, action):
        self.time, reward = self.time + 1, float(action == self.side)
        return self._observation(), reward, self.time == 5, False, {}

    def _observation(self):
        self.side = self.np_random.integers(2)
        picture = np.zeros(self.observation_space.shape, np.uint8)
        picture[self.np_random.integers(5), 3 * self.side + self.np_random.integers(3)] = 255
        return picture


gymnasium.register("Dots-v0", Dots)


@pytest.mark.parametrize(
    "env", ["CartPole-v1", "Pendulum-v1", "Dots-v0", "Dots-v0 --policy.encoder impala", "FrozenLake-v1"]
)
def test_any_environment_is_trained_and_judged(env, monkeypatch, capsys):
    """Without a saved state of the environment, what a resumed run does depends on its checkpoint alone."""
    line = f"--env {env} {SMALL} --policy.last-action True"
    assert train(line, "cut", monkeypatch, stop_in=3) == 143
    shutil.copytree("cut", "again")
    for folder in ("cut", "again"):
        assert train_rl.main(["--resume", folder]) == 0
    metrics, weights = outcome("cut")
    assert (metrics, weights) == outcome("again")
    assert metrics[-1]["step"] >= 300
    for scores in ("first", "second"):
        assert eval_rl.main(f"cut --episodes 4 --greedy --json {scores}".split()) == 0
    assert Path("first").read_bytes() == Path("second").read_bytes()


# Learning


def best_score(line, monkeypatch):
    assert (
        train(f"{line} --optim.max-grad-norm 0.5 --agent.trace-decay 0.9 --eval-episodes 32", "run", monkeypatch) == 0
    )
    return max(line.get("test_return", -np.inf) for line in outcome("run")[0])


def random_score(env):
    envs = make_vec(env, 32)
    return evaluate(ReferencePlayer(RandomPolicy(envs, seed=0)), envs, 64, seed=0).mean


def test_a_picture_is_understood(monkeypatch):
    line = (
        "--env Dots-v0 --core mlp --core.hidden-size 32 --env.num-envs 32 --unroll-length 12 --agent.discount 0"
        " --optim.learning-rate 3e-3 --total-steps 10000 --eval-interval 2000"
    )
    assert best_score(line, monkeypatch) > 4 > 1.5 * random_score("Dots-v0")


@pytest.mark.slow
def test_a_pole_is_balanced(monkeypatch):
    line = (
        "--env CartPole-v1 --core mlp --env.num-envs 16 --unroll-length 16 --agent.reward-scale 0.05"
        " --optim.learning-rate 2e-3 --total-steps 150000 --eval-interval 25000"
    )
    assert best_score(line, monkeypatch) > 200 > 5 * random_score("CartPole-v1")


@pytest.mark.slow
def test_a_pendulum_is_swung_up(monkeypatch):
    line = (
        "--env Pendulum-v1 --core mlp --env.num-envs 32 --unroll-length 16 --agent.discount 0.9"
        " --agent.reward-scale 0.1 --agent.entropy-cost 0 --optim.learning-rate 2e-3"
        " --total-steps 300000 --eval-interval 50000"
    )
    assert best_score(line, monkeypatch) > -800 > 300 + random_score("Pendulum-v1")
