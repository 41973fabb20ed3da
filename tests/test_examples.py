"""The examples run as they stand, and those that can in seconds do what they claim."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env

FOLDER = Path(__file__).resolve().parent.parent / "examples"


def run(name, total_steps):
    return import_module(f"examples.{name}").main(total_steps)


def test_every_example_is_listed_and_tested():
    names = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    for text in ((FOLDER / "README.md").read_text(), Path(__file__).read_text()):
        assert all(name in text for name in names)


def test_random_actions_through_gymnasium():
    assert 35 < run("gymnasium_vector", 20_000) < 55  # 44 on average


def test_a_core_echoes_where_an_lstm_would_stand():
    assert run("core_as_lstm", 100) > 0.9


@pytest.mark.parametrize(
    ("name", "total_steps"),
    [("own_loop", 20_000), ("sb3_ppo", 960), ("sb3_recurrent_ppo", 960), ("sb3_recurrent_core", 960)],
)
def test_a_learner_of_others_plays(name, total_steps):
    assert 30 < run(name, total_steps) < 80


@pytest.mark.parametrize("core", ["fwm", "rdn", "rmc"])
def test_recurrent_ppo_learns_with_a_core_from_the_states_it_acted_from(core):
    policy = import_module("examples.sb3_recurrent_core").CorePolicy
    envs = make_vec_env("engram:engram/GraphPOMDP-v0", 2, env_kwargs={"episode_length": 7})
    choices = {"n_steps": 20, "batch_size": 10, "n_epochs": 1, "policy_kwargs": {"core": core}, "device": "cpu"}
    model = RecurrentPPO(policy, envs, learning_rate=0.0, **choices)
    model.learn(80)
    logged = model.logger.name_to_value
    assert abs(logged["train/approx_kl"]) < 1e-6, "the weights did not change, and neither did the policy"
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.lr_schedule = lambda _: 1e-3
    model.learn(40)
    changed = [not torch.equal(*pair) for pair in zip(before, model.policy.parameters(), strict=True)]
    assert sum(changed) > len(changed) / 2
    assert any(changed[i] for i, (name, _) in enumerate(model.policy.named_parameters()) if "lstm_critic.core" in name)


def test_an_example_is_a_program():
    command = [sys.executable, "-m", "examples.gymnasium_vector"]
    result = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("return of random actions: 4")
