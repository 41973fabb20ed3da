"""What the papers used, and what we found better: fields of `Config` by environment, core and preset name."""

from typing import Any

from engram.agents.a2c import A2C
from engram.command_line import ConfigError
from engram.optim import OptimConfig
from engram.policies import FWM, LSTM

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
# costs balance, lambda-returns, and a clipped gradient that bears the higher learning rate. A new graph in every episode
# costs nothing and leaves no training graphs to memorise.
_GRAPH = _GRAPH_PAPER | {
    "env_kwargs": {"num_levels": None},
    "agent": A2C(discount=0.9, reward_scale=0.1, baseline_cost=0.5, entropy_cost=0.04, trace_decay=0.5),
    "optim": OptimConfig(learning_rate=1.5e-3, schedule="linear", epsilon=1e-4, max_grad_norm=0.5),
    "minibatches": 4,
    "total_steps": 60_000_000,
}

PRESETS: dict[tuple[str, str | None, str], dict[str, Any]] = {
    ("graph-pomdp", None, "default"): _GRAPH,
    ("graph-pomdp", None, "paper"): _GRAPH_PAPER,
    ("graph-pomdp", None, "code"): _GRAPH_CODE,
    ("graph-pomdp", "fwm", "code"): _GRAPH_CODE | {"core": FWM.Config(query_activation="none")},
    ("graph-pomdp", "lstm", "paper"): _GRAPH_PAPER | {"core": LSTM.Config(hidden_size=512)},
}
"""(environment, core or None for any, preset name) -> fields"""


def preset(env: str, core: str, name: str) -> dict[str, Any]:
    """The fields of a preset, {} for "default" where there is none. Raises ConfigError naming those there are."""
    for key in ((env, core, name), (env, None, name)):
        if key in PRESETS:
            return dict(PRESETS[key])
    if name == "default":
        return {}
    known = sorted({n for e, c, n in PRESETS if e == env and c in (core, None)} | {"default"})
    raise ConfigError(f"{env} with {core} has no preset {name!r}; choose from {', '.join(known)}")
