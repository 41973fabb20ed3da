"""Atari games: against a plain loop over the emulator, and what is said of seeds, lives, options and names."""

import json
import sys
from inspect import Parameter

import numpy as np
import pytest
from ale_py import Action, ALEInterface, LoggerMode, roms
from gymnasium.error import DependencyNotInstalled, ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from hypothesis import given, settings
from hypothesis import strategies as st

import train_rl
from engram.agents.config import from_json, parse, to_json
from engram.agents.presets import preset
from engram.envs import env_options, evaluation_options, human_normalised, make_vec, reference_policies, vector_class
from engram.envs.atari import GAMES
from engram.envs.atari_scores import RFWP_NAMED, SCORES

N = 2
FIXED = {"noop_max": 1, "num_threads": 1}
"""leaves nothing to chance: an episode starts with one frame, of FIRE where the game has it, else without an action"""


def shrink(size, length):
    """Area interpolation from `length` pixels to `size`, as a matrix [size, length]."""
    edges = np.arange(size + 1) * length / size
    pixels = np.arange(length)
    inside = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(inside, 0, None) * size / length


class PlainGame:
    """One game, step by step on the emulator, by the rules of `AtariVector` with the options of FIXED."""

    def __init__(self, game, episodic_life, use_fire_reset, frame_skip, stack_num, reward_clip, max_episode_steps):
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self.ale = ALEInterface()
        self.ale.setFloat("repeat_action_probability", 0.0)
        self.ale.loadROM(roms.get_rom_path(game))
        self.actions = self.ale.getMinimalActionSet()
        self.frame_skip, self.stack_num, self.clip, self.limit = frame_skip, stack_num, reward_clip, max_episode_steps
        self.episodic_life, self.pauses_for_lives = episodic_life, episodic_life or use_fire_reset
        self.first_action = Action.FIRE if use_fire_reset and Action.FIRE in self.actions else Action.NOOP
        self.shrinks = shrink(84, 210), shrink(84, 160)
        self.game_over = self.pauses = True

    def screen(self):
        return self.ale.getScreenGrayscale().astype(float)

    def see(self, screen):
        rows, columns = self.shrinks
        self.frames = [*self.frames, rows @ screen @ columns.T][-self.stack_num :]

    def begin(self):
        new = self.game_over
        if new:
            self.ale.reset_game()
            self.length, self.score, self.game_over = 0, 0, False
        self.ale.act(self.first_action)
        if new:
            self.frames = []
        for _ in range(self.stack_num if new else 1):
            self.see(self.screen())
        self.pauses = False
        return np.stack(self.frames), 0, False, False

    def step(self, action):
        if self.pauses:
            return self.begin()
        lives, reward, screens = self.ale.lives(), 0, []
        for _ in range(self.frame_skip):
            reward += self.ale.act(self.actions[action])
            screens = [*screens[-1:], self.screen()]
            if self.ale.game_over():
                break
        self.see(np.max(screens, 0))
        self.length += 1
        self.score += reward
        truncated = self.length >= self.limit
        self.game_over = self.ale.game_over() or truncated
        self.pauses = self.game_over or (self.pauses_for_lives and self.ale.lives() < lives)
        terminated = (self.pauses if self.episodic_life else self.game_over) and not truncated
        return np.stack(self.frames), np.sign(reward) if self.clip else reward, terminated, truncated


def compare(envs, games, steps, seed):
    """Play the same actions in both; returns how many lives or games ended, and what was scored."""
    observation, _ = envs.reset(seed=seed)
    truth = [game.begin() for game in games]
    rng, ends, scored = np.random.default_rng(seed), 0, 0
    for _ in range(steps):
        for slot, (expected, *_) in enumerate(truth):
            if not games[
                slot
            ].ale.game_over():  # the step of a game over is cut short, and envpool's last picture older
                np.testing.assert_allclose(observation[slot], expected, atol=1)
        actions = rng.integers(0, envs.single_action_space.n, N)
        observation, rewards, terminated, truncated, info = envs.step(actions)
        truth = [game.step(action) for game, action in zip(games, actions, strict=True)]
        for slot, (game, (_, *expected)) in enumerate(zip(games, truth, strict=True)):
            assert [rewards[slot], terminated[slot], truncated[slot]] == expected
            assert info["lives"][slot] == game.ale.lives()
            assert info["game_return"][slot] == game.score
            assert info["game_length"][slot] == game.length
            assert info["_game_return"][slot] == info["_game_length"][slot] == game.game_over
        ends += (terminated | truncated).sum()
        scored += (rewards != 0).sum()
    return ends, scored


