"""Runs, end to end: what is stopped, killed or damaged goes on bit for bit; what fails says so in one line."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import DependencyNotInstalled
from gymnasium.spaces import Box, Discrete

import train_rl
from engram import checkpoint, stop
from engram.agents import actors
from engram.run import load_checkpoint

ROOT = Path(train_rl.__file__).parent
SMALL = (
    "--env.num-envs 8 --minibatches 2 --unroll-length 9 --log-interval 3 --eval-interval 200 --eval-episodes 4"
    " --save-minutes 0 --total-steps 700"
)
GRAPHS = f"--env graph-pomdp --env.kwargs.episode-length 8 --env.kwargs.num-levels 20 {SMALL}"
FWM = f"{GRAPHS} --core fwm --core.hidden-size 8 --core.memory-size 4"
LSTM = f"{GRAPHS} --core lstm --core.hidden-size 8"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """A run without --folder goes to tmp_path/runs."""
    monkeypatch.chdir(tmp_path)


def train(line, folder="run"):
    return train_rl.main([*line.split(), "--folder", str(folder)])


def resume(folder="run", flags=""):
    return train_rl.main(["--resume", str(folder), *flags.split()])


@contextmanager
def interrupted(rollout):
    """Sends this process a SIGTERM in the midst of its n-th rollout."""
    collect, count = actors.collect, iter(range(1, 1000))

    def interrupting(*args):
        if next(count) == rollout:
            signal.raise_signal(signal.SIGTERM)
        return collect(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(actors, "collect", interrupting)
        yield


def metrics(folder):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["wall_time"]
    return lines


def snapshot(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def assert_same(value, other, where="state"):
    """Compare nested states exactly."""
    assert type(value) is type(other), where
    if isinstance(value, dict):
        assert list(value) == list(other), where
        for key in value:
            assert_same(value[key], other[key], f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        assert len(value) == len(other), where
        for i, (entry, same) in enumerate(zip(value, other, strict=True)):
            assert_same(entry, same, f"{where}[{i}]")
    elif isinstance(value, torch.Tensor):
        assert torch.equal(value, other), where
    elif isinstance(value, np.ndarray):
        np.testing.assert_array_equal(value, other, where)
    else:
        assert value == other, where


def assert_same_run(folder, other):
    assert metrics(folder) == metrics(other)
    assert_same(load_checkpoint(folder), load_checkpoint(other))


def weights(folder):
    return load_checkpoint(folder)[1]["learner"]["policy"]


# Exact


@pytest.mark.parametrize(
    ("line", "rollouts"), [(FWM, 3), (FWM, 5), (LSTM, 4), (f"{LSTM} --policy.normalize-observation", 4)]
)
def test_a_run_that_is_stopped_and_resumed_is_the_same_run(line, rollouts, monkeypatch, capsys):
    assert train(line, "whole") == 0
    with interrupted(rollouts):
        assert train(line, "cut") == 143
    assert "continue with: python train_rl.py --resume cut\n" in capsys.readouterr().out
    assert load_checkpoint("cut")[1]["rollouts"] == rollouts - 1, "the one that is stopped is played again"
    assert resume("cut") == 0
    assert_same_run("whole", "cut")
    lines = metrics("whole")
    assert len(lines) > 2
    assert any("test_return" in line for line in lines)
    assert load_checkpoint("whole")[0] >= 700


def test_one_seed_one_run():
    for folder, seed in ("a", 1), ("b", 1), ("c", 2):
        assert train(f"{FWM} --seed {seed}", folder) == 0
    assert_same_run("a", "b")
    for name, weight in weights("a").items():
        assert not torch.equal(weight, weights("c")[name]), name


def test_saving_and_evaluating_change_nothing():
    assert train(FWM, "often") == 0
    assert train(f"{FWM} --save-minutes 1000 --eval-interval 100000", "once") == 0
    assert_same(weights("often"), weights("once"))
    assert len(list(Path("once/checkpoints").iterdir())) == 2, "the first moment and the last"


def test_a_finished_run_that_is_resumed_is_finished(capsys):
    assert train(LSTM) == 0
    before = load_checkpoint("run")
    assert resume() == 0
    assert_same(before, load_checkpoint("run"))
    assert capsys.readouterr().out.count("done; judge it with: python eval_rl.py run\n") == 2


# With changes


@pytest.mark.parametrize("stopped", [False, True], ids=["finished", "stopped"])
def test_a_run_that_is_made_longer_is_the_longer_run(stopped, capsys):
    """Where the learning rate is constant."""
    line = FWM.replace("--total-steps 700", "--optim.schedule constant")
    assert train(f"{line} --total-steps 900", "long") == 0
    with interrupted(3 if stopped else 1000):
        assert train(f"{line} --total-steps 500", "short") == (143 if stopped else 0)
    config = json.loads(Path("short/config.json").read_text())
    assert resume("short", "--total-steps 900") == 0
    assert json.loads(Path("short/config.json").read_text()) == config | {"total_steps": 900}
    (step, long), (other, short) = load_checkpoint("long"), load_checkpoint("short")
    assert step == other >= 900
    for part in ("learner", "ranks"):
        assert_same(long[part], short[part], part)
    assert resume("short") == 0, "it is one run from now on"
    assert load_checkpoint("short")[0] == step


def test_a_learning_rate_that_falls_then_falls_over_the_new_length():
    def rates(folder):
        (group,) = load_checkpoint(folder)[1]["learner"]["optimizer"]["param_groups"]
        return group["lr"]

    line = LSTM.replace("--minibatches 2", "--optim.schedule linear --optim.learning-rate 1")
    assert train(line) == 0
    assert rates("run") < 0.15, "of the last update of 700 steps"
    assert resume("run", "--total-steps 1400") == 0
    assert rates("run") < 0.15, "of the last update of 1400"
    with interrupted(2):
        assert resume("run", "--total-steps 14000") == 143
    assert 0.85 < rates("run") < 0.95


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--total-steps 400", "--total-steps 400, but run has had {step} already"),
        ("--total-steps {step}", "--total-steps {step}, but run has had {step} already"),
        ("--total-steps 0", "total_steps=0, but it must be at least 1 (--total-steps)"),
        ("--device foo", "there is no --device foo; choose auto, cpu, cuda or cuda:N"),
        ("--total-steps 2000 --device cuda:99", "cannot use --device cuda:99 ("),
    ],
)
def test_a_change_that_cannot_be_made_changes_nothing(flags, message, capsys):
    assert train(LSTM) == 0
    step = load_checkpoint("run")[0]
    config = Path("run/config.json").read_bytes()
    capsys.readouterr()
    assert resume("run", flags.format(step=step)) == 2
    assert message.format(step=step) in error_line(capsys)
    assert Path("run/config.json").read_bytes() == config


@pytest.mark.parametrize("actors", ["inline", "threads"])
def test_a_run_goes_on_on_another_kind_of_device(actors):
    """Whose random generators have other states."""
    with interrupted(3):
        assert train(f"{FWM} --actors {actors} --device cpu") == 143
    run = load_checkpoint("run")[1]
    for state in run["ranks"][0]["actors"]:
        state["generator"] = torch.zeros(16, dtype=torch.uint8)  # as a CUDA device's
    newest = max(Path("run/checkpoints").iterdir())
    checkpoint.save(newest, checkpoint.load(newest) | {"state": run})
    assert resume("run", "--device auto") == 0
    assert json.loads(Path("run/config.json").read_text())["device"] == "auto"
    assert load_checkpoint("run")[0] >= 700


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("actors", ["inline", "threads"])
def test_a_run_moves_to_a_gpu_and_back(actors):
    with interrupted(2):
        assert train(f"{FWM} --actors {actors} --device cpu") == 143
    with interrupted(2):
        assert resume("run", "--device cuda") == 143
    assert resume("run", "--device cpu") == 0
    assert load_checkpoint("run")[0] >= 700


class Drawing(gymnasium.Env):
    """Draws from every global generator."""

    observation_space, action_space = Box(0, 1, (1,)), Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        drawn = random.random() + np.random.random() + torch.rand(()).item()  # noqa: NPY002
        return np.zeros(1, np.float32), drawn, False, False, {}


gymnasium.register("Drawing-v0", Drawing)


def test_global_generators_are_seeded_and_go_on():
    line = f"--env Drawing-v0 --core lstm --core.hidden-size 8 {SMALL} --eval-interval 100000"
    assert train(line, "whole") == 0
    with interrupted(4):
        assert train(line, "cut") == 143
    before = load_checkpoint("cut")[1]["ranks"][0]["random"]
    random.random()
    assert resume("cut") == 0
    after, whole = (load_checkpoint(folder)[1]["ranks"][0]["random"] for folder in ("cut", "whole"))
    assert_same(after, whole)
    assert all(str(before[name]) != str(after[name]) for name in ("python", "numpy"))
    assert not torch.equal(before["torch"], after["torch"])


# Any environment


@pytest.mark.parametrize(
    "line", ["--env CartPole-v1 --core lstm", "--env CartPole-v1 --core fwm --policy.last-action True"]
)
def test_any_gymnasium_id(line):
    with interrupted(4):
        assert train_rl.main(f"{line} {SMALL}".split()) == 143
    (folder,) = Path("runs").iterdir()
    assert re.fullmatch(r"CartPole-v1-(lstm|fwm)-a2c-s0", folder.name)
    assert resume(folder) == 0
    assert metrics(folder)[-1]["return"] > 5


MODULE = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

gymnasium.register("Pole-v0", CartPoleEnv, max_episode_steps=20)
"""


