"""One episode step by step: the one that an evaluation plays, and the memory that acted in it."""

from dataclasses import replace
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from numpy.testing import assert_allclose, assert_array_equal

from engram.agents.episode import as_data, look_back, play
from engram.agents.evaluate import PolicyPlayer, evaluate
from engram.agents.stepper import EnvError
from engram.envs import make_vec
from engram.policies import Inputs, core_config, make_policy

LENGTH = 12
FWM = {"hidden_size": 6, "memory_size": 4}


class Counting(gymnasium.Env):
    """Shows how many steps it has played, pays the square of that; ends after `length` of them."""

    observation_space, action_space = Box(0, 1000, (1,)), Discrete(3, start=1)

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": None}

    def __init__(self, length: int = 5, picture=None, render_mode=None):
        self.length, self.picture, self.render_mode = length, picture, render_mode

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        said = {"even": self.time % 2 == 0, "time": self.time}
        return np.full(1, self.time, np.float32), float(self.time**2), self.time == self.length, False, said

    def render(self):
        if isinstance(self.picture, str):
            raise RuntimeError("no display\nat all")
        return self.picture


gymnasium.register("CountingUp-v0", Counting)


def graphs(num_envs=1, **options):
    return make_vec(
        "graph-pomdp", num_envs, **{"episode_length": LENGTH, "num_levels": None, "split": "test"} | options
    )


def a_policy(envs, core="fwm", **choices):
    torch.manual_seed(0)
    return make_policy(replace(core_config(core), **choices), envs, last_reward=True)


def played(core="fwm", seed=3, **choices):
    envs = graphs()
    policy = a_policy(envs, core, **choices)
    return policy, play(PolicyPlayer(policy, 1, seed), envs, seed, level_id=seed)