# The rules


@pytest.mark.parametrize("episodic_life", [True, False])
def test_lives_games_and_scores(episodic_life):
    options = {"frame_skip": 4, "stack_num": 4, "reward_clip": False, "max_episode_steps": 27_000}
    options |= {"episodic_life": episodic_life, "use_fire_reset": True}
    envs = make_vec("atari:Breakout", N, **options, **FIXED)
    ends, scored = compare(envs, [PlainGame("breakout", **options) for _ in range(N)], 200, seed=3)
    assert scored
    assert ends >= (10 if episodic_life else 1)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    game=st.sampled_from([("Freeway", "freeway"), ("SpaceInvaders", "space_invaders")]),
    options=st.fixed_dictionaries(
        {
            "episodic_life": st.booleans(),
            "use_fire_reset": st.booleans(),
            "frame_skip": st.integers(1, 6),
            "stack_num": st.integers(1, 4),
            "reward_clip": st.booleans(),
            "max_episode_steps": st.integers(5, 30),
        }
    ),
    seed=st.integers(0, 1000),
)
def test_options_of_the_game(game, options, seed):
    envs = make_vec(f"atari:{game[0]}", N, **options, **FIXED)
    ends, _ = compare(envs, [PlainGame(game[1], **options) for _ in range(N)], 40, seed)
    assert ends


def played(envs, seed, steps=40):
    """Observations [steps + 1, N, ...] from a reset with `seed`, under actions that go by the member and the step."""
    first, _ = envs.reset(seed=seed)
    rows = np.random.default_rng(0).integers(0, envs.single_action_space.n, (steps, 8))[:, : envs.num_envs]
    return np.stack([first, *(envs.step(row)[0] for row in rows)])


def test_an_episode_goes_by_its_seed():
    envs = make_vec("atari:Breakout", N, repeat_action_probability=0.25, num_threads=1)
    seed = 2**40
    first = played(envs, seed=seed)
    np.testing.assert_array_equal(played(envs, seed=seed), first)
    other = played(envs, seed=[seed, seed + 2])
    np.testing.assert_array_equal(other[:, 0], first[:, 0])
    assert (other[:, 1] != first[:, 1]).any()
    assert (played(envs, seed=[seed + 2, seed + 1])[:, 0] != first[:, 0]).any()
    single = make_vec("atari:Breakout", 1, repeat_action_probability=0.25, num_threads=1)
    np.testing.assert_array_equal(played(single, seed=seed)[:, 0], first[:, 0])


def test_sticky_actions():
    """With probability 1 no action ever takes effect, so that members that start alike stay alike."""
    seeds = [5, 5]
    stuck = played(make_vec("atari:Breakout", N, repeat_action_probability=1.0, num_threads=1), seed=seeds)
    np.testing.assert_array_equal(stuck[:, 0], stuck[:, 1])
    free = make_vec("atari:Breakout", N, num_threads=1)
    free.reset(seed=seeds)
    for _ in range(20):
        observation, *_ = free.step([2, 3])
    assert (observation[0] != observation[1]).any()


def test_a_reset_without_a_seed_starts_new_games():
    envs = make_vec("atari:Breakout", N, num_threads=1)
    envs.reset(seed=0)
    terminated = np.zeros(N, bool)
    while not terminated.any():
        *_, terminated, _, info = envs.step([0, 1])
    assert info["lives"].min() == 4
    _, info = envs.reset()
    assert info["lives"].tolist() == [5, 5]
    assert info["game_return"].tolist() == info["game_length"].tolist() == [0, 0]


