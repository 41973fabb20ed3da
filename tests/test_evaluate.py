"""Evaluations: a fixed number of episodes of each member, the same ones for every policy."""

import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from engram.agents.evaluate import FIRST_SEED, MAX_MEMBERS, PolicyPlayer, ReferencePlayer, Score, evaluate, members
from engram.envs import make_vec, reference_policies
from engram.policies import Inputs, core_config, make_policy


class Paying(gymnasium.Env):
    """Pays 1 a step; seed s of an evaluation makes every episode last 1 + s % 5 steps; 4 and 5 are a success."""

    observation_space, action_space = Box(0, 10, (1,)), Discrete(2)

    def __init__(self, says_success: bool = False):
        self.says_success = says_success

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.length = 1 + (seed - FIRST_SEED) % 5
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        ended = self.time == self.length
        said = {"is_success": self.length > 3} if ended and self.says_success else {}
        return np.full(1, self.time, np.float32), 1.0, ended, False, said


gymnasium.register("Paying-v0", Paying)


def graphs(num_envs=6, **options):
    return make_vec("graph-pomdp", num_envs, **{"episode_length": 8, "num_levels": None, "split": "test"} | options)


def a_policy(envs, core="lstm"):
    torch.manual_seed(0)
    return make_policy(core_config(core), envs, last_action=True, last_reward=True)


@pytest.mark.parametrize(
    ("episodes", "num_levels", "num_envs", "expected"),
    [
        (600, 600, 64, 600),
        (410, 41, 128, 128),
        (100, 41, 128, 100),
        (100, None, 8, 8),
        (100, math.inf, 8, 100),
        (5000, math.inf, 8, MAX_MEMBERS),
    ],
)
def test_members_are_one_for_each_level_or_as_many_as_in_training(episodes, num_levels, num_envs, expected):
    assert members(episodes, num_levels, num_envs) == expected


@pytest.mark.parametrize(
    ("episodes", "returns"),
    [(3, [1, 2, 3]), (7, [1, 2, 3, 4, 5, 1, 2]), (2, [1, 2]), (9, [1, 2, 3, 4, 5, 1, 2, 3, 4])],
)
def test_episode_k_is_that_of_seed_plus_k(episodes, returns):
    envs = make_vec("Paying-v0", 3)
    score = evaluate(lambda inputs: torch.zeros(3, dtype=torch.int64), envs, episodes, seed=10)
    assert score.returns.tolist() == returns
    assert score.success_rate is None, "the environment does not say"


def test_successes_are_those_of_the_same_episodes():
    envs = make_vec("Paying-v0", 3, says_success=True)
    score = evaluate(lambda inputs: torch.zeros(3, dtype=torch.int64), envs, 9, seed=10)
    assert score.is_success.tolist() == [length > 3 for length in score.returns]
    assert score.success_rate == 3 / 9


def test_a_score_is_a_mean_and_its_standard_error():
    score = Score(np.array([1.0, 2.0, 6.0]), np.array([1.0, 0.0, 0.0]))
    assert score.mean == 3
    assert score.standard_error == pytest.approx(np.sqrt(7 / 3))  # the variance over episodes is (4 + 1 + 9) / 2
    assert score.success_rate == pytest.approx(1 / 3)
    single = Score(np.array([5.0]), np.array([np.nan]))
    assert (single.standard_error, single.success_rate) == (None, None)


@pytest.mark.parametrize("core", ["lstm", "fwm"])
def test_one_seed_one_score(core):
    envs = graphs()
    policy = a_policy(envs, core)

    def returns(of_actions=1, of_episodes=1, greedy=False):
        actor = PolicyPlayer(policy, envs.num_envs, of_actions, greedy)
        return evaluate(actor, envs, 12, of_episodes).returns.tolist()

    assert returns() == returns()
    assert returns(of_actions=2) != returns()
    assert returns(of_episodes=2) != returns()
    assert returns(greedy=True) == returns(of_actions=2, greedy=True) != returns()


@pytest.mark.parametrize(
    "options", [{"num_levels": 4}, {}, {"num_levels": 20, "level_sampling": "uniform"}], ids=["fixed", "all", "uniform"]
)
def test_all_policies_play_the_same_levels_from_the_same_starts(options):
    envs = graphs(**options)

    def watched(actor, levels):
        def act(inputs):
            for member in np.flatnonzero(inputs.episode_starts):
                start = envs.unwrapped.members[member]
                levels[member].append((int(start["level_id"]), int(start["agent"]), int(start["goal"])))
            return actor(inputs)

        return act

    actors = {name: ReferencePlayer(policy(envs, 4)) for name, policy in reference_policies("graph-pomdp").items()}
    actors["agent"] = PolicyPlayer(a_policy(envs), envs.num_envs, 4)
    seen = {}
    for name, actor in actors.items():
        seen[name] = [[] for _ in range(envs.num_envs)]
        evaluate(watched(actor, seen[name]), envs, 3 * envs.num_envs, seed=4)
    assert [len(levels) for levels in seen["agent"]] == [3] * envs.num_envs
    assert len({start for starts in seen["agent"] for start in starts}) > 1
    assert all(levels == seen["agent"] for levels in seen.values())


@pytest.mark.parametrize("core", ["lstm", "fwm"])
def test_acting_is_the_forward_pass_of_training(core):
    envs = graphs()
    policy, seen, actions = a_policy(envs, core), [], []
    actor = PolicyPlayer(policy, envs.num_envs, seed=0, greedy=True)

    def watched(inputs):
        seen.append(inputs)
        actions.append(actor(inputs))
        return actions[-1]

    evaluate(watched, envs, 12, seed=0)
    inputs = Inputs(*(torch.stack(leaves) for leaves in zip(*seen, strict=True)))
    assert inputs.episode_starts.sum() == 12, "a state is reset on the way"
    output, _ = policy(inputs, policy.initial_state(envs.num_envs))
    assert torch.equal(output.policy_logits.argmax(-1), torch.stack(actions))


def test_evaluating_draws_nothing_from_the_global_generators():
    envs = graphs()
    policy = a_policy(envs)
    before = torch.get_rng_state()
    evaluate(PolicyPlayer(policy, envs.num_envs, seed=0), envs, 6, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in policy.parameters())


def test_an_evaluation_can_be_abandoned():
    envs, answers = make_vec("Paying-v0", 3), iter([False] * 5 + [True])
    assert (
        evaluate(lambda inputs: torch.zeros(3, dtype=torch.int64), envs, 300, 0, stopped=lambda: next(answers)) is None
    )
    assert next(answers, None) is None, "it goes on until it is told"


def test_every_level_is_played_as_often():
    envs = graphs(num_envs=4, num_levels=6)
    seen = []

    def watched(inputs):
        starts = np.flatnonzero(inputs.episode_starts)
        if len(starts) == envs.num_envs and envs.unwrapped.members["time"].max() == 0:
            seen.extend(envs.unwrapped.members["level_id"].tolist())
        return torch.zeros(4, dtype=torch.int64)

    evaluate(watched, envs, 12, seed=0, num_levels=6)
    assert seen == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]
