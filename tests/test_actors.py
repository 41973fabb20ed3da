"""Actors in threads: the same rollouts, in order, by weights that were the learner's; none outlives the run."""

import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

import train_rl
from engram.agents import AGENTS
from engram.agents.actors import Actor, ActorError, InlineActors, ThreadActors
from engram.agents.learner import Learner
from engram.envs import make_vec
from engram.optim import OptimConfig
from engram.policies import LSTM, make_policy
from engram.run import load_checkpoint

B, T = 4, 6
released = threading.Event()


class Troubled(gymnasium.Env):
    """Fails at step `at` of its life, as `trouble` says; one that hangs does so until `released`."""

    observation_space, action_space = Box(0, 1, (2,)), Discrete(2)
    at, steps, trouble = 40, 0, None

    def __init__(self, trouble=None):
        self.trouble = trouble

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time, self.steps = self.time + 1, self.steps + 1
        if self.steps == self.at:
            if self.trouble == "raise":
                raise RuntimeError("a wall fell")
            if self.trouble == "stop, hang" and not released.is_set():  # by the first of the members
                os.kill(os.getpid(), signal.SIGTERM)
            if "hang" in self.trouble:
                released.wait()
        return np.ones(2, np.float32), float(action), self.time == 5, False, {}


for name in ("raise", "hang", "stop, hang"):
    gymnasium.register(f"Troubled-{name.replace(', ', '-')}-v0", Troubled, kwargs={"trouble": name})


@pytest.fixture(autouse=True)
def _nothing_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    released.clear()
    yield
    released.set()
    for thread in threading.enumerate():
        if thread.name.startswith("actor "):
            thread.join(10)
            assert not thread.is_alive()


def make_actors(count=1, env="graph-pomdp", unroll_length=T):
    """Actors, the same at every call, and a learner of their policy."""
    torch.manual_seed(0)
    envs = [make_vec(env, B) for _ in range(count)]
    learner = Learner(make_policy(LSTM.Config(8), envs[0]), AGENTS["impala"], OptimConfig())
    return [Actor(e, learner.policy, unroll_length, 10 + B * i) for i, e in enumerate(envs)], learner


def threads(count=1, queue_size=1, timeout=60.0, **options):
    actors, learner = make_actors(count, **options)
    return ThreadActors(actors, learner, queue_size, timeout)


def never():
    return False


def take_all(threaded):
    while True:
        threaded.next_rollout(never)


