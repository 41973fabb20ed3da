"""GraphPOMDP: its graphs, its rules step by step, and what the authors' program did under the same actions."""

import hashlib
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engram.envs import make_vec
from engram.envs.graph_generators import generate_graphs, graph_hash, graph_table, is_primitive
from engram.envs.graph_rules import observe

GOLDEN = Path(__file__).parent / "golden" / "env_metarl__A.npz"
RING = np.array([[1, 2, -1], [2, 3, -1], [3, 4, -1], [4, 0, -1], [0, 1, -1]], np.int8)  # action 2 is invalid
S, A = RING.shape


def scripted(goal, agent, graph=RING, **options):
    """One member at a chosen place of a chosen graph."""
    envs = make_vec("graph-pomdp", 1, **options)
    envs.reset(seed=0)
    envs.graphs[0] = graph
    envs.members["goal"], envs.members["agent"] = goal, agent
    return envs


def places(observation):
    """Goal and agent."""
    return observation[0, :S].argmax(), observation[0, S : 2 * S].argmax()


def mean_shares(graphs):
    """Shares of states with 1, 2, 3 valid actions."""
    return np.bincount((graphs >= 0).sum(2).ravel(), minlength=4)[1:] / graphs[..., 0].size


# --- graphs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "sha256"),
    [
        ("test", "42237a9eb779e110b890f62ff891e0e83e56344d05fd1e8e9a0db0e4c05900b2"),
        ("train", "92dc8d611c8341a9924d47d68b33df0a2bbdd9fe976b3fcd09be24c9e2126cc3"),
    ],
)
def test_listing_makes_the_released_graphs(split, sha256):
    envs = make_vec("graph-pomdp", 600, preset="code", split=split)
    envs.reset(seed=0)
    assert hashlib.sha256(envs.graphs.tobytes()).hexdigest() == sha256


