"""Actors in processes of Ray's: the same rollouts, by weights that were the learner's; one that fails is replaced."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
import torch

import train_rl
from engram import stop
from engram.agents import AGENTS
from engram.agents.actors import Actor, ActorError
from engram.agents.learner import Learner
from engram.envs import make_vec
from engram.optim import OptimConfig
from engram.policies import LSTM, make_policy
from engram.run import load_checkpoint

ray = pytest.importorskip("ray", reason="Ray is an extra: pip install engram[ray]")
actors_ray = import_module("engram.agents.actors_ray")

ROOT = Path(train_rl.__file__).parent
B, T = 4, 6
TROUBLES = '''
"""Environments whose 40th step, in the eighth rollout of 6, fails: always, or once in the life of this folder."""

import os, signal, time
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

def trouble(kind):
    mark = Path(__file__).with_name(kind)
    if kind.endswith("once") and mark.exists():
        return
    mark.touch()
    if kind.startswith("raise"):
        raise RuntimeError("a wall fell\\nand broke")
    if kind.startswith("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(1000)

class Troubled(gymnasium.Env):
    observation_space, action_space = Box(0, 1, (2,)), Discrete(2)
    steps = 0

    def __init__(self, kind):
        self.kind = kind

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time, self.steps = self.time + 1, self.steps + 1
        if self.steps == 40:
            trouble(self.kind)
        return np.ones(2, np.float32), float(action), self.time == 5, False, {}

for kind in ("raise", "kill-once", "hang-once"):
    gymnasium.register(f"{kind}-v0", Troubled, kwargs={"kind": kind})
'''


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of this process's own; the folder of `troubles`, which its workers can import."""
    folder = tmp_path_factory.mktemp("troubles")
    (folder / "troubles_of_ray.py").write_text(TROUBLES)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")
        assert actors_ray._join(None, num_actors=3)
        yield folder
        ray.shutdown()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_envs(env="graph-pomdp"):
    return make_vec(env, B)


def make_learner(env="graph-pomdp"):
    torch.manual_seed(0)
    return Learner(make_policy(LSTM.Config(8), make_envs(env)), AGENTS["impala"], OptimConfig())


def processes(count=1, env="graph-pomdp", unroll_length=T):
    seeds = [10 + B * i for i in range(count)]
    return actors_ray.RayActors(lambda: make_vec(env, B), seeds, make_learner(env), unroll_length, timeout=300)


def inline(i=0):
    """The rollouts of actor i by the first policy, one after the other."""
    learner = make_learner()
    actor = Actor(make_envs(), learner.policy, T, 10 + B * i)
    while True:
        yield actor.play(learner.policy)


def never():
    return False


def same(rollout, other):
    return torch.equal(rollout.inputs.observation, other.inputs.observation) and torch.equal(
        rollout.behaviour_logits, other.behaviour_logits
    )


@pytest.mark.usefixtures("cluster")
def test_processes_play_what_inline_actors_play():
    expected = [inline(i) for i in range(2)]
    waiting = [next(own) for own in expected]
    taken = [0, 0]
    with processes(2) as actors:
        while min(taken) < 3:
            rollout, lag = actors.next_rollout(never)
            (i,) = (i for i in range(2) if same(waiting[i], rollout))
            waiting[i], taken[i] = next(expected[i]), taken[i] + 1
            assert lag == 0, "the learner has made no update"
            assert list(rollout.episode_length) == [30] * len(rollout.episode_return)


@pytest.mark.usefixtures("cluster")
def test_the_lag_counts_the_updates_since_the_weights_that_played():
    with processes() as actors:
        policy = actors.learner.policy
        old = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
        actors.next_rollout(never)  # and the next is asked for
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.1)
        actors.learner.updates += 7
        rollouts = [actors.next_rollout(never) for _ in range(3)]
    assert [lag for _, lag in rollouts] == [7, 0, 0]
    new = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    for rollout, lag in rollouts:
        policy.load_state_dict(old if lag else new)
        output, _ = policy(rollout.inputs, rollout.initial_state)
        torch.testing.assert_close(output.policy_logits[:-1], rollout.behaviour_logits)


@pytest.mark.usefixtures("cluster")
def test_actors_continue_behind_the_last_rollout_that_was_taken(caplog):
    expected = inline()
    with processes() as actors:
        assert actors.state_dict() == [None], "not begun"
        assert all(same(actors.next_rollout(never)[0], next(expected)) for _ in range(2))
        ray.kill(actors._players[0])  # and another in its place
        assert all(same(actors.next_rollout(never)[0], next(expected)) for _ in range(2))
        states = actors.state_dict()
    (line,) = caplog.messages
    assert re.fullmatch(r"actor 0: its process died \(.*\); another takes its place \(1 of 3\)", line), line
    resumed = processes()
    resumed.load_state_dict(states, step=0)
    with resumed:
        assert all(same(resumed.next_rollout(never)[0], next(expected)) for _ in range(2))


