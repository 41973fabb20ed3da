"""The examples run as they stand, and those that can in seconds do what they claim."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(("name", "total_steps"), [("own_loop", 20_000), ("sb3_ppo", 960), ("sb3_recurrent_ppo", 960)])
def test_a_learner_of_others_plays(name, total_steps):
    assert 30 < run(name, total_steps) < 80


def test_an_example_is_a_program():
    command = [sys.executable, "-m", "examples.gymnasium_vector"]
    result = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("return of random actions: 4")
