"""Agents of other packages learn as their packages have it, in runs that stop, resume, fail and are judged as ours."""

import json
import re
import signal
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env

import eval_rl
import train_rl
from engram import envs
from engram.agents.config import RunConfig, from_json, parse, to_json
from engram.agents.presets import preset
from engram.agents.sb3 import SB3_AGENTS
from engram.agents.sb3_learner import SB3Learner
from engram.run import load_checkpoint

SMALL = (
    "--env.num-envs 4 --unroll-length 10 --total-steps 120 --log-interval 1 --eval-interval 60 --eval-episodes 4"
    " --save-minutes 0 --device cpu"
)
GRAPHS = f"--env graph-pomdp --env.kwargs.episode-length 8 {SMALL}"


class Faulty(gymnasium.Env):
    """At step 18 of its life it returns NaN as its reward, or raises, as `fault` says."""

    observation_space, action_space = Box(0, 1, (2,)), Discrete(2)
    steps = 0

    def __init__(self, fault):
        self.fault = fault

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time, self.steps = self.time + 1, self.steps + 1
        if self.steps == 18 and self.fault == "raise":
            raise RuntimeError("a wall fell")
        reward = np.nan if self.steps == 18 else float(action)
        return np.ones(2, np.float32), reward, self.time == 5, False, {}


for fault in ("nan", "raise"):
    gymnasium.register(f"FaultyForSB3-{fault}-v0", Faulty, kwargs={"fault": fault})


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(line, folder="run"):
    return train_rl.main([*line.split(), "--folder", str(folder)])


def parsed(line):
    return parse(line.split(), envs.env_options, preset)[0]


def metrics(folder="run"):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def weights(folder="run"):
    return load_checkpoint(folder)[1]["learner"]["policy"]


