"""A stepper and its rollouts see an environment as a recurrent policy must: where episodes end, start and go on."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from engram.agents.rollout import collect
from engram.agents.stepper import EnvError, Stepper
from engram.envs import make_vec
from engram.policies import CORES, core_config, make_policy

SEED = 3


class Counting(gymnasium.Env):
    """Shows the step and the number of the episode; seed s makes it last 2 + s % 3 steps."""

    observation_space, action_space = Box(0, 1000, (2,)), Discrete(3)
    episode = -1

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.length = 2 + seed % 3
        self.time, self.episode = 0, self.episode + 1
        return self._observation(), {}

    def step(self, action):
        self.time += 1
        return self._observation(), 10.0 * self.time + action, self.time == self.length, False, {}

    def _observation(self):
        return np.array([self.time, self.episode], np.float32)


gymnasium.register("Counting-v0", Counting)
gymnasium.register("CountingToThree-v0", Counting, max_episode_steps=3)  # truncates where the length is 4

ENVS = {
    "graph-pomdp": ("graph-pomdp", 6, {"episode_length": 7}),
    "CartPole-v1": ("CartPole-v1", 6, {}),
    "terminating": ("Counting-v0", 3, {}),
    "truncating": ("CountingToThree-v0", 3, {}),
}


@pytest.fixture(params=ENVS)
def make(request):
    """Makes the environment anew."""
    name, num_envs, options = ENVS[request.param]
    return lambda: make_vec(name, num_envs, **options)


def start(envs, core="lstm"):
    """A stepper, a policy that reads everything, its state, and a generator of actions; the same at every call."""
    torch.manual_seed(0)
    policy = make_policy(core_config(core), envs, last_action=True, last_reward=True)
    stepper = Stepper(envs, SEED)
    return stepper, policy, policy.initial_state(envs.num_envs), torch.Generator().manual_seed(0)


def roll(make, lengths, core="lstm"):
    """Rollouts of these lengths, one after the other."""
    stepper, policy, state, generator = start(make(), core)
    rollouts = []
    for length in lengths:
        rollout, state = collect(stepper, policy, state, length, generator)
        rollouts.append(rollout)
    return rollouts


def test_a_rollout_holds_what_gymnasium_returns(make):
    T = 80
    (rollout,) = roll(make, [T])
    envs = RecordEpisodeStatistics(make())
    observation, _ = envs.reset(seed=SEED)
    starts, over = np.ones(envs.num_envs, bool), np.zeros(envs.num_envs, bool)  # of the observation
    returns, lengths = [], []
    for t in range(T):
        np.testing.assert_array_equal(rollout.inputs.observation[t], observation)
        np.testing.assert_array_equal(rollout.inputs.episode_starts[t], starts)
        action = rollout.action[t].numpy()
        observation, reward, terminated, truncated, info = envs.step(action)
        np.testing.assert_array_equal(rollout.mask[t], ~over)
        np.testing.assert_array_equal(rollout.reward[t], reward.astype(np.float32))
        np.testing.assert_array_equal(rollout.terminated[t], terminated)
        np.testing.assert_array_equal(rollout.inputs.last_reward[t + 1], rollout.reward[t])
        np.testing.assert_array_equal(rollout.inputs.last_action[t + 1], action * ~over)
        if "episode" in info:
            returns.extend(info["episode"]["r"][info["_episode"]])
            lengths.extend(info["episode"]["l"][info["_episode"]])
        starts, over = over, terminated | truncated
    np.testing.assert_array_equal(rollout.inputs.observation[T], observation)
    assert len(returns) > envs.num_envs
    np.testing.assert_allclose(rollout.episode_return, returns, rtol=1e-6)
    np.testing.assert_array_equal(rollout.episode_length, lengths)


def test_shapes_and_types(make):
    (rollout,) = roll(make, [4])
    envs = make()
    T, B, A = 4, envs.num_envs, envs.single_action_space.n
    inputs = rollout.inputs
    assert inputs.observation.shape == (T + 1, B, *envs.single_observation_space.shape)
    for leaf in (inputs.last_action, inputs.last_reward, inputs.episode_starts):
        assert leaf.shape == (T + 1, B)
    for leaf in (rollout.action, rollout.reward, rollout.terminated, rollout.mask):
        assert leaf.shape == (T, B)
    assert rollout.behaviour_logits.shape == (T, B, A)
    assert not rollout.behaviour_logits.requires_grad
    assert (inputs.last_action.dtype, rollout.action.dtype) == (torch.int64, torch.int64)
    assert (inputs.last_reward.dtype, rollout.reward.dtype) == (torch.float32, torch.float32)
    assert (inputs.episode_starts.dtype, rollout.terminated.dtype) == (torch.bool, torch.bool)


@pytest.mark.parametrize(
    ("kind", "lengths", "truncates"), [("terminating", (2, 3, 4), False), ("truncating", (2, 3, 3), True)]
)
def test_episodes_start_with_nothing_behind_them(kind, lengths, truncates):
    name, num_envs, _ = ENVS[kind]
    (rollout,) = roll(lambda: make_vec(name, num_envs), [12])
    inputs = rollout.inputs
    for member, length in enumerate(lengths):
        time, episode = inputs.observation[:, member].unbind(-1)
        assert time.tolist() == [t % (length + 1) for t in range(13)], "the last observation of an episode is there"
        assert episode.tolist() == [t // (length + 1) for t in range(13)]
        assert inputs.episode_starts[:, member].tolist() == [t == 0 for t in time]
        assert rollout.mask[:, member].tolist() == [t != 0 for t in time[1:]]
        ends = [t == length and not (truncates and length == 3 and member == 2) for t in time[1:]]
        assert rollout.terminated[:, member].tolist() == ends
        acted = [0, *rollout.action[:, member].tolist()]
        assert inputs.last_action[:, member].tolist() == [a if t else 0 for a, t in zip(acted, time, strict=True)]
        assert inputs.last_reward[:, member].tolist() == [
            10 * t + a if t else 0 for a, t in zip(acted, time, strict=True)
        ]
    at_starts = rollout.action[~rollout.mask]
    assert at_starts.any(), "the actions that a reset ignores are among those drawn"


def test_state_goes_on_over_the_border_of_rollouts(make):
    (whole,), parts = roll(make, [10], "fwm"), roll(make, [5, 5], "fwm")
    for name in ("action", "reward", "terminated", "behaviour_logits"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts])), name
    for whole_leaf, *leaves in zip(whole.inputs, *(part.inputs for part in parts), strict=True):
        assert torch.equal(whole_leaf[:6], leaves[0])
        assert torch.equal(whole_leaf[5:], leaves[1])
    assert whole.episode_return.tolist() == [r for part in parts for r in part.episode_return]


@pytest.mark.parametrize("core", CORES)
def test_acting_does_not_touch_the_initial_state_of_a_rollout(core):
    stepper, policy, state, generator = start(make_vec("Counting-v0", 3), core)
    for _ in range(3):
        before = [leaf.clone() for leaf in state]
        rollout, state = collect(stepper, policy, state, 7, generator)
        for kept, expected, after in zip(rollout.initial_state, before, state, strict=True):
            assert torch.equal(kept, expected)
            assert not kept.numel() or not torch.equal(kept, after)
    assert not rollout.inputs.episode_starts[0].any(), "else a reset would have copied the state"


@pytest.mark.parametrize("core", CORES)
def test_learning_sees_what_acting_saw(core):
    for rollout in roll(lambda: make_vec("graph-pomdp", 4, episode_length=5), [6, 9], core):
        torch.manual_seed(0)
        policy = make_policy(core_config(core), make_vec("graph-pomdp", 4), last_action=True, last_reward=True)
        output, _ = policy(rollout.inputs, rollout.initial_state)
        torch.testing.assert_close(output.policy_logits[:-1], rollout.behaviour_logits, atol=1e-4, rtol=0)


def test_a_stepper_continues_from_its_state():
    def steps(stepper, generator, count):
        return [stepper.step(torch.randint(3, (4,), generator=generator)) for _ in range(count)]

    def make():
        return Stepper(make_vec("graph-pomdp", 4, episode_length=5, num_levels=None), SEED)

    first, second, generator = make(), make(), torch.Generator().manual_seed(0)
    steps(first, generator, 8)
    state, drawn = first.state_dict(), generator.get_state()
    expected = steps(first, generator, 20)
    second.load_state_dict(state, SEED)
    assert any(len(finished.length) for _, _, finished in expected)
    for step, other in zip(expected, steps(second, generator.set_state(drawn), 20), strict=True):
        assert torch.equal(step[0], other[0])
        assert torch.equal(step[1], other[1])
        for array, expected_array in zip(step[2], other[2], strict=True):
            np.testing.assert_array_equal(array, expected_array)
    for leaf, other in zip(first.inputs, second.inputs, strict=True):
        assert torch.equal(leaf, other)


def test_environments_that_cannot_save_their_state_start_anew():
    stepper = Stepper(make_vec("Counting-v0", 3), SEED)
    for _ in range(4):
        stepper.step(torch.zeros(3, dtype=torch.int64))
    state = stepper.state_dict()
    assert "envs" not in state
    fresh = Stepper(make_vec("Counting-v0", 3), SEED)
    fresh.load_state_dict(state, SEED)
    assert fresh.inputs.episode_starts.all()
    assert fresh.inputs.observation[:, 0].tolist() == [0, 0, 0]


class Breaking(Counting):
    """Raises in the call its constructor names."""

    def __init__(self, where):
        self.where = where

    def reset(self, **options):
        if self.where == "reset":
            raise RuntimeError("no such level")
        return super().reset(**options)

    def step(self, action):
        if self.where == "step":
            raise RuntimeError("a wall fell")
        return super().step(action)


@pytest.mark.parametrize(("where", "reason"), [("reset", "no such level"), ("step", "a wall fell")])
def test_an_environment_that_raises_is_named(where, reason):
    envs = gymnasium.vector.SyncVectorEnv([lambda: Breaking(where)] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)
    with pytest.raises(EnvError, match=f"raised RuntimeError: {reason}"):
        Stepper(envs, SEED).step(torch.zeros(2, dtype=torch.int64))