@pytest.mark.parametrize("frame_skip", [4, 32])
def test_pong_shows_every_nth_frame(frame_skip):
    every, nth = (make_vec("pong", N, frame_skip=skip, num_threads=1) for skip in (1, frame_skip))
    assert every.single_observation_space.shape == nth.single_observation_space.shape == (1, 80, 80)
    np.testing.assert_array_equal(every.reset(seed=3)[0], nth.reset(seed=3)[0])
    points = 0
    for _ in range(256 // frame_skip):
        observation, rewards, *_ = nth.step([2, 3])
        frames = [every.step([2, 3]) for _ in range(frame_skip)]
        np.testing.assert_array_equal(rewards, np.sum([frame[1] for frame in frames], 0))
        brightest = np.maximum(frames[-2][0], frames[-1][0]).astype(float)
        assert (observation >= brightest - 1).all()
        assert (observation - brightest).mean() < 0.1, "no other frames are seen"
        points += np.abs(rewards).sum()
    assert points


# What surrounds the games


def test_the_vector_api():
    envs = RecordEpisodeStatistics(make_vec("atari:Breakout", N, num_threads=1))
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    first, info = envs.reset(seed=0)
    assert first in envs.observation_space
    before, total, ended = first.copy(), np.zeros(N), np.zeros(N, bool)
    for _ in range(60):
        observation, rewards, terminated, truncated, info = envs.step([1, 2])
        assert not np.shares_memory(observation, first)
        assert observation in envs.observation_space
        assert [part.dtype for part in (rewards, terminated, truncated)] == [np.float32, bool, bool]
        assert not (ended & ((rewards != 0) | terminated | truncated)).any()
        total = np.where(ended, 0, total) + rewards
        ended = terminated | truncated
        if ended.any():
            np.testing.assert_allclose(info["episode"]["r"][ended], total[ended])
        for key in ("lives", "game_return", "game_length"):
            assert info[key].shape == info[f"_{key}"].shape == (N,)
    assert ended.any() or total.any()
    np.testing.assert_array_equal(first, before)


def test_rendering():
    envs = make_vec("atari:Breakout", N, render_mode="rgb_array", num_threads=1)
    with pytest.raises(ResetNeeded):
        envs.render()
    envs.reset(seed=0)
    frames = envs.render()
    assert [frame.shape for frame in frames] == [(210, 160, 3)] * N
    for _ in range(5):
        envs.step([2, 3])
    after = envs.render()
    assert (after[0] != frames[0]).any()
    assert (after[0] != after[1]).any(), "one moved right, one left"
    assert make_vec("atari:Breakout", N).render() is None


def test_wrong_actions():
    envs = make_vec("atari:Breakout", N, num_threads=1)
    with pytest.raises(ResetNeeded):
        envs.step([0, 0])
    envs.reset(seed=0)
    for wrong in [0, 4], [-1, 0], [0], [0, 0, 0], [0.0, 1.0], [0, None], 0:
        with pytest.raises(ValueError, match=r"actions must be 2 integers in 0\.\.3; got"):
            envs.step(wrong)
    assert envs.step([0, 0])[4]["game_length"].tolist() == [1, 1]


@pytest.mark.parametrize("seed", [-1, 0.5, [1], [1, 2, 3], [1, -2]])
def test_wrong_seeds(seed):
    with pytest.raises(ValueError, match="seed must be"):
        make_vec("atari:Pong", N).reset(seed=seed)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("atari:Pong", {"noop_max": 0}, "noop_max must be an integer in 1.*; got 0"),
        ("atari:Pong", {"frame_skip": 0}, "frame_skip must be an integer in 1.*; got 0"),
        ("atari:Pong", {"stack_num": 0.5}, "stack_num must be"),
        ("atari:Pong", {"max_episode_steps": 0}, "max_episode_steps must be"),
        ("atari:Pong", {"num_threads": -1}, "num_threads must be"),
        ("atari:Pong", {"episodic_life": "no"}, "episodic_life must be one of False, True; got 'no'"),
        ("atari:Pong", {"repeat_action_probability": 1.5}, "repeat_action_probability must be a number .*; got 1.5"),
        ("atari:Pong", {"repeat_action_probability": -0.5}, "repeat_action_probability must be"),
        ("atari:Pong", {"render_mode": "human"}, "render_mode must be one of None, 'rgb_array'; got 'human'"),
        ("atari:Pong", {"frameskip": 2}, "atari:Pong has no option 'frameskip'; did you mean frame_skip"),
        ("pong", {"frame_skip": 2}, "frame_skip must be one of 1, 4, 16, 32; got 2"),
        ("pong", {"stack_num": 4}, "pong has no option 'stack_num'"),
        ("atari:Pogn", {}, "no Atari game 'Pogn'; did you mean Pong"),
        ("atari:", {}, "no Atari game ''; choices: Adventure, .*, Zaxxon"),
        ("pogn", {}, "no environment 'pogn'; did you mean pong"),
    ],
)
def test_wrong_names_and_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_vec(name, N, **options)


