"""The reference policies of GridMaze reach the returns they are known to reach."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

from engram.envs import make_vec, reference_policies
from engram.envs.maze_references import MazeExplorer, MazeOracle
from engram.envs.references import PlanTooLarge

SETTINGS = {"2018": {}, "2019": {"rules": "2019"}, "2019, 13 x 13": {"rules": "2019", "size": 13}}
CENTRE = 20  # number of the cell
NUM_GOALS = {"2018": 41, "2019": 40, "2019, 13 x 13": 96}


def returns(make_policy, setting, episodes):
    """Episode returns [rounds, goal, copy], at least `episodes` in all and as many for every goal."""
    copies = 400 // NUM_GOALS[setting]
    goals = np.repeat(np.arange(NUM_GOALS[setting]), copies)
    envs = make_vec("maze", len(goals), **SETTINGS[setting])
    policy = make_policy(envs, seed=1)
    rounds = -(-episodes // len(goals))
    total = np.zeros((rounds, len(goals)))
    envs.reset(seed=1)
    for own in total:
        observation, _ = envs.reset(options={"level_ids": goals})
        starts, terminated = np.ones(len(goals), bool), np.zeros(len(goals), bool)
        while not terminated.all():  # all episodes are equally long
            observation, rewards, terminated, *_ = envs.step(policy(observation, starts))
            starts = np.zeros(len(goals), bool)
            own += rewards
    return total.reshape(rounds, NUM_GOALS[setting], copies)


class PlacedExplorer(MazeExplorer):
    """The explorer, told its cell: the number of the cell stands in the place of its view."""

    def __init__(self, env, seed):
        super().__init__(env, seed)
        self.members, self.views = env.members, env.maze.views
        self._map = (np.arange(len(self.views), dtype=np.float32), *self._map[1:])

    def __call__(self, observation, episode_starts):
        placed = observation.copy()
        placed[:, :9] = 0
        placed[:, 0] = self.members["position"]  # the first cell of a view counts 1
        return super().__call__(placed, episode_starts)


@pytest.mark.parametrize(
    ("name", "setting", "episodes", "expected", "error"),
    [  # exact, or of a second implementation with its standard error
        ("random", "2018", 6000, 9.474, 0.0),
        ("random", "2019", 6000, 14.370, 0.0),
        ("random", "2019, 13 x 13", 6000, 5.384, 0.0),
        ("explorer", "2018", 2000, 460.0, 1.1),
        ("explorer", "2019", 2000, 355.5, 1.0),
        ("placed", "2018", 2000, 489.5, 1.5),
        ("placed", "2019", 2000, 376.0, 1.2),
        ("placed", "2019, 13 x 13", 2000, 199.5, 1.1),
        ("oracle", "2018", 2000, 533.4, 0.0),
        ("oracle", "2019", 2000, 416.2, 0.0),
        ("oracle", "2019, 13 x 13", 2000, 269.6, 0.0),
    ],
)
def test_mean_return(name, setting, episodes, expected, error):
    policies = reference_policies("maze") | {"placed": PlacedExplorer}
    sample = returns(policies[name], setting, episodes)
    standard_error = (sample.var((0, 2)).mean() / sample.size) ** 0.5
    assert sample.mean() == pytest.approx(expected, abs=3 * np.hypot(standard_error, error))


def values_by_goal(num_goals, **options):
    """The oracle's values [goal, cell]."""
    envs = make_vec("maze", num_goals, **options)
    observation, _ = envs.reset(seed=0, options={"level_ids": np.arange(num_goals)})
    oracle = MazeOracle(envs, seed=0)
    oracle(observation, np.ones(num_goals, bool))
    return oracle.values


@pytest.mark.parametrize(
    ("setting", "mean", "low", "high"), [("2018", 533.4, 411.9, 670.1), ("2019", 416.2, None, None)]
)
def test_values_of_the_oracle(setting, mean, low, high):
    values = values_by_goal(NUM_GOALS[setting], **SETTINGS[setting])[:, CENTRE]
    assert values.mean() == pytest.approx(mean, abs=0.05)
    assert low is None or [values.min(), values.max()] == pytest.approx([low, high], abs=0.05)


@pytest.mark.parametrize("rules", ["2018", "2019"])
def test_values_are_those_of_a_plain_recursion(rules):
    options = {"size": 5, "rules": rules, "episode_length": 7, "wall_penalty": 0.5}
    ways = make_vec("maze", 1, **options).maze.successors.tolist()
    goals = [goal for goal in range(9) if rules == "2018" or goal != 4]

    @cache
    def value(goal, cell, left):
        if left == 0:
            return 0.0
        options = []
        for target in ways[cell]:
            penalty = 0.5 * (target == cell)
            if target == goal:
                put = [end for end in range(9) if rules == "2018" or end != goal]
                options.append(10 - penalty + sum(value(goal, end, left - 1) for end in put) / len(put))
            else:
                options.append(value(goal, target, left - 1) - penalty)
        return max(options)

    expected = [[value(goal, cell, 7) for cell in range(9)] for goal in goals]
    np.testing.assert_allclose(values_by_goal(len(goals), **options), expected)


def test_the_oracle_plans_for_the_goals_that_are_played():
    """In a maze where those for all goals together, with the steps of whole episodes, would take 12 GiB."""
    envs = make_vec("maze", 3, size=99, episode_length=5)
    oracle = MazeOracle(envs, seed=0)
    assert oracle._best.nbytes == 3 * 6 * len(envs.maze.cells)
    for seed in (0, 1):
        observation, info = envs.reset(seed=seed)
        oracle(observation, np.ones(3, bool))
        for values, goal in zip(oracle.values, info["goal"], strict=True):
            assert goal in envs.maze.successors[values.argmax()], "one step away is worth most"


@pytest.mark.parametrize("env", ["maze", "graph-pomdp"])
def test_a_plan_that_is_too_large_is_one_line(env):
    envs = make_vec(env, 1000, episode_length=10**6)
    sizes = "1000 x 1000001 x 41" if env == "maze" else "1000 x 1000001 x 5 x 5 x 6"
    with pytest.raises(PlanTooLarge, match=f"^a plan of {sizes} actions takes [0-9.]+ GiB, more than 2.0$"):
        reference_policies(env)["oracle"](envs, seed=0)


@pytest.mark.parametrize("rules", ["2018", "2019"])
def test_explorer_sees_observations_only_and_is_never_mistaken(rules):
    envs = make_vec("maze", 50, rules=rules)
    shown = {name: getattr(envs, name) for name in ("num_envs", "maze", "layout", "rules")}
    policy, blind_policy = (
        MazeExplorer(envs, seed=3),
        MazeExplorer(SimpleNamespace(unwrapped=SimpleNamespace(**shown)), 3),
    )
    observation, _ = envs.reset(seed=0)
    starts, ended = np.ones(50, bool), np.zeros(50, bool)
    for _ in range(400):  # beyond the end of an episode
        actions = policy(observation, starts)
        np.testing.assert_array_equal(actions, blind_policy(observation, starts))
        _, here, _, goals = policy._knowledge
        assert here[np.arange(50), envs.members["position"]].all()
        assert ((goals < 0) | (goals == envs.members["goal"])).all()
        observation, _, terminated, *_ = envs.step(actions)
        starts, ended = ended, terminated
    assert (goals >= 0).any()