@settings(max_examples=30, deadline=None)
@given(
    num_states=st.integers(3, 64),
    num_actions=st.integers(2, 6),
    split=st.sampled_from(["train", "test", "valid"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_graphs_are_playable(num_states, num_actions, split, seed):
    assume(num_states > 3 or num_actions > 2)  # such graphs are too few, see test_too_few_graphs
    for graph in graph_table("engram", split, 2, num_states, num_actions, seed):
        valid = graph >= 0
        assert valid.sum() == 2 * num_states
        assert valid.any(1).all()
        assert (graph < num_states).all()
        assert (graph != np.arange(num_states)[:, None]).all()
        steps = (graph[:, :, None] == np.arange(num_states)).any(1)
        power = np.linalg.matrix_power(steps.astype(object), (num_states - 1) ** 2 + 1) if num_states < 8 else None
        assert power is None or (power > 0).all()
        assert is_primitive(graph)


def test_primitive_means_every_length_works():
    ring = np.array([[1], [2], [0]], np.int8)  # connected, but only lengths of one remainder lead from state to state
    assert not is_primitive(ring)
    assert is_primitive(RING)
    assert not is_primitive(np.array([[1, 1], [0, 0], [0, 1]], np.int8))  # nothing leads to state 2


@pytest.mark.parametrize("generator", ["engram", "listing"])
def test_distribution_of_graphs(generator):
    graphs = np.concatenate([graph_table(generator, split, 600, 5, 3, 666) for split in ("train", "test")])
    assert mean_shares(graphs) == pytest.approx([0.22, 0.56, 0.22], abs=0.02)
    distance = np.where((graphs[:, :, :, None] == np.arange(5)).any(2), 1, 9)
    for middle in range(5):
        distance = np.minimum(distance, distance[:, :, middle, None] + distance[:, None, middle, :])
    distance = distance[:, ~np.eye(5, dtype=bool)]
    assert distance.max() == 4
    assert distance.mean() == pytest.approx(1.75, abs=0.03)


def canonical(graphs):
    """Smallest relabelling of each graph, as bytes."""
    forms = []
    for states in permutations(range(5)):
        renamed = np.append(np.argsort(states), -1)[graphs[:, states]]  # -1 stays -1
        forms += [renamed[:, :, actions].reshape(len(graphs), -1) for actions in permutations(range(3))]
    base = np.array(forms) + 1
    codes = base @ (6 ** np.arange(15))
    return set(codes.min(0).tolist())


def test_splits_share_no_graph_however_relabelled():
    train, test, valid = (canonical(graph_table("engram", split, 600, 5, 3, 0)) for split in ("train", "test", "valid"))
    assert train
    assert not train & test
    assert not train & valid
    assert not test & valid
    assert not test & canonical(graph_table("engram", "train", 2000, 5, 3, 1))


def test_listing_splits_are_disjoint():
    splits = [graph_table("listing", split, 600, 5, 3, 1) for split in ("test", "train", "valid")]
    keys = [{graph.tobytes() for graph in graphs} for graphs in splits]
    assert not keys[0] & keys[1]
    assert not keys[2] & (keys[0] | keys[1])


@settings(deadline=None)  # the first call compiles
@given(st.permutations(range(5)), st.permutations(range(3)), st.integers(0, 599))
def test_hash_ignores_labels(states, actions, level_id):
    graph = graph_table("engram", "train", 600, 5, 3, 0)[level_id]
    renamed = np.append(np.argsort(states), -1).astype(np.int8)[graph[states]][:, actions]
    assert graph_hash(np.ascontiguousarray(renamed)) == graph_hash(graph)


@pytest.mark.parametrize("num_levels", [600, None])
def test_level_is_the_same_in_another_process_and_for_any_num_envs(num_levels):
    envs = make_vec("graph-pomdp", 7, num_levels=num_levels, level_sampling="uniform")
    envs.reset(seed=0, options={"level_ids": np.array([5, -1, 3, -1, 500, 5, 599])})
    code = (
        f"from engram.envs import make_vec; envs = make_vec('graph-pomdp', 2, num_levels={num_levels}); "
        "envs.reset(seed=9, options={'level_ids': [500, 5]}); print(envs.graphs.tobytes().hex())"
    )
    root = Path(__file__).parents[1]
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, cwd=root).stdout
    assert other.strip() == envs.graphs[[4, 0]].tobytes().hex()
    np.testing.assert_array_equal(envs.graphs[0], envs.graphs[5])


def test_reset_takes_levels_of_another_split_once():
    envs = make_vec("graph-pomdp", 4, num_levels=4, episode_length=1)
    test = graph_table("engram", "test", 4, 5, 3, 0)
    train = graph_table("engram", "train", 4, 5, 3, 0)
    envs.reset(seed=0, options={"split": "test"})
    np.testing.assert_array_equal(envs.graphs, test)
    for _ in range(2):
        envs.step(np.zeros(4, int))
    np.testing.assert_array_equal(envs.graphs, train)


def test_level_sampling():
    fixed = make_vec("graph-pomdp", 5, num_levels=3, episode_length=1)
    _, info = fixed.reset(seed=0)
    assert info["level_id"].tolist() == [0, 1, 2, 0, 1]
    uniform = make_vec("graph-pomdp", 300, num_levels=3, level_sampling="uniform")
    assert np.bincount(uniform.reset(seed=0)[1]["level_id"]).min() > 70
    infinite = make_vec("graph-pomdp", 300, num_levels=None)
    assert len(set(infinite.reset(seed=0)[1]["level_id"].tolist())) == 300


# --- rules ----------------------------------------------------------------------------------------------------------


def test_first_observation():
    observation, _ = make_vec("graph-pomdp", 50).reset(seed=0)
    assert observation.shape == (50, 17)
    assert observation.dtype == np.float32
    assert (observation[:, [10, 14]] == 1).all()
    assert (observation[:, [11, 12, 13, 15, 16]] == 0).all()
    assert (observation[:, :5].sum(1) == 1).all()
    assert (observation[:, 5:10].sum(1) == 1).all()


def test_invalid_action_costs_and_stays():
    envs = scripted(goal=4, agent=0)
    observation, rewards, _, _, info = envs.step([2])
    assert places(observation) == (4, 0)
    assert rewards[0] == np.float32(-0.05)
    assert observation[0, 10:14].tolist() == [0, 0, 0, 1]
    assert observation[0, 15] == pytest.approx(1 / 30)
    assert observation[0, 16] == pytest.approx(-0.005)
    assert info["invalid_action"][0]


def test_success_pays_and_relocates():
    for seed in range(20):
        envs = scripted(goal=2, agent=0)
        envs.members["rng"] = seed
        observation, rewards, terminated, _, info = envs.step([1])
        goal, agent = places(observation)
        assert rewards[0] == 10
        assert goal not in (2, agent)
        assert observation[0, 10:14].tolist() == [0, 0, 1, 0]
        assert observation[0, 16] == 1
        assert info["goal_reached"][0]
        assert info["num_goals"][0] == 1
        assert not terminated[0]


@pytest.mark.parametrize(("reset_after", "limit"), [(None, 6), (3, 3)])
def test_timeout_after_unsuccessful_steps(reset_after, limit):
    envs = scripted(goal=4, agent=0, reset_after=reset_after)
    for step in range(1, limit + 1):
        observation, _, _, _, info = envs.step([2])
        assert info["timeout"][0] == (step == limit)
    goal, agent = places(observation)
    assert goal not in (4, agent)
    assert observation[0, 10:14].tolist() == [1, 0, 0, 0]
    assert envs.members["timer"][0] == 0


@pytest.mark.parametrize(("rules", "limit"), [("paper", 6), ("code", 3)])
def test_timer_across_a_success(rules, limit):
    envs = scripted(goal=2, agent=0, rules=rules)
    for _ in range(3):
        envs.step([2])
    *_, info = envs.step([1])
    assert info["goal_reached"][0]
    steps = 0
    while not info["timeout"][0]:
        *_, info = envs.step([2])
        steps += 1
    assert steps == limit


def test_moves_count_towards_the_timer():
    envs = scripted(goal=4, agent=0)
    envs.graphs[0] = [[1, 1, 1], [0, 0, 0], [3, 3, 3], [2, 2, 2], [0, 0, 0]]  # the goal is out of reach
    timeouts = [bool(envs.step([step % 3])[4]["timeout"][0]) for step in range(6)]
    assert timeouts == [False] * 5 + [True]


def test_episode_terminates_at_its_length():
    envs = make_vec("graph-pomdp", 3, episode_length=7)
    envs.reset(seed=0)
    for step in range(1, 8):
        observation, _, terminated, truncated, _ = envs.step([0, 1, 2])
        assert terminated.all() == (step == 7)
        assert not truncated.any()
    assert (observation[:, 15] == 1).all()
    observation, rewards, terminated, _, info = envs.step([0, 1, 2])
    assert (observation[:, 15] == 0).all()
    assert not rewards.any()
    assert not terminated.any()
    assert not info["num_goals"].any()


def test_goal_and_agent_never_meet():
    envs = make_vec("graph-pomdp", 100)
    observation, _ = envs.reset(seed=0)
    for actions in np.random.default_rng(0).integers(0, 3, (62, 100)):
        observation, *_ = envs.step(actions)
        assert (observation[:, :5].argmax(1) != observation[:, 5:10].argmax(1)).all()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [-0.005, 0.995, 0.99]),
        ({"reward_obs_scale": 1.0}, [-0.05, 9.95, 9.9]),
        ({"reward_obs": "last"}, [-0.005, 1, -0.005]),
        ({"reward_obs": "zero"}, [0, 0, 0]),
    ],
)
def test_reward_input(options, expected):
    envs = scripted(goal=2, agent=0, **options)
    assert [envs.step([action])[0][0, 16] for action in (2, 1, 2)] == pytest.approx(expected)


