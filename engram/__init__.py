"""Reinforcement-learning agents with memory: environments, memory cores, learners.

The folders `agents`, `envs`, `policies` and `supervised` stand at the top of a checkout and are imported as
`engram.agents`, `engram.envs`, ...: importing `engram` makes that work and registers the Gymnasium ids.
"""

from pathlib import Path

_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "train_rl.py").is_file():  # a checkout, installed or not: engram.envs is <checkout>/envs
    __path__.append(str(_checkout))

from engram import envs  # noqa: E402, F401 -- needs the line above; registers the Gymnasium ids

__version__ = "0.1.0"