def test_steps_are_those_of_the_environment():
    envs = make_vec("CountingUp-v0", 1)
    episode = play(lambda inputs: torch.tensor([2]), envs, seed=0)
    assert (len(episode), episode.ended) == (5, True)
    assert episode.inputs.observation[:, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert episode.inputs.last_action[:, 0].tolist() == [0, 2, 2, 2, 2]
    assert episode.inputs.last_reward[:, 0].tolist() == [0, 1, 4, 9, 16]
    assert episode.inputs.episode_starts[:, 0].tolist() == [True, *[False] * 4]
    assert episode.action.tolist() == [2] * 5
    assert episode.reward.tolist() == [1, 4, 9, 16, 25]
    assert episode.info["time"].tolist() == [1, 2, 3, 4, 5]
    assert episode.info["even"].tolist() == [False, True, False, True, False]
    assert episode.pictures == episode.scenes == []


@pytest.mark.filterwarnings("ignore:.*render fps")
def test_pictures():
    picture = np.zeros((2, 3, 3), np.uint8)
    envs = make_vec("CountingUp-v0", 1, picture=picture, render_mode="rgb_array")
    episode = play(lambda inputs: torch.tensor([1]), envs, seed=0)
    assert_array_equal(episode.pictures, [picture] * 6)
    assert episode.fps == 4


@pytest.mark.filterwarnings("ignore:.*[Rr]ender")
@pytest.mark.parametrize(
    ("picture", "said"),
    [
        ("dark", "raised RuntimeError: no display$"),
        (None, r"drew object \[\], no picture"),
        (np.zeros((2, 3), np.uint8), r"drew uint8 \[2, 3\], no picture"),
    ],
)
def test_an_environment_that_draws_no_picture(picture, said):
    envs = make_vec("CountingUp-v0", 1, picture=picture, render_mode="rgb_array")
    with pytest.raises(EnvError, match=said):
        play(lambda inputs: torch.tensor([1]), envs, seed=0)


def test_a_long_episode_is_cut():
    episode = play(lambda inputs: torch.tensor([1]), make_vec("CountingUp-v0", 1, length=9), seed=0, max_steps=4)
    assert (len(episode), episode.ended) == (4, False)
    assert episode.reward.tolist() == [1, 4, 9, 16]


@pytest.mark.parametrize("number", [0, 4])
def test_it_is_the_episode_of_that_number(number):
    """Of an evaluation with the same choices: greedy ones, since draws depend on who else draws."""
    envs = graphs(7)
    policy = a_policy(envs, **FWM)
    score = evaluate(PolicyPlayer(policy, 7, seed=2, greedy=True), envs, 7, 2, num_levels=3)
    alone = play(PolicyPlayer(policy, 1, 2, greedy=True), graphs(), 2 + number, level_id=number % 3)
    assert alone.reward.sum() == pytest.approx(score.returns[number], abs=1e-5)


def test_scenes_are_what_observations_say():
    _, episode = played()
    assert len(episode.scenes) == LENGTH + 1
    for scene, observation in zip(episode.scenes[:-1], episode.inputs.observation[:, 0], strict=True):
        assert (scene["goal"], scene["agent"]) == (int(observation[:5].argmax()), int(observation[5:10].argmax()))
    table = episode.scenes[0]["successors"]
    for t, (before, after) in enumerate(zip(episode.scenes, episode.scenes[1:], strict=False)):
        assert_array_equal(after["successors"], table)
        led = table[before["agent"], episode.action[t]]
        assert episode.info["invalid_action"][t] == (led < 0)
        assert episode.info["goal_reached"][t] == (led == before["goal"]) == (episode.reward[t] > 0)
        if not episode.info["goal_reached"][t] and not episode.info["timeout"][t]:
            assert after["agent"] == (before["agent"] if led < 0 else led)


def test_pictures_only_where_they_are_asked_for():
    envs = make_vec("maze", 1, episode_length=6, render_mode="rgb_array")
    episode = play(lambda inputs: torch.tensor([0]), envs, seed=0)
    assert len(episode.pictures) == 7
    assert {picture.shape for picture in episode.pictures} == {(144, 144, 3)}
    assert any((a != b).any() for a, b in zip(episode.pictures, episode.pictures[1:], strict=False))
    assert played()[1].pictures == []


@pytest.mark.parametrize("core", ["fwm", "lstm", "mlp", "rmc", "mnm", "rdn", "jbfw", "plastic"])
def test_the_look_back_is_the_policy_that_acted(core):
    policy, episode = played(core)
    memory, state = look_back(policy, episode), policy.initial_state(1)
    inputs = episode.inputs
    for t in range(LENGTH):
        now = Inputs(*(leaf[t : t + 1] for leaf in inputs))
        with torch.no_grad():
            output, state = policy(now, state)
        assert memory.baseline[t] == pytest.approx(float(output.baseline), abs=1e-5)
        chances = output.policy_logits[0, 0].softmax(0)
        assert memory.probability[t] == pytest.approx(float(chances[episode.action[t]]), abs=1e-5)
        assert memory.entropy[t] == pytest.approx(float(-(chances * chances.log()).sum()), abs=1e-4)
    assert all(values.shape[0] == LENGTH and values.ndim == 2 for values in memory.traces.values())
    assert ("memory_norm" in memory.traces) == (core != "mlp")
    with_maps = core not in ("lstm", "mlp", "plastic")
    assert bool(memory.maps) == with_maps == (memory.missing is None)
    assert with_maps or "has no maps of its memory" in memory.missing


def test_traces_are_means_and_ranges_of_each_step():
    policy, episode = played("rmc", num_slots=3)
    memory = look_back(policy, episode)
    spread, norms = as_data(episode, memory)["traces"]["memory_norm"], memory.traces["memory_norm"]
    assert spread["count"] == norms.shape[1] == 3
    for t in range(LENGTH):
        assert spread["low"][t] <= spread["mean"][t] <= spread["high"][t]
        assert_allclose(3 * spread["mean"][t] - spread["low"][t] - spread["high"][t], np.sort(norms[t])[1])


def test_a_choice_of_several_has_no_one_probability():
    envs = make_vec("Pendulum-v1", 1)
    policy = a_policy(envs, "gru", hidden_size=4)
    episode = play(PolicyPlayer(policy, 1, 0), envs, 0, max_steps=3)
    memory = look_back(policy, episode)
    assert memory.probability is None
    assert np.isfinite(memory.entropy).all()
    assert episode.action.shape == (3, 1)


def test_events_are_what_the_environment_calls_true():
    _, episode = played(seed=1)
    data = as_data(episode, look_back(*played(seed=1)))
    for t, names in enumerate(data["events"]):
        assert ("goal_reached" in names) == bool(episode.info["goal_reached"][t])
        assert set(names) <= {"goal_reached", "invalid_action", "timeout"}
    assert data["scenes"]["agent"] == [scene["agent"] for scene in episode.scenes]