def test_shared_none_slot():
    envs = scripted(goal=2, agent=0, none_action_slot="shared")
    assert envs.reset()[0][0, 10:15].tolist() == [0, 0, 0, 0, 1]
    assert envs.step([1])[0][0, 10:15].tolist() == [0, 0, 1, 0, 1]


def test_the_released_program_replayed():
    """Rewards, inputs, timer and moves of a run of the authors' program; only where it relocates is taken from it."""
    run = np.load(GOLDEN)
    length, num_envs = run["action"].shape
    envs = make_vec("graph-pomdp", num_envs, preset="code")
    envs.reset(seed=0)
    edges = run["graph"].transpose(0, 2, 1, 3)  # [member, from, action, to]
    envs.graphs[:] = np.where(edges.any(3), edges.argmax(3), -1)
    members = envs.members
    relocated = np.ones(num_envs, bool)
    for step in range(length):
        for field in ("goal", "agent"):
            np.testing.assert_array_equal(members[field][~relocated], run[field][step][~relocated])
        np.testing.assert_array_equal(members["timer"], run["timer_before_step"][step])
        last_action = np.where(run["last_action"][step] == 3, -1, run["last_action"][step])
        np.testing.assert_array_equal(members["last_action"], last_action)
        members["goal"], members["agent"] = run["goal"][step], run["agent"][step]
        row = np.empty(17, np.float32)
        for slot in range(num_envs):
            observe(members[slot], 5, 3, envs.rules, row)
            np.testing.assert_allclose(row, run["inputs"][step, slot], rtol=1e-6)
        _, rewards, terminated, _, info = envs.step(run["action"][step])
        relocated = info["goal_reached"] | info["timeout"]
        np.testing.assert_array_equal(rewards, run["reward"][step])
    assert terminated.all()
    assert members["num_goals"].sum() == 50


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_states": 2}, "num_states must be an integer in 3..64; got 2"),
        ({"num_states": 5.0}, "num_states must be an integer in 3..64; got 5.0"),
        ({"num_states": "5"}, "num_states must be an integer in 3..64; got '5'"),
        ({"num_actions": 1}, "num_actions must be an integer in 2..64; got 1"),
        ({"episode_length": 0}, "episode_length must be an integer at least 1; got 0"),
        ({"reset_after": 0}, "reset_after must be an integer at least 1; got 0"),
        ({"reward": 0}, "reward must be a number above 0; got 0"),
        ({"penalty": -1}, "penalty must be a number at least 0; got -1"),
        ({"penalty": float("nan")}, "penalty must be a number at least 0; got nan"),
        ({"reward_obs_scale": 0}, "reward_obs_scale must be a number above 0; got 0"),
        ({"rules": "papers"}, "rules must be one of 'paper', 'code'; got 'papers'"),
        ({"reward_obs": "mean"}, "reward_obs must be one of 'sum', 'last', 'zero'; got 'mean'"),
        ({"none_action_slot": "own"}, "none_action_slot must be one of 'separate', 'shared'; got 'own'"),
        ({"split": "dev"}, "split must be one of 'train', 'test', 'valid'; got 'dev'"),
        ({"num_levels": 0}, "num_levels must be an integer in 1..2147483648; got 0"),
        ({"level_base_seed": -1}, "level_base_seed must be an integer in 0..4294967295; got -1"),
        ({"level_sampling": "random"}, "level_sampling must be one of 'fixed', 'uniform'; got 'random'"),
        ({"generator": "listings"}, "generator must be one of 'engram', 'listing'; got 'listings'"),
        ({"generator": "listing", "num_levels": None}, "needs a finite num_levels; got None"),
        ({"preset": "paper"}, "preset must be one of None, 'code'; got 'paper'"),
        ({"n_states": 5}, "graph-pomdp has no option 'n_states'; did you mean num_states"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        make_vec("graph-pomdp", 2, **options)


def test_too_few_graphs():
    with pytest.raises(ValueError, match="num_states=3, num_actions=2 leave no graph for split 'test'"):
        make_vec("graph-pomdp", 1, num_states=3, num_actions=2, split="test")


def test_disabled_autoreset_waits():
    envs = make_vec("graph-pomdp", 2, episode_length=1, autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=0)
    envs.step([0, 0])
    _, info = envs.reset(options={"reset_mask": np.ones(2, bool), "level_ids": [7, 8]})
    assert info["level_id"].tolist() == [7, 8]


def test_levels_do_not_depend_on_what_else_is_made():
    """Thousands of them, so that a stream whose memory is used again while it is read would show."""
    together = generate_graphs("train", np.arange(5000), 5, 3, 0)
    backwards = generate_graphs("train", np.arange(5000)[::-1].copy(), 5, 3, 0)[::-1]
    np.testing.assert_array_equal(together, backwards)
