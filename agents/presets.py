"""What the papers used, and what we found better: fields of `Config` by environment, core and preset name."""

import dataclasses
from typing import Any

from engram.agents.a2c import A2C
from engram.agents.config import PolicyConfig
from engram.agents.impala import IMPALA
from engram.command_line import ConfigError
from engram.optim import OptimConfig
from engram.policies import FWM, LSTM, MNM, RMC, ConvLSTM

# Schlag et al. 2021, App. I; optimiser, length and batch from the authors' program. 31 steps are one episode of 30 and
# the step that starts the next, so that every rollout holds 600 whole episodes, one on each training graph.
_GRAPH_PAPER = {
    "num_envs": 600,
    "unroll_length": 31,
    "agent": A2C(discount=0.9, baseline_cost=0.1, entropy_cost=0.03),
    "optim": OptimConfig(learning_rate=1e-3, epsilon=1e-4),
    "total_steps": 51_000 * 18_000,
    "eval_interval": 50 * 18_000,
    "eval_episodes": 600,
}
# What the released program runs: no reward among the inputs, a timer that successes leave running, its own graphs.
_GRAPH_CODE = _GRAPH_PAPER | {
    "env_kwargs": {
        "rules": "code",
        "reward_obs": "zero",
        "none_action_slot": "shared",
        "generator": "listing",
        "level_base_seed": 666,
    }
}
# Ours, an order of magnitude fewer episodes to the same return: four updates a rollout, rewards of order 1 so that the
# costs balance, lambda-returns, and a clipped gradient that bears the higher learning rate. A new graph for every
# episode costs next to nothing and leaves none to memorise.
_GRAPH_COSTS = {"discount": 0.9, "reward_scale": 0.1, "baseline_cost": 0.5, "entropy_cost": 0.04}
_GRAPH = _GRAPH_PAPER | {
    "env_kwargs": {"num_levels": None},
    "agent": A2C(**_GRAPH_COSTS, trace_decay=0.5),
    "optim": OptimConfig(learning_rate=1.5e-3, schedule="linear", epsilon=1e-4, max_grad_norm=0.5),
    "minibatches": 4,
    "total_steps": 60_000_000,
}
# Twice the paper's units cost little beside the memory. With one chain of reads and Adam the agent looks edges up, and
# hardly ever plans over two of them. Several chains, a readout that sees what all of them found, and Muon, which learns
# what is rarely asked for as fast as the rest, earn 113 after 20 million steps instead of 98.
_GRAPH_FWM = _GRAPH | {
    "core": FWM.Config(hidden_size=64, num_chains=3, readout_size=128),
    "optim": OptimConfig("muon", learning_rate=5e-3, schedule="linear", epsilon=1e-7, max_grad_norm=0.5),
    "total_steps": 30_000_000,
}
# For who has two hours of a core: more units, which learn more from a step, and eight updates a rollout, by which A2C
# collapses and V-trace does not.
_GRAPH_FWM_LARGE = _GRAPH_FWM | {
    "core": dataclasses.replace(_GRAPH_FWM["core"], hidden_size=256),
    "agent": IMPALA(**_GRAPH_COSTS, trace_decay=0.3),
    "optim": dataclasses.replace(_GRAPH_FWM["optim"], learning_rate=4e-3),
    "minibatches": 8,
    "total_steps": 100_000_000,
}