def test_an_environment_of_a_module(tmp_path, monkeypatch):
    (tmp_path / "poles_of_a_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    line = f"--env poles_of_a_user:Pole-v0 --core lstm {SMALL}"
    assert train_rl.main(line.split()) == 0
    assert metrics("runs/poles_of_a_user-Pole-v0-lstm-a2c-s0")


# Signals and kills


def test_control_c():
    command = [sys.executable, ROOT / "train_rl.py", *LSTM.split(), "--total-steps", "1000000000", "--folder", "run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "run folder: run\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.encode()) == (130, stop.MESSAGE)
    assert output.endswith("stopped; continue with: python train_rl.py --resume run\n")
    assert load_checkpoint("run")[1]["step"] >= 0


def test_a_second_control_c_is_one_line(capsys):
    def interrupting(*args):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(actors, "collect", interrupting)
        assert train(LSTM) == 130
    assert error_line(capsys) == "error: interrupted\n"
    assert load_checkpoint("run")[0] == 0


def test_a_signal_before_the_first_rollout_is_obeyed_where_it_can_be_saved(monkeypatch):
    create = train_rl.Run.create

    def stopped(*args):
        signal.raise_signal(signal.SIGTERM)
        return create(*args)

    monkeypatch.setattr(train_rl.Run, "create", stopped)
    assert train(LSTM) == 143
    assert load_checkpoint("run")[0] == 0


KILLED = """
import os, random, signal, sys, time
import torch.utils.tensorboard, train_rl  # once for all children
from pathlib import Path

def start(argv):
    child = os.fork()
    if child == 0:
        os._exit(train_rl.main(argv))
    return child

whole, cut, flags = sys.argv[1], sys.argv[2], sys.argv[3:]
began = time.monotonic()
assert os.waitpid(start([*flags, "--folder", whole]), 0)[1] == 0
duration = time.monotonic() - began
kills, argv = 0, [*flags, "--folder", cut]
while True:
    child = start(argv)
    while kills == 0 and not list(Path(cut).glob("checkpoints/step_*.pt")):
        time.sleep(0.005)
    time.sleep(random.uniform(0, duration / 2 if kills else 0.05))
    if kills < 2:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    argv = ["--resume", cut]
    if status != signal.SIGKILL:
        break
    kills += 1
assert status == 0, status
print(kills)
"""


def test_a_run_killed_at_any_instant_becomes_the_run_it_would_have_been():
    command = [sys.executable, "-c", KILLED, "whole", "cut", *LSTM.split(), "--total-steps", "2000"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.splitlines()[-1]) > 0, "no child was killed"
    assert_same_run("whole", "cut")


# Faults


class Faulty(gymnasium.Env):
    """At step `at` of its life it returns NaN as its reward, or raises, as `fault` says."""

    observation_space, action_space = Box(0, 1, (2,)), Discrete(2)
    at, steps = 60, 0

    def __init__(self, fault):
        self.fault = fault

    def reset(self, *, seed=None, options=None):
        if self.fault == "reset":
            raise RuntimeError("no such level")
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time, self.steps = self.time + 1, self.steps + 1
        if self.steps == self.at and self.fault == "step":
            raise RuntimeError("a wall fell")
        reward = np.nan if self.steps == self.at and self.fault == "nan" else float(action)
        return np.ones(2, np.float32), reward, self.time == 5, False, {}


for fault in ("nan", "step", "reset"):
    gymnasium.register(f"Faulty-{fault}-v0", Faulty, kwargs={"fault": fault})


def missing_library():
    raise DependencyNotInstalled("the library of this game is not installed")


gymnasium.register("Missing-v0", missing_library)


def error_line(capsys):
    errors = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", errors), errors
    return errors


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", r"update \d+: the loss is nan, the gradient is not finite in every parameter; .*--optim"),
        ("step", r"the environment SyncVectorEnv\(Faulty-step-v0, num_envs=8\) raised RuntimeError: a wall fell"),
    ],
)
def test_a_fault_ends_in_one_line_and_keeps_the_last_good_checkpoint(fault, message, capsys):
    assert train(f"--env Faulty-{fault}-v0 --core lstm --core.hidden-size 8 {SMALL} --eval-interval 100000") == 2
    newest = max(Path("run/checkpoints").iterdir())
    assert re.search(f"{message}.*; the last good checkpoint is {newest}$", error_line(capsys))
    step, state = load_checkpoint("run")
    assert 0 < step < 8 * Faulty.at
    assert all(weight.isfinite().all() for weight in state["learner"]["policy"].values())