@pytest.mark.usefixtures("cluster")
def test_an_actor_that_dies_is_named_and_replaced(caplog):
    with processes(env="troubles_of_ray:kill-once-v0") as actors:
        for _ in range(9):
            actors.next_rollout(never)
        assert actors._failures == [0], "its successor plays"
        assert actors.next_rollout(lambda: True) is None, "a request to stop ends the wait"
    (line,) = caplog.messages
    assert re.fullmatch(r"actor 0: its process died \([^.]*\); another takes its place \(1 of 3\)", line), line


def test_an_actor_that_hangs_is_named_and_replaced(cluster, caplog, monkeypatch):
    with processes(env="troubles_of_ray:hang-once-v0") as actors:
        for _ in range(7):
            actors.next_rollout(never)
        while not (cluster / "hang-once").exists():
            time.sleep(0.01)
        now, later = time.monotonic, 1000.0
        monkeypatch.setattr(actors_ray.time, "monotonic", lambda: now() + later)
        actors.next_rollout(never)
    (line,) = caplog.messages
    assert line == ("actor 0 has not finished a rollout for 300 s (--actor-timeout); another takes its place (1 of 3)")


@pytest.mark.usefixtures("cluster")
def test_an_actor_that_always_fails_ends_the_run(monkeypatch):
    monkeypatch.setattr(actors_ray, "RETRIES", 1)
    message = r"^actor 0: the environment .* raised RuntimeError: a wall fell; replacements so far in a row: 1$"
    with (
        processes(env="troubles_of_ray:raise-v0", unroll_length=50) as actors,
        pytest.raises(ActorError, match=message),
    ):
        actors.next_rollout(never)


# Runs

SMALL = (
    "--core lstm --core.hidden-size 8 --env.num-envs 4 --unroll-length 6 --minibatches 1 --agent impala --actors ray"
)


def error_line(capsys):
    errors = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", errors), errors
    return errors


@pytest.mark.usefixtures("cluster")
def test_a_run_learns_stops_and_goes_on(monkeypatch):
    update, count = Learner.update, iter(range(1, 1000))

    def interrupting(*args):
        if next(count) == 20:
            signal.raise_signal(signal.SIGTERM)
        return update(*args)

    monkeypatch.setattr(Learner, "update", interrupting)
    line = "--env graph-pomdp --num-actors 2 --total-steps 1200 --log-interval 5 --eval-interval 600 --eval-episodes 4"
    assert train_rl.main([*line.split(), *SMALL.split(), "--folder", "run"]) == 143
    stopped = load_checkpoint("run")[1]
    assert stopped["rollouts"] == stopped["learner"]["updates"] == 20
    assert len(stopped["ranks"][0]["actors"]) == 2
    assert train_rl.main(["--resume", "run"]) == 0
    steps = load_checkpoint("run")[0]
    assert steps >= 1200
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == steps
    assert all(entry["policy_lag"] >= 0 for entry in lines)  # without a bound: one actor may be slower than the other
    assert any(entry["policy_lag"] > 0 for entry in lines)


@pytest.mark.usefixtures("cluster")
def test_an_actor_that_fails_ends_the_run_with_a_checkpoint(monkeypatch, capsys):
    monkeypatch.setattr(actors_ray, "RETRIES", 0)
    line = "--env troubles_of_ray:raise-v0 --save-minutes 100 --folder run"
    assert train_rl.main([*line.split(), *SMALL.split()]) == 2
    checkpoint = max(Path("run/checkpoints").iterdir())
    assert re.match(
        "error: actor 0: the environment .* raised RuntimeError: a wall fell; .*; "
        f"the last good checkpoint is {checkpoint}$",
        error_line(capsys),
    )
    assert load_checkpoint("run")[1]["rollouts"] > 0


def test_control_c():
    command = [sys.executable, ROOT / "train_rl.py", *SMALL.split(), "--log-interval", "1", "--folder", "run"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with process:
        assert process.stdout.readline() == "run folder: run\n"
        while not Path("run/metrics.jsonl").read_text():
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of them
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.encode()) == (130, stop.MESSAGE)
    assert output.endswith("stopped; continue with: python train_rl.py --resume run\n")
    assert load_checkpoint("run")[1]["rollouts"] > 0


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1", "nowhere.invalid:6379"])
def test_a_cluster_that_does_not_answer_is_one_line(address, capsys, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert train_rl.main([*SMALL.split(), "--ray-address", address]) == 2
    assert f"error: cannot join the Ray cluster at {address} (--ray-address HOST:PORT): " in error_line(capsys)
    assert not list(Path().iterdir()), "nothing is left behind"
