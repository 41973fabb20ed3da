"""What every environment of the registry promises."""

import io
import warnings
from inspect import Parameter
from itertools import pairwise

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from engram.envs import COMMON_OPTIONS, ENVS, env_options, make_vec, num_levels, reference_policies, vector_class

N = 5
STEPS = 300  # some episode ends within them


@pytest.fixture(params=ENVS)
def name(request):
    return request.param


def random_actions(envs, steps=STEPS):
    """Actions int64 [steps, N], the same for every environment of one action space."""
    return np.random.default_rng(0).integers(0, envs.single_action_space.n, (steps, envs.num_envs))


def play(envs, actions):
    """Results of step for each row of `actions`; episode starts are the rows after an end."""
    return [envs.step(row) for row in actions]


def assert_same(results, others):
    """Compare lists of (observation, reward, terminated, truncated, info)."""
    for result, other in zip(results, others, strict=True):
        for array, expected in zip(result[:4], other[:4], strict=True):
            np.testing.assert_array_equal(array, expected)
        assert result[4].keys() == other[4].keys()
        for key in result[4]:
            np.testing.assert_array_equal(result[4][key], other[4][key])


def single_reset_options(name, level_id):
    """A single environment is slot 0, so a level that goes by the slot has to be asked for."""
    options = env_options(name)
    by_slot = "level_sampling" in options and options["level_sampling"].default == "fixed"
    return {"level_id": level_id} if by_slot and options["num_levels"].default is not None else {}