def soon(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def same(rollout, other):
    return torch.equal(rollout.inputs.observation, other.inputs.observation) and torch.equal(
        rollout.behaviour_logits, other.behaviour_logits
    )


@pytest.mark.parametrize("queue_size", [1, 3])
def test_a_thread_plays_what_an_inline_actor_plays(queue_size):
    (actor,), learner = make_actors()
    with InlineActors(actor, learner) as inline, threads(queue_size=queue_size) as threaded:
        for _ in range(8):
            (expected, _), (rollout, lag) = inline.next_rollout(never), threaded.next_rollout(never)
            assert same(rollout, expected)
            assert lag == 0, "the learner has made no update"


def test_each_of_several_actors_plays_its_own_environments():
    players, learner = make_actors(3)
    expected = [[player.play(learner.policy) for _ in range(12)] for player in players]
    assert not same(expected[0][0], expected[1][0])
    with threads(3, queue_size=2) as threaded:
        for _ in range(12):
            rollout, _ = threaded.next_rollout(never)
            (mine,) = (own for own in expected if own and same(own[0], rollout))
            mine.pop(0)
    assert min(map(len, expected)) < 12


def test_the_lag_counts_the_updates_since_the_weights_that_played():
    with threads() as threaded:
        learner = threaded.learner
        soon(lambda: threaded._queue and threaded._playing_since == [None])
        old = {name: tensor.clone() for name, tensor in learner.policy.state_dict().items()}
        threaded.next_rollout(never)
        soon(lambda: threaded._queue and threaded._playing_since == [None])
        with torch.no_grad():
            for parameter in learner.policy.parameters():
                parameter.add_(0.1)
        learner.updates += 7
        rollouts = [threaded.next_rollout(never) for _ in range(4)]
    assert [lag for _, lag in rollouts] == [7, 0, 0, 0]
    for rollout, lag in rollouts:
        now = {name: tensor.clone() for name, tensor in learner.policy.state_dict().items()}
        learner.policy.load_state_dict(old if lag else now)
        output, _ = learner.policy(rollout.inputs, rollout.initial_state)
        learner.policy.load_state_dict(now)
        torch.testing.assert_close(output.policy_logits[:-1], rollout.behaviour_logits)


def test_actors_continue_behind_the_last_rollout_that_was_taken():
    with threads(queue_size=3) as threaded:
        for _ in range(3):
            threaded.next_rollout(never)
        soon(lambda: len(threaded._queue) == 3)
        states = threaded.state_dict()
        expected = [threaded.next_rollout(never)[0] for _ in range(3)]
    resumed = threads()
    resumed.load_state_dict(states, step=0)
    with resumed:
        assert all(same(resumed.next_rollout(never)[0], rollout) for rollout in expected)


@pytest.mark.parametrize("unroll_length", [T, 10**6])
def test_actors_end_with_the_run_wherever_they_are(unroll_length):
    with threads(3, unroll_length=unroll_length) as threaded:
        soon(lambda: threaded._queue or any(threaded._playing_since))
    assert not any(thread.is_alive() for thread in threaded._threads)


def test_a_request_to_stop_ends_the_wait():
    with threads(unroll_length=10**6) as threaded:
        assert threaded.next_rollout(lambda: True) is None


def test_an_actor_that_raises_is_named():
    message = r"^actor [01]: the environment .* raised RuntimeError: a wall fell$"
    with threads(2, env="Troubled-raise-v0") as threaded, pytest.raises(ActorError, match=message):
        take_all(threaded)


def test_an_error_that_is_no_environments_is_named():
    with threads() as threaded:
        threaded.actors[0].generator = "no generator"
        with pytest.raises(ActorError, match=r"^actor 0: raised \w+Error: ") as caught:
            take_all(threaded)
    assert "\n" not in str(caught.value)


def test_an_actor_that_hangs_is_named_and_left_behind():
    with threads(2, env="Troubled-hang-v0", timeout=0.3) as threaded:
        with pytest.raises(ActorError, match=r"^actor [01] has not finished a rollout for 0.3 s \(--actor-timeout\)$"):
            take_all(threaded)
        began = time.monotonic()
    assert time.monotonic() - began < 4


# Runs

SMALL = (
    "--core lstm --core.hidden-size 8 --env.num-envs 4 --unroll-length 6 --minibatches 1 --agent impala"
    " --actors threads"
)


def train(line):
    return train_rl.main([*line.split(), *SMALL.split(), "--folder", "run"])


def metrics():
    return [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]


def error_line(capsys):
    errors = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", errors), errors
    return errors


def test_a_run_with_threads_learns_stops_and_goes_on(monkeypatch):
    update, count = Learner.update, iter(range(1, 1000))

    def interrupting(*args):
        if next(count) == 20:
            signal.raise_signal(signal.SIGTERM)
        return update(*args)

    monkeypatch.setattr(Learner, "update", interrupting)
    line = "--env graph-pomdp --num-actors 2 --total-steps 1200 --log-interval 5 --eval-interval 600 --eval-episodes 4"
    assert train(line) == 143
    stopped = load_checkpoint("run")[1]
    assert stopped["rollouts"] == stopped["learner"]["updates"] == 20
    assert len(stopped["ranks"][0]["actors"]) == 2
    assert train_rl.main(["--resume", "run"]) == 0
    steps = load_checkpoint("run")[0]
    assert steps >= 1200
    lines = metrics()
    assert lines[-1]["step"] == steps
    assert all(0 <= entry["policy_lag"] <= 4 for entry in lines)
    assert any(entry["policy_lag"] > 0 for entry in lines)
    assert any("test_return" in entry for entry in lines)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("Troubled-raise-v0", "error: actor 0: the environment .* raised RuntimeError: a wall fell"),
        ("Troubled-hang-v0", r"error: actor 0 has not finished a rollout for 0\.5 s \(--actor-timeout\)"),
    ],
)
def test_an_actor_that_fails_ends_the_run_with_a_checkpoint(env, message, capsys):
    assert train(f"--env {env} --actor-timeout 0.5 --save-minutes 100") == 2
    checkpoint = max(Path("run/checkpoints").iterdir())
    assert re.match(f"{message}; the last good checkpoint is {checkpoint}$", error_line(capsys))
    state = load_checkpoint("run")[1]
    assert state["rollouts"] == state["learner"]["updates"] > 0, "saved when the actor failed"


def test_a_hung_actor_does_not_keep_a_run_that_is_stopped():
    began = time.monotonic()
    assert train("--env Troubled-stop-hang-v0") == 143
    assert time.monotonic() - began < 60, "and not the 300 s after which it would be reported"
    assert load_checkpoint("run")[1]["rollouts"] > 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--actors inline --num-actors 2", "num_actors=2, but --actors inline is one (--num-actors, --actors threads)"),
        ("--actors processes", "--actors"),
        ("--ray-address a:1", "ray_address=a:1, but --actors inline needs none (--ray-address)"),
        ("--actors inline --queue-size 2", "queue_size=2, but --actors inline has no queue (--queue-size, --actors"),
        ("--actors threads --num-actors 0", "num_actors=0, but it must be at least 1 (--num-actors)"),
        ("--actors threads --queue-size 0", "queue_size=0, but it must be at least 1 (--queue-size)"),
        ("--actors threads --actor-timeout 0", "actor_timeout=0.0, but it must be above 0 (--actor-timeout)"),
    ],
)
def test_choices_that_do_not_fit_are_one_line(line, message, capsys):
    assert train_rl.main(line.split()) == 2
    assert message in error_line(capsys)


def test_ray_is_an_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "engram.agents.actors_ray", raising=False)
    assert train_rl.main(["--actors", "ray", "--folder", "run"]) == 2
    assert "pip install engram[ray]" in error_line(capsys)
    assert not Path("run").exists()