# Miconi et al. 2018, whose set-up Munkhdalai et al. 2019 (Sec. 4.3) take over: whole episodes of 250 steps, one at a
# time. Their entropy term is the sum of squared probabilities; ours is in nats.
_MAZE_PAPER = {
    "num_envs": 1,
    "unroll_length": 251,
    "agent": A2C(discount=0.9, baseline_cost=0.03, entropy_cost=0.1, returns="monte-carlo"),
    "optim": OptimConfig(learning_rate=1e-4, epsilon=1e-4),
    "total_steps": 250_000_000,
}
_MAZE_PLASTIC = _MAZE_PAPER | {"env_kwargs": {"obs": "miconi2018"}}
# Ours, 40 times fewer episodes to the plastic networks' 175: a batch, bootstrapped lambda-returns of 50 steps.
_MAZE_COSTS = {"discount": 0.95, "reward_scale": 0.1, "baseline_cost": 0.5, "entropy_cost": 0.02, "trace_decay": 0.9}
_MAZE = {
    "num_envs": 128,
    "unroll_length": 50,
    "agent": A2C(**_MAZE_COSTS),
    "optim": OptimConfig(learning_rate=1e-3, schedule="linear", epsilon=1e-4, max_grad_norm=0.5),
    "minibatches": 4,
    "total_steps": 6_000_000,
    "eval_episodes": 410,
}
_MAZE_MNM = _MAZE | {"core": MNM.Config(128, 128, 32)}
# With the above one LSTM of two fell back to random play; V-trace corrects for the updates within a rollout.
_MAZE_LSTM = _MAZE | {
    "core": LSTM.Config(128),
    "agent": IMPALA(**_MAZE_COSTS),
    "optim": dataclasses.replace(_MAZE["optim"], learning_rate=5e-4),
    "total_steps": 16_000_000,
}
# Santoro et al. 2018, App. A.3; its learning rate is tuned between 1e-5 and 2e-4, and the optimiser is not stated: that
# of Espeholt et al. 2018. Mini-Pacman is trained alike, as its own set-up is not given.
_GRID_PAPER = {
    "num_envs": 32,
    "unroll_length": 40,
    "agent": IMPALA(discount=0.99, baseline_cost=0.25, entropy_cost=0.005, reduction="sum"),
    "optim": OptimConfig("rmsprop", learning_rate=1e-4, epsilon=0.01, max_grad_norm=40.0),
    "total_steps": 1_000_000_000,
}
# Ours, for half an hour of a CPU core.
_PACMAN = {
    "num_envs": 128,
    "unroll_length": 40,
    "agent": A2C(discount=0.99, reward_scale=0.2, baseline_cost=0.5, entropy_cost=0.01, trace_decay=0.95),
    "optim": OptimConfig(learning_rate=1e-3, schedule="linear", max_grad_norm=0.5),
    "minibatches": 4,
    "total_steps": 6_000_000,
    "eval_episodes": 400,
}
_BOXES = _PACMAN | {
    "agent": dataclasses.replace(_PACMAN["agent"], reward_scale=0.5, entropy_cost=0.005),
    "optim": dataclasses.replace(_PACMAN["optim"], learning_rate=7e-4),
    "total_steps": 18_000_000,
}
_EASY_BOXES = _BOXES | {"env_kwargs": {"solution_length": (1, 2), "num_distractors": (0,)}}
# Ours, for half an hour of a CPU core. Without normalised pixels the little that moves on a screen is lost before its
# background: on Pong, the baseline had learned nothing after 600,000 steps.
_ATARI = {
    "num_envs": 16,
    "unroll_length": 32,
    "policy": PolicyConfig(encoder="shallow", normalize_observation=True),
    "agent": A2C(discount=0.99, reward_clip=1.0, baseline_cost=0.5, entropy_cost=0.01, trace_decay=0.95),
    "optim": OptimConfig(learning_rate=5e-4, schedule="linear", max_grad_norm=0.5),
    "minibatches": 4,
    "total_steps": 1_000_000,
    "eval_episodes": 30,
}
# Irie et al. 2021, Sec. 4.4; numbers of the released program, a fork of TorchBeast, whose baseline cost of 0.5 is on
# half the squared error. Steps are the agent's, 4 frames each.
_ATARI_PAPER = {
    "num_envs": 32,
    "unroll_length": 50,
    "policy": PolicyConfig(encoder="impala", last_reward=True, reward_clip=1.0),
    "agent": IMPALA(discount=0.99, baseline_cost=0.25, entropy_cost=0.01, reward_clip=1.0, reduction="sum"),
    "optim": OptimConfig("rmsprop", learning_rate=6e-4, schedule="linear", epsilon=0.01, max_grad_norm=40.0),
    "total_steps": 50_000_000,
    "eval_episodes": 30,
}
# Le et al. 2020, Sec. 3.4; numbers of the released program, which is asynchronous, with AMSGrad and four smaller
# convolutions.
_PONG = {
    "num_envs": 32,
    "unroll_length": 20,
    "agent": A2C(discount=0.99, baseline_cost=0.25, entropy_cost=0.01, trace_decay=0.92, reduction="sum"),
    "optim": OptimConfig(learning_rate=1e-4, epsilon=1e-3),
    "eval_episodes": 30,
}