def test_registration(name):
    spec = gymnasium.spec(ENVS[name][0])
    assert spec.max_episode_steps is None
    envs = gymnasium.make_vec(f"engram:{ENVS[name][0]}", num_envs=N)
    assert type(envs) is vector_class(name)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_gymnasium_check_env(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*not within the observation space.*|.*is different from the unwrapped.*")
        check_env(gymnasium.make(ENVS[name][0]).unwrapped)


def test_stable_baselines_check_env(name):
    pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.env_checker import check_env as check_sb3_env

    check_sb3_env(gymnasium.make(ENVS[name][0]))


def test_observations_in_space(name):
    envs = make_vec(name, 16)
    observation, _ = envs.reset(seed=0)
    assert observation in envs.observation_space
    for row in random_actions(envs, 625):
        observation, *_ = envs.step(row)
        assert observation in envs.observation_space


def test_same_seed_same_episode(name):
    first, second = make_vec(name, N), make_vec(name, N)
    actions = random_actions(first)
    np.testing.assert_array_equal(first.reset(seed=3)[0], second.reset(seed=3)[0])
    results = play(first, actions)
    assert_same(results, play(second, actions))
    first.reset(seed=4)
    assert any((a[0] != b[0]).any() for a, b in zip(results, play(first, actions), strict=True))


def test_member_plays_what_a_single_env_plays(name):
    envs = make_vec(name, N)
    actions = random_actions(envs)
    observation, info = envs.reset(seed=7)
    results = play(envs, actions)
    for slot in range(N):
        single = gymnasium.make(ENVS[name][0])
        options = single_reset_options(name, info["level_id"][slot])
        single_observation, single_info = single.reset(seed=7 + slot, options=options)
        np.testing.assert_array_equal(single_observation, observation[slot])
        assert single_info == {key: info[key][slot] for key in single_info}
        ended = False
        for row, (observations, rewards, terminated, truncated, infos) in zip(actions, results, strict=True):
            if ended:
                expected = (*single.reset(options=options), 0.0, False, False)
                single_observation, single_info, *rest = expected
            else:
                single_observation, *rest, single_info = single.step(row[slot])
            np.testing.assert_array_equal(single_observation, observations[slot])
            assert [rewards[slot], terminated[slot], truncated[slot]] == pytest.approx(rest)
            assert single_info == {key: infos[key][slot] for key in single_info}
            ended = rest[1] or rest[2]


def transcript(envs):
    """What each member goes through: a list of (observation, reward, terminated, truncated) per member."""
    automatic = envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    actions = random_actions(envs)
    observation, _ = envs.reset(seed=1)
    lived = [[(observation[slot], 0, False, False)] for slot in range(N)]
    played, ended = np.zeros(N, int), np.zeros(N, bool)
    for _ in range(STEPS):
        if ended.any() and not automatic:
            observation, _ = envs.reset(options={"reset_mask": ended})
            for slot in np.flatnonzero(ended):
                lived[slot].append((observation[slot], 0, False, False))
            ended = np.zeros(N, bool)
        result = envs.step(actions[played % STEPS, np.arange(N)])[:4]
        for slot in range(N):
            lived[slot].append(tuple(part[slot] for part in result))
        played += ~ended
        ended = result[2] | result[3]
    return lived


def test_next_step_equals_disabled_with_masks(name):
    automatic = transcript(make_vec(name, N))
    manual = transcript(make_vec(name, N, autoreset_mode=AutoresetMode.DISABLED))
    for one, other in zip(automatic, manual, strict=True):
        assert any(terminated or truncated for *_, terminated, truncated in one)
        for (observation, *rest), (expected, *expected_rest) in zip(one, other, strict=False):
            np.testing.assert_array_equal(observation, expected)
            assert rest == expected_rest


def test_reset_mask_touches_only_its_members(name):
    envs = make_vec(name, N, autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=0)
    before = play(envs, random_actions(envs, 3))[-1][0]
    state = envs.state_dict()
    mask = np.arange(N) % 2 == 0
    observation, info = envs.reset(seed=50, options={"reset_mask": mask})
    np.testing.assert_array_equal(observation[~mask], before[~mask])
    after = envs.state_dict()
    for field in state:
        if state[field].shape[:1] == (N,):
            np.testing.assert_array_equal(after[field][~mask], state[field][~mask])
    fresh, fresh_info = make_vec(name, N).reset(seed=50)
    np.testing.assert_array_equal(observation[mask], fresh[mask])
    assert info.keys() == fresh_info.keys()


def test_seed_per_member(name):
    envs = make_vec(name, N)
    expected, _ = envs.reset(seed=10)
    observation, _ = envs.reset(seed=[10, 11, 12, 13, 14])
    np.testing.assert_array_equal(observation, expected)


def test_state_dict_continues_exactly(name):
    envs = make_vec(name, N)
    actions = random_actions(envs)
    envs.reset(seed=2)
    play(envs, actions[:137])
    file = io.BytesIO()
    np.savez(file, **envs.state_dict())
    file.seek(0)
    expected = play(envs, actions[137:])
    resumed = make_vec(name, N)
    resumed.load_state_dict(dict(np.load(file)))
    assert_same(play(resumed, actions[137:]), expected)


def test_state_of_another_size_is_refused(name):
    state = make_vec(name, N).state_dict()
    with pytest.raises(ValueError, match="rng"):
        make_vec(name, N + 1).load_state_dict(state)


def test_state_of_another_maze_is_refused():
    """Its positions would lie outside of this one."""
    large = make_vec("maze", N, size=31)
    large.reset(seed=0)
    with pytest.raises(ValueError, match="needs 'walls' of shape"):
        make_vec("maze", N).load_state_dict(large.state_dict())


def test_single_environments_say_what_vectors_say_of_the_last_action(name):
    single = gymnasium.make(f"engram:{ENVS[name][0]}").unwrapped
    assert single.metadata["needs_last_action"] == make_vec(name, 1).metadata["needs_last_action"]


def test_copy(name):
    envs = make_vec(name, N)
    envs.reset(seed=0)
    results = play(envs, random_actions(envs, 3))
    for (before, *_), (after, *_) in pairwise(results):
        assert not np.shares_memory(before, after)
    shared = make_vec(name, N, copy=False)
    shared.reset(seed=0)
    first, second = ([array.copy() for array in envs.step(row)[:4]] for row in random_actions(envs, 2))
    assert len(first) == len(second)
    one, other = (shared.step(row) for row in random_actions(shared, 2))
    assert all(np.shares_memory(a, b) for a, b in zip(one[:4], other[:4], strict=True))


def test_info_is_dense(name):
    envs = make_vec(name, N)
    _, info = envs.reset(seed=0)
    *_, step_info = envs.step(random_actions(envs, 1)[0])
    assert info.keys() == step_info.keys()
    assert "level_id" in info
    for key in info:
        assert step_info[key].shape == (N,)
        if not key.startswith("_"):
            assert step_info[f"_{key}"].all()


def test_record_episode_statistics(name):
    envs = RecordEpisodeStatistics(make_vec(name, N))
    envs.reset(seed=0)
    total = np.zeros(N)
    num_ended = 0
    for row in random_actions(envs):
        _, rewards, terminated, truncated, info = envs.step(row)
        total += rewards
        ended = terminated | truncated
        np.testing.assert_allclose(info["episode"]["r"][ended] if ended.any() else [], total[ended], rtol=1e-5)
        total[ended] = 0
        num_ended += ended.sum()
    assert num_ended


def test_rendering(name):
    for mode in ("rgb_array", "ansi"):
        envs = make_vec(name, 2, render_mode=mode)
        envs.reset(seed=0)
        frames = envs.render()
        assert len(frames) == 2
        play(envs, random_actions(envs, 5))  # one may lead nowhere
        changed = envs.render()
        if mode == "ansi":
            assert isinstance(frames[0], str)
            assert frames != changed
        else:
            assert frames[0].dtype == np.uint8
            assert frames[0].ndim == 3
            assert frames[0].shape[2] == 3
            assert (frames[0] != changed[0]).any()
    assert make_vec(name, 2).render() is None


def test_options_are_typed_and_documented(name):
    for option, parameter in env_options(name).items():
        assert parameter.annotation is not Parameter.empty, option
        assert parameter.default is not Parameter.empty, option
    documentation = vector_class(name).__doc__
    for option in ("num_envs", *env_options(name), *COMMON_OPTIONS):
        assert f"        {option}: " in documentation, option


def test_levels_are_counted(name):
    options = env_options(name)
    if "num_levels" in options:
        assert num_levels(name, {"num_levels": 7, "split": "test"}) == 7
        assert num_levels(name, {"num_levels": None}) == np.inf
    else:
        assert num_levels(name, {}) == (41 if name == "maze" else None)


def test_no_levels_elsewhere():
    assert num_levels("CartPole-v1", {}) is None


def test_reference_policies_play(name):
    for make in reference_policies(name).values():
        envs = make_vec(name, N)
        policy = make(envs, seed=0)
        observation, _ = envs.reset(seed=0)
        starts, ended = np.ones(N, bool), np.zeros(N, bool)
        for _ in range(STEPS):
            actions = policy(observation, starts)
            assert actions in envs.action_space
            observation, _, terminated, truncated, _ = envs.step(actions)
            starts, ended = ended, terminated | truncated


@pytest.mark.parametrize("wrong", [-1, 10_000, 0.5, None, "left"])
def test_wrong_actions(name, wrong):
    envs = make_vec(name, N)
    envs.reset(seed=0)
    before = envs.state_dict()
    with pytest.raises(ValueError, match="actions must be"):
        envs.step(np.array([0, 0, 0, 0, wrong]))
    with pytest.raises(ValueError, match="actions must be"):
        envs.step(np.zeros(N + 1, int))
    for field, array in envs.state_dict().items():
        np.testing.assert_array_equal(array, before[field])


def test_steps_that_need_a_reset(name):
    envs = make_vec(name, N, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(ResetNeeded):
        envs.step(np.zeros(N, int))
    with pytest.raises(ResetNeeded):
        envs.reset(options={"reset_mask": np.arange(N) == 0})
    envs.reset(seed=0)
    envs._members["done"][2] = True
    with pytest.raises(ResetNeeded, match=r"\[2\]"):
        envs.step(np.zeros(N, int))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reset_mask": np.zeros(N, bool)}, "reset_mask must be"),
        ({"reset_mask": [True] * N}, "reset_mask must be"),
        ({"reset_mask": np.ones(N + 1, bool)}, "reset_mask must be"),
        ({"level_ids": np.full(N, 2**31)}, "level_ids must be|no levels"),
        ({"level_ids": np.full(N, -2)}, "level_ids must be|no levels"),
        ({"level_ids": np.zeros(N)}, "level_ids must be|no levels"),
        ({"split": "exam"}, "split must be one of|no splits"),
        ({"levels": 3}, "reset takes the options"),
    ],
)
def test_wrong_reset_options(name, options, message):
    envs = make_vec(name, N)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        envs.reset(options=options)