def same_weights(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def error_line(capsys):
    errors = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", errors), errors
    return errors


@pytest.mark.parametrize("agent", SB3_AGENTS)
def test_configs(agent):
    for env in (*envs.ENVS, "CartPole-v1"):
        config = parsed(f"--env {env} --agent {agent} --agent.ent-coef 0.125 --unroll-length 7 --seed 4")
        assert type(config) is RunConfig
        assert (config.agent.ent_coef, config.unroll_length, config.seed) == (0.125, 7, 4)
        read = from_json(json.loads(json.dumps(to_json(config))))
        assert (read.agent, read.env.options()) == (config.agent, config.env.options())
    graphs = parsed(f"--env graph-pomdp --agent {agent}")
    assert (graphs.agent.gamma, graphs.env.num_envs, graphs.unroll_length) == (0.9, 600, 31), "as the preset has them"
    assert graphs.new_folder() == Path(f"runs/graph-pomdp-{agent}-s0")


@pytest.mark.parametrize(
    ("agent", "theirs", "policy", "choices"),
    [
        ("sb3-a2c", A2C, "MlpPolicy", {}),
        ("sb3-ppo", PPO, "MlpPolicy", {"batch_size": 20, "n_epochs": 2}),
        (
            "sb3-rppo",
            RecurrentPPO,
            "MlpLstmPolicy",
            {"batch_size": 20, "n_epochs": 2, "policy_kwargs": {"lstm_hidden_size": 8}},
        ),
    ],
)
def test_a_run_learns_what_the_package_learns(agent, theirs, policy, choices):
    line = "" if agent == "sb3-a2c" else "--agent.batch-size 20 --agent.n-epochs 2"
    line += " --agent.lstm-hidden-size 8" if agent == "sb3-rppo" else ""
    assert train(f"{GRAPHS} --agent {agent} --agent.ent-coef 0.01 {line} --seed 3") == 0
    options = parsed(f"{GRAPHS} --agent {agent}").env.options()
    members = make_vec_env("engram:engram/GraphPOMDP-v0", 4, env_kwargs=options)
    model = theirs(policy, members, n_steps=10, gamma=0.9, ent_coef=0.01, seed=3, device="cpu", **choices)
    model.learn(120)
    step, state = load_checkpoint("run")
    assert step == model.num_timesteps == 120
    assert same_weights(state["learner"]["policy"], model.policy.state_dict())
    lines = metrics()
    assert len(lines) == 3
    assert lines[-1]["value_loss"] == pytest.approx(model.logger.name_to_value["train/value_loss"])
    assert lines[-1]["updates"] == (3 if agent == "sb3-a2c" else 12)
    assert sum("test_return" in line for line in lines) == 2
    returns = [info["r"] for info in model.ep_info_buffer]
    assert np.mean([line["return"] for line in lines]) == pytest.approx(np.mean(returns), rel=0.2)


@pytest.mark.parametrize(
    ("agent", "size"),
    [("sb3-ppo", "--agent.batch-size 40"), ("sb3-rppo", "--agent.batch-size 40 --agent.lstm-hidden-size 8")],
)
def test_evaluations_change_nothing_and_judge_the_same_episodes(agent, size, capsys):
    assert train(f"{GRAPHS} --agent {agent} {size}", "often") == 0
    assert train(f"{GRAPHS} --agent {agent} {size} --eval-interval 1000", "never") == 0
    assert same_weights(weights("often"), weights("never"))
    assert train(f"{GRAPHS} --core lstm", "ours") == 0
    flags = ["--split", "test", "--episodes", "8", "--json", "scores.json"]
    assert eval_rl.main(["often", "never", "ours", *flags]) == 0
    rows = json.loads(Path("scores.json").read_text())
    scores = {(row["run"], row["policy"]): row["mean"] for row in rows}
    assert scores["often", "agent"] == scores["never", "agent"]
    assert scores["often", "oracle"] == scores["ours", "oracle"]
    assert {row["core"] for row in rows} == {agent, "lstm"}
    assert f"│ {agent} " in capsys.readouterr().out
    assert eval_rl.main(["often", *flags, "--greedy"]) == 0
    assert json.loads(Path("scores.json").read_text())[0]["mean"] != scores["often", "agent"]


def test_a_run_stops_anywhere_and_goes_on(monkeypatch):
    line = f"{GRAPHS} --agent sb3-ppo --agent.batch-size 20 --agent.n-epochs 2"
    count = SB3Learner._count

    def interrupting(self, *args):
        if self.updates == 6:  # in the midst of the second update
            signal.raise_signal(signal.SIGTERM)
        count(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(SB3Learner, "_count", interrupting)
        assert train(line) == 143
    stopped = load_checkpoint("run")[1]
    assert (stopped["rollouts"], stopped["learner"]["updates"]) == (2, 6)
    assert train_rl.main(["--resume", "run"]) == 0
    end = load_checkpoint("run")[1]
    assert (end["step"], end["rollouts"], end["learner"]["updates"]) == (120, 3, 10)
    assert len(end["learner"]["optimizer"]["state"]) > 0
    assert end["learner"]["optimizer"]["state"][0]["step"] == 10
    assert [line["step"] for line in metrics()] == [40, 80, 120]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", "the environment raised RuntimeError: a wall fell"),
        ("nan", r"update \d+: the weights are not finite; try a lower --agent.learning-rate or --agent.max-grad-norm"),
    ],
)
@pytest.mark.parametrize("agent", ["sb3-a2c", "sb3-ppo"])
def test_a_fault_is_one_line_and_keeps_the_last_good_checkpoint(agent, fault, message, capsys):
    line = f"--env FaultyForSB3-{fault}-v0 --agent {agent} {SMALL} --eval-interval 1000"
    batches = " --agent.batch-size 20" if agent == "sb3-ppo" else ""
    assert train(line + batches) == 2
    newest = max(Path("run/checkpoints").iterdir())
    assert re.search(f"{message}; the last good checkpoint is {newest}$", error_line(capsys))
    assert all(weight.isfinite().all() for weight in weights().values())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--agent sb3-ppo --core lstm", "--agent sb3-ppo has a network of its own: drop --core lstm"),
        ("--agent sb3-pp", "no agent is called 'sb3-pp', did you mean 'sb3-ppo'?"),
        ("--agent sb3-ppo --optim.learning-rate 1", "--optim.learning-rate"),
        ("--agent sb3-ppo --actors threads", "--actors"),
        ("--agent sb3-ppo --env atari:Pong", "atari:Pong has no Gymnasium id for single environments"),
        ("--agent sb3-ppo --env.kwargs.num-levels 9", "choose --env.kwargs.level-sampling uniform"),
        ("--agent sb3-a2c --env Blackjack-v1", "--agent sb3-a2c cannot play Blackjack-v1: "),
        ("--agent sb3-rppo --env Blackjack-v1", "--agent sb3-rppo cannot play Blackjack-v1: it does not read Tuple"),
        ("--agent sb3-a2c --agent.gamma 5", "gamma=5.0, but it must be between 0 and 1 (--agent.gamma)"),
        ("--agent sb3-ppo --agent.max-grad-norm -1", "max_grad_norm=-1.0, but it must be above 0"),
        ("--agent sb3-ppo --agent.n-epochs 0", "n_epochs=0, but it must be at least 1"),
        ("--agent sb3-rppo --agent.lstm-hidden-size 0", "lstm_hidden_size=0, but it must be at least 1"),
        ("--agent sb3-ppo --preset papre", "graph-pomdp with sb3-ppo has no preset 'papre'; choose from"),
        ("--agent sb3-ppo --unroll-length 0", "unroll_length=0, but it must be at least 1"),
    ],
)
def test_what_cannot_be_started_is_one_line(line, message, capsys):
    assert train(line) == 2
    assert message in error_line(capsys)
    assert not Path("run").exists()


def test_a_report_says_what_it_cannot_show(capsys):
    assert train(f"{GRAPHS} --agent sb3-a2c") == 0
    assert eval_rl.main(["run", "--video", "film.gif", "--episodes", "4"]) == 0
    assert Path("film.gif").exists(), "a film needs no look inside"
    assert eval_rl.main(["run", "--report", "page.html", "--episodes", "4"]) == 0
    assert "whose network cannot be looked into" in Path("page.html").read_text()