PRESETS: dict[tuple[str, str | None, str], dict[str, Any]] = {
    ("graph-pomdp", None, "default"): _GRAPH,
    ("graph-pomdp", "fwm", "default"): _GRAPH_FWM,
    ("graph-pomdp", "fwm", "large"): _GRAPH_FWM_LARGE,
    ("graph-pomdp", None, "paper"): _GRAPH_PAPER,
    ("graph-pomdp", None, "code"): _GRAPH_CODE,
    ("graph-pomdp", "fwm", "code"): _GRAPH_CODE | {"core": FWM.Config(query_activation="none")},
    ("graph-pomdp", "lstm", "paper"): _GRAPH_PAPER | {"core": LSTM.Config(hidden_size=512)},
    ("maze", None, "default"): _MAZE,
    ("maze", "lstm", "default"): _MAZE_LSTM,
    ("maze", "mnm", "default"): _MAZE_MNM,
    ("maze", "mnm-p", "default"): _MAZE_MNM,
    ("maze", "mnm-g", "default"): _MAZE | {"core": dataclasses.replace(_MAZE_MNM["core"], rule="gradient")},
    ("maze", None, "paper"): _MAZE_PAPER,
    ("maze", "plastic", "paper"): _MAZE_PLASTIC,
    ("maze", "plastic-homogeneous", "paper"): _MAZE_PLASTIC,
    ("maze", "plastic-rnn", "paper"): _MAZE_PLASTIC,
    ("boxworld", None, "default"): _BOXES,
    ("boxworld", "lstm", "default"): _BOXES | {"core": LSTM.Config(128)},
    ("boxworld", None, "easy"): _EASY_BOXES,
    ("boxworld", "lstm", "easy"): _EASY_BOXES | {"core": LSTM.Config(128)},
    ("boxworld", None, "paper"): _GRID_PAPER,
    ("boxworld", "rmc", "paper"): _GRID_PAPER | {"core": RMC.Config(head_size=64)},
    ("boxworld", "convlstm", "paper"): _GRID_PAPER | {"core": ConvLSTM.Config(height=5, width=5)},
    ("mini-pacman", None, "default"): _PACMAN,
    ("mini-pacman", "lstm", "default"): _PACMAN | {"core": LSTM.Config(128)},
    ("mini-pacman", None, "paper"): _GRID_PAPER,
    ("mini-pacman", "rmc", "paper"): _GRID_PAPER | {"core": RMC.Config(head_size=64)},
    ("mini-pacman", "convlstm", "paper"): _GRID_PAPER | {"core": ConvLSTM.Config(height=5, width=5)},
    ("atari", None, "default"): _ATARI,
    ("atari", "lstm", "default"): _ATARI | {"core": LSTM.Config(256)},
    ("atari", None, "paper"): _ATARI_PAPER,
    ("atari", "lstm", "paper"): _ATARI_PAPER | {"core": LSTM.Config(256)},
    ("pong", None, "default"): _PONG,
    ("pong", "lstm", "default"): _PONG | {"core": LSTM.Config(256)},
}
"""(environment, or "atari" for all of its games, core or None for any, preset name) -> fields"""


def preset(env: str, core: str, name: str) -> dict[str, Any]:
    """The fields of a preset, {} for "default" where there is none. Raises ConfigError naming those there are."""
    family = env.partition(":")[0]
    for key in ((family, core, name), (family, None, name)):
        if key in PRESETS:
            return dict(PRESETS[key])
    if name == "default":
        return {}
    known = sorted({n for e, c, n in PRESETS if e == family and c in (core, None)} | {"default"})
    raise ConfigError(f"{env} with {core} has no preset {name!r}; choose from {', '.join(known)}")