def test_weights_that_are_not_finite_are_never_saved(capsys):
    """Adam without epsilon divides by zero where a gradient is zero."""
    line = "--env graph-pomdp --core mlp --env.num-envs 2 --minibatches 1 --optim.epsilon 0 --total-steps 30"
    assert train(line) == 2
    assert "update 1: the weights are not finite any more in core.layers.0.weight" in error_line(capsys)
    assert all(weight.isfinite().all() for weight in weights("run").values())


def test_a_fault_in_an_evaluation_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(Faulty, "at", 15)
    assert train(f"--env Faulty-step-v0 --core lstm {SMALL} --unroll-length 4 --eval-interval 20") == 2
    assert "num_envs=4) raised RuntimeError: a wall fell; the last good checkpoint is run" in error_line(capsys)


def test_a_full_disk_is_one_line_and_keeps_the_last_good_checkpoint(capsys):
    save, left = checkpoint.save, iter(range(4))

    def full(*args):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        assert train(LSTM) == 2
    newest = max(Path("run/checkpoints").iterdir())
    assert f"No space left on device; the last good checkpoint is {newest}\n" in error_line(capsys)
    assert resume() == 0


def test_a_torn_newest_checkpoint_costs_the_steps_since_the_one_before(caplog):
    assert train(FWM, "whole") == 0
    with interrupted(5):
        assert train(FWM, "cut") == 143
    newest = max(Path("cut/checkpoints").iterdir())
    os.truncate(newest, newest.stat().st_size // 2)
    assert resume("cut") == 0
    assert f"passed over {newest}" in caplog.text
    assert_same_run("whole", "cut")


def test_an_environment_is_the_same_by_its_id():
    """Its preset included."""
    for env in ("maze", "engram/GridMaze-v0", "engram:engram/GridMaze-v0"):
        assert train_rl.start(f"--env {env} --core.hidden-size 8 --folder {len(env)}".split())[0].minibatches == 4


def test_a_run_never_writes_over_another(capsys):
    assert train(LSTM) == 0
    before = snapshot("run")
    capsys.readouterr()
    assert train(LSTM) == 2
    assert "run exists: continue it with --resume run" in error_line(capsys)
    assert snapshot("run") == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--env graph-pomdpp", "no environment 'graph-pomdpp'; did you mean graph-pomdp?"),
        ("--env CartPole-v7", "no environment 'CartPole-v7'; did you mean CartPole-v1"),
        (
            "--env nowhere:Game-v0",
            "cannot import nowhere for 'nowhere:Game-v0': ModuleNotFoundError",
        ),
        ("--env Blackjack-v1", "there is no encoder for observations of Tuple(Discrete(32), Discrete(11), Discrete("),
        ("--env CartPole-v1 --core convlstm --core.height 2 --core.width 2", "the core reads maps of (2, 2)"),
        (
            "--env boxworld --env.kwargs.view 7 --core convlstm --core.height 5 --core.width 5",
            "maps of (5, 5) (--core.height, --core.width), but BoxEncoder gives maps of (7, 7)",
        ),
        (
            "--env FrozenLake-v1 --policy.normalize-observation",
            "--policy.normalize-observation is for vectors of floats and images; observations are of Discrete(16)",
        ),
        ("--env CartPole-v1 --policy.encoder impala", "--policy.encoder impala reads images; observations are of Box("),
        ("--env CartPole-v1 --env.kwargs.num-states 8", "with the options {'num_states': 8}: TypeError: "),
        ("--env Missing-v0", "the library of this game is not installed"),
        ("--env Faulty-reset-v0", "raised RuntimeError: no such level"),
        ("--env CartPole-v1 --env.kwargs.sutton-barto-reward {1}", "sutton-barto-reward={1}, but config.json cannot"),
        ("--env.num-envs 1000000000000", "out of memory: Unable to allocate"),
        ("--core.hidden-size 10000000", "out of memory: "),
        ("--optim.learning-rate inf", "learning_rate=inf, but it must be above 0 and finite"),
        ("--core fwmm", "no core is called 'fwmm', did you mean 'fwm'?"),
        ("--agent a2", "no agent is called 'a2', did you mean 'a2c'?"),
        ("--preset papre", "graph-pomdp with fwm has no preset 'papre'; choose from"),
        ("--env.kwargs.num-levels 0", "num_levels must be an integer in 1.."),
        ("--env.kwargs.num-states 100", "num_states must be an integer in 3..64; got 100"),
        ("--device foo", "there is no --device foo; choose auto, cpu, cuda or cuda:N"),
        ("--device cuda:99", "cannot use --device cuda:99 ("),
        ("--resume nowhere", "there is no run folder nowhere"),
        ("--resume .", ". is not a run folder: it has no config.json"),
        ("--env.num-env 2", "--env.num-envs"),
        ("--seed one", "--seed"),
        ("--resume", "--resume"),
        (
            "--resume . --seed 1",
            "--resume . continues that run with its own config, but for --total-steps and --device",
        ),
    ],
)
def test_what_cannot_be_started_is_one_line(line, message, capsys):
    flags = [] if "--resume" in line else ["--folder", "run"]
    assert train_rl.main([*line.split(), *flags]) == 2
    assert message in error_line(capsys)
    assert not list(Path().iterdir()), "nothing is left behind"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"momentum": 0.9}, "config.json is of another version: .*momentum"),
        ({"core_name": "hopfield"}, "config.json is of another version: no core is called 'hopfield'"),
        ({"device": "cuda:99"}, "cannot use --device cuda:99"),
        ({"core": {"hidden_size": 3}}, "the checkpoint of run does not fit its config.json"),
        (None, "this config.json is of another version: it holds no config"),
    ],
)
def test_a_config_that_cannot_be_resumed_is_one_line(change, message, capsys):
    with interrupted(2):
        assert train(LSTM) == 143
    config = json.loads(Path("run/config.json").read_text())
    Path("run/config.json").write_text(json.dumps(change and config | change))
    capsys.readouterr()
    assert resume() == 2
    assert re.search(message, error_line(capsys))
    Path("run/config.json").write_text(json.dumps(config))
    assert resume() == 0


def test_a_run_without_a_checkpoint_is_one_line(capsys):
    assert train(LSTM) == 0
    shutil.rmtree("run/checkpoints")
    capsys.readouterr()
    assert resume() == 2
    assert "run has no usable checkpoint: none was saved" in error_line(capsys)


def test_the_status_of_the_process():
    command = [sys.executable, ROOT / "train_rl.py", "--core", "fwmm"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: no core is called 'fwmm'")
    assert (result.stderr.count("\n"), result.stdout) == (1, "")
