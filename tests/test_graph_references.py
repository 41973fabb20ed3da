"""The reference policies of GraphPOMDP reach the returns they are known to reach."""

from types import SimpleNamespace

import numpy as np
import pytest

from engram.envs import make_vec, reference_policies
from engram.envs.graph_references import GraphExplorer, GraphOracle, _plan_all

NUM_GRAPHS = 600
EPISODES = 10


def returns(make_policy, rules, episodes=EPISODES):
    """Episode returns [episodes * NUM_GRAPHS] on the test graphs of the released program."""
    options = {"generator": "listing", "level_base_seed": 666, "split": "test", "rules": rules}
    envs = make_vec("graph-pomdp", NUM_GRAPHS, **options)
    policy = make_policy(envs, seed=1)
    observation, _ = envs.reset(seed=1)
    starts = np.ones(NUM_GRAPHS, bool)
    total, finished = np.zeros(NUM_GRAPHS), []
    while len(finished) < episodes:
        observation, rewards, terminated, *_ = envs.step(policy(observation, starts))
        starts = np.zeros(NUM_GRAPHS, bool)
        total += rewards
        if terminated.all():  # all episodes are equally long
            finished.append(total.copy())
            total[:] = 0
            observation, *_ = envs.step(np.zeros(NUM_GRAPHS, int))
            starts = np.ones(NUM_GRAPHS, bool)
    return np.concatenate(finished)


class ToldExplorer(GraphExplorer):
    """The explorer, also told where an action led when a timeout hid it from the observation."""

    def __call__(self, observation, episode_starts):
        (agents, _), actions = self._places, self.actions.copy()
        super().__call__(observation, episode_starts)
        played = np.flatnonzero(~episode_starts)
        tried = played, agents[played], actions[played]
        self._known[tried] = self.env.graphs[tried]
        _plan_all(self._streams, self._known, *self._places, self.untried_cost, self.actions)
        return self.actions.copy()


@pytest.mark.parametrize(
    ("name", "rules", "expected"),
    [  # means of 30,000 episodes, most of them from a second implementation
        ("random", "paper", 44.49),
        ("random", "code", 45.36),
        ("explorer", "paper", 120.01),
        ("explorer", "code", 117.12),
        ("told", "paper", 121.09),
        ("told", "code", 119.27),
        ("greedy", "paper", 171.04),
        ("greedy", "code", 166.25),
        ("oracle", "paper", 171.02),
        ("oracle", "code", 166.20),
    ],
)
def test_mean_return(name, rules, expected):
    policies = reference_policies("graph-pomdp") | {"told": ToldExplorer}
    sample = returns(policies[name], rules)
    standard_error = sample.std() / len(sample) ** 0.5
    assert sample.mean() == pytest.approx(expected, abs=3 * np.hypot(standard_error, 0.14))


def test_oracle_reaches_the_value_it_computes():
    envs = make_vec("graph-pomdp", NUM_GRAPHS)
    oracle = GraphOracle(envs, seed=0)
    totals = np.zeros(NUM_GRAPHS)
    observation, _ = envs.reset(seed=0)
    oracle(observation, np.ones(NUM_GRAPHS, bool))
    expected = oracle.values[np.arange(NUM_GRAPHS), envs.members["goal"], envs.members["agent"]]
    terminated = np.zeros(NUM_GRAPHS, bool)
    while not terminated.all():
        observation, rewards, terminated, *_ = envs.step(oracle(observation, terminated))
        totals += rewards
    error = totals - expected
    assert error.mean() == pytest.approx(0, abs=3 * error.std() / NUM_GRAPHS**0.5)


def test_explorer_sees_observations_only():
    envs = make_vec("graph-pomdp", 20)
    blind = SimpleNamespace(
        unwrapped=SimpleNamespace(graphs=np.full_like(envs.graphs, -1), rules=envs.rules, members=None)
    )
    policy, blind_policy = GraphExplorer(envs, seed=3), GraphExplorer(blind, seed=3)
    observation, _ = envs.reset(seed=0)
    starts = np.ones(20, bool)
    for _ in range(30):
        actions = policy(observation, starts)
        np.testing.assert_array_equal(actions, blind_policy(observation, starts))
        observation, *_ = envs.step(actions)
        starts = np.zeros(20, bool)


def test_greedy_takes_a_shortest_path():
    envs = make_vec("graph-pomdp", 1, reset_after=30)
    envs.reset(seed=0)
    envs.graphs[0] = [[1, 2, -1], [2, 3, -1], [3, 4, -1], [4, 0, -1], [0, 1, -1]]
    envs.members["goal"], envs.members["agent"] = 4, 0
    policy = reference_policies("graph-pomdp")["greedy"](envs, seed=0)
    observation = np.zeros((1, 17), np.float32)
    observation[0, [4, 5]] = 1
    actions = policy(observation, np.zeros(1, bool))
    assert actions.tolist() == [1]  # 0 -> 2 -> 4