def test_wrong_reset_options_of_a_single_env(name):
    env = gymnasium.make(ENVS[name][0])
    with pytest.raises(ValueError, match="level_id, split"):
        env.reset(seed=0, options={"levels": 3})


@pytest.mark.parametrize("seed", [-1, [1, 2], [1, 2, 3, 4, -5], 0.5])
def test_wrong_seeds(name, seed):
    with pytest.raises(ValueError, match="seed must be"):
        make_vec(name, N).reset(seed=seed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"render_mode": "human"}, "render_mode must be one of None, 'rgb_array', 'ansi'; got 'human'"),
        ({"autoreset_mode": AutoresetMode.SAME_STEP}, "autoreset_mode must be one of"),
        ({"copi": False}, "did you mean copy?"),
    ],
)
def test_wrong_common_options(name, options, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        make_vec(name, N, **options)


@pytest.mark.parametrize("num_envs", [0, -1, 2.5, True])
def test_wrong_num_envs(name, num_envs):
    with pytest.raises(ValueError, match="num_envs must be an integer at least 1"):
        make_vec(name, num_envs)


@pytest.mark.parametrize("wrong", ["graph-pomdb", "CartPole-v99", "gymnasium:Game-v0", "a b c"])
def test_unknown_names(wrong):
    with pytest.raises(ValueError, match=f"no environment '{wrong}'; (did you mean|choices)"):
        make_vec(wrong, 2)


class Broken(gymnasium.Env):
    def __init__(self, wrong=False):
        raise RuntimeError("no display\nat all")


gymnasium.register("Broken-v0", Broken)
gymnasium.register("VectorOnly-v0", vector_entry_point=CartPoleVectorEnv)


def test_what_cannot_be_made_says_why():
    with pytest.raises(ValueError, match=r"^cannot make 'Broken-v0': RuntimeError: no display$"):
        make_vec("Broken-v0", 2)
    with pytest.raises(ValueError, match=r"^cannot make 'Broken-v0' with the options {'wrong': True}: RuntimeError"):
        make_vec("Broken-v0", 2, wrong=True)
    with pytest.raises(
        ValueError,
        match=r"^cannot import missing for 'missing:Game-v0': ModuleNotFoundError: No module named 'missing'$",
    ):
        make_vec("missing:Game-v0", 2)
    with pytest.raises(ValueError, match=r"^cannot import \.relative for '\.relative:Game-v0': TypeError"):
        make_vec(".relative:Game-v0", 2)
    for option in "num_envs", "name":
        with pytest.raises(ValueError, match=r"^cannot make 'CartPole-v1' with the options"):
            make_vec("CartPole-v1", 2, **{option: 3})
        with pytest.raises(ValueError, match=f"^maze has no option '{option}'"):
            make_vec("maze", 2, **{option: 3})


def test_an_id_of_vectors_only():
    assert make_vec("VectorOnly-v0", 3).num_envs == 3


def test_any_gymnasium_id():
    envs = make_vec("CartPole-v1", 3, max_episode_steps=5)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    envs.reset(seed=0)
    policy = reference_policies("CartPole-v1")["random"](envs, seed=0)
    for _ in range(5):
        *_, truncated, _ = envs.step(policy(None, None))
    assert truncated.all()
    assert env_options("CartPole-v1") == {}
    with pytest.raises(ValueError, match="num_states"):
        make_vec("CartPole-v1", 3, num_states=5)