def test_reset_takes_no_options():
    with pytest.raises(ValueError, match="takes no options; got reset_mask"):
        make_vec("atari:Pong", N).reset(options={"reset_mask": np.ones(N, bool)})


@pytest.mark.parametrize("name", ["atari:Breakout", "pong"])
def test_options_are_typed_and_documented(name):
    for option, parameter in env_options(name).items():
        assert parameter.annotation is not Parameter.empty, option
        assert parameter.default is not Parameter.empty, option
        assert f"        {option}: " in vector_class(name).__doc__, option
    assert list(reference_policies(name)) == ["random"]


def test_the_command_line():
    line = "--env atari:Pong --env.kwargs.repeat-action-probability 0.25 --env.kwargs.no-episodic-life"
    config, _ = parse(line.split(), env_options, preset)
    expected = {option: parameter.default for option, parameter in env_options("atari:Pong").items()}
    assert config.env.options() == expected | {"repeat_action_probability": 0.25, "episodic_life": False}
    assert from_json(json.loads(json.dumps(to_json(config)))).env.options() == config.env.options()
    config, _ = parse(["--env", "pong", "--env.kwargs.frame-skip", "32"], env_options, preset)
    assert config.env.options() == {"frame_skip": 32, "num_threads": 0}


def test_evaluations_play_whole_games_for_the_score():
    assert evaluation_options("graph-pomdp") == evaluation_options("CartPole-v1") == {}
    line = (
        "--env atari:Breakout --core lstm --env.num-envs 2 --minibatches 1 --eval-episodes 2 --env.kwargs.reward-clip"
    )
    config, _ = parse(line.split(), env_options, preset)
    training = train_rl.Training(config)
    lost = {}
    for envs in training.actors.actor.stepper.envs, training.test_envs:
        envs.reset(seed=0)
        terminated = np.zeros(N, bool)
        while not terminated.any():
            *_, terminated, _, info = envs.step([0, 0])
        lost[envs] = 5 - info["lives"].min()
    assert list(lost.values()) == [1, 5]


def test_envpool_is_needed_for_atari_only(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "envpool", None)
    monkeypatch.delitem(sys.modules, "engram.envs.atari")
    with pytest.raises(DependencyNotInstalled, match="pip install envpool"):
        make_vec("atari:Pong", N)
    assert train_rl.main(["--env", "pong"]) == 2
    assert capsys.readouterr().err == "error: Atari games need envpool: pip install envpool\n"
    assert env_options("CartPole-v1") == {}


# Scores to compare with


def test_human_normalised_scores():
    assert len(SCORES) == 57
    assert set(SCORES) <= set(GAMES)
    assert len(RFWP_NAMED) == 9
    assert set(RFWP_NAMED) <= set(SCORES)
    for game, (random, human) in SCORES.items():
        assert random < human
        assert human_normalised(f"atari:{game}", random) == 0
        assert human_normalised(f"atari:{game}", human) == 1
    assert human_normalised("atari:Pong", 21) == human_normalised("pong", 21) == pytest.approx(1.1813, abs=1e-4)
    for name in ("atari:Adventure", "maze", "CartPole-v1"):
        assert human_normalised(name, 21) is None


@pytest.mark.parametrize(("game", "actions"), [("Qbert", 6), ("Gopher", 8), ("KungFuMaster", 14), ("Zaxxon", 18)])
def test_actions(game, actions):
    assert make_vec(f"atari:{game}", N).single_action_space.n == actions
    assert make_vec(f"atari:{game}", N, full_action_space=True).single_action_space.n == 18
