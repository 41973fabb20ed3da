"""The configuration of a run: one tree of frozen dataclasses, a command line over it, and its form in JSON."""

import argparse
import dataclasses
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from inspect import Parameter
from pathlib import Path
from typing import Any

import torch
import tyro

from engram.agents import AGENTS
from engram.agents.learner import OptimConfig
from engram.policies import CORES, CoreConfig, core_config


class ConfigError(ValueError):
    """One line for the user: a choice that does not exist or does not fit."""


@dataclass(frozen=True)
class EnvConfig:
    name: tyro.conf.Fixed[str]
    num_envs: int = 64
    """environments stepped together"""
    kwargs: Any = field(default_factory=dict)
    """the environment's own options"""

    def options(self, split: str | None = None) -> dict[str, Any]:
        """Keyword arguments of the environment; another split of its levels, where it has splits."""
        options = self.kwargs if isinstance(self.kwargs, dict) else dataclasses.asdict(self.kwargs)
        return options | {"split": split} if split and "split" in options else options


@dataclass(frozen=True)
class PolicyConfig:
    last_action: bool = False
    """the core also reads the previous action, one-hot"""
    last_reward: bool = False
    """the core also reads the previous reward"""


@dataclass(frozen=True)
class Config:
    """Everything a run depends on; saved with it, and all that evaluating or resuming it needs."""

    env: EnvConfig
    core_name: tyro.conf.Fixed[str]
    core: CoreConfig
    agent_name: tyro.conf.Fixed[str]
    agent: Any
    policy: PolicyConfig = PolicyConfig()
    optim: OptimConfig = field(default_factory=OptimConfig)
    unroll_length: int = 20
    """steps of each environment between updates"""
    total_steps: int = 10_000_000
    """steps of all environments together at which training ends"""
    eval_interval: int = 1_000_000
    """steps between evaluations, on held-out levels where the environment has them"""
    eval_episodes: int = 100
    """episodes of an evaluation during training"""
    log_interval: int = 10
    """rollouts that one line of metrics.jsonl averages"""
    save_minutes: float = 1.0
    """minutes between checkpoints"""
    seed: int = 0
    """of the weights, the actions and the environments"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto is cuda where there is one"""
    folder: str | None = None
    """the run folder; None for runs/ENV-CORE-AGENT-sSEED, with a number behind it if that exists"""

    def __post_init__(self):
        for name in ("unroll_length", "total_steps", "eval_interval", "eval_episodes", "log_interval"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}, but it must be at least 1 (--{_flag(name)})")
        if self.env.num_envs < 1:
            raise ConfigError(f"env.num_envs={self.env.num_envs}, but it must be at least 1 (--env.num-envs)")
        if self.optim.minibatches > self.env.num_envs:
            raise ConfigError(
                f"optim.minibatches={self.optim.minibatches}, but it must be at most env.num_envs={self.env.num_envs} "
                "(--optim.minibatches, --env.num-envs)"
            )
        if not self.save_minutes >= 0:
            raise ConfigError(f"save_minutes={self.save_minutes}, but it must be at least 0 (--save-minutes)")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed={self.seed}, but it must be at least 0 and below 2**32 (--seed)")

    def torch_device(self) -> torch.device:
        """The device meant by `device`. Raises ConfigError if it is not there."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.partition(":")[0] not in ("cpu", "cuda"):
            raise ConfigError(f"there is no --device {self.device}; choose auto, cpu, cuda or cuda:N")
        try:
            return torch.zeros((), device=self.device).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"cannot use --device {self.device} ({reason}); choose another, or auto") from error

    def new_folder(self) -> Path:
        """Where the run goes: `folder`, else the first free one named after the run."""
        if self.folder is not None:
            return Path(self.folder)
        stem = f"{self.env.name}-{self.core_name}-{self.agent_name}-s{self.seed}".replace("/", "-").replace(":", "-")
        return next(
            p for n in itertools.count(1) if not (p := Path("runs", stem + (f"-{n}" if n > 1 else ""))).exists()
        )


EnvOptions = Callable[[str], Mapping[str, Parameter]]


def parse(
    argv: list[str], env_options: EnvOptions, preset: Callable[[str, str, str, str], dict]
) -> tuple[Config | None, str | None]:
    """The command line: a config, or the folder of a run to resume.

    Args:   argv: arguments without the program's name.
            env_options: the options of an environment by name, as parameters of its constructor.
            preset: (env, core, agent, preset) -> the fields of Config that differ from the defaults.
    Raises: ConfigError; SystemExit from --help and from flags that do not exist.
    """
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--env", default="graph-pomdp")
    chooser.add_argument("--core", default="fwm")
    chooser.add_argument("--agent", default="a2c")
    chooser.add_argument("--preset", default="default")
    chooser.add_argument("--resume")
    chosen, rest = chooser.parse_known_args(argv)
    if chosen.resume is not None:
        if argv not in (["--resume", chosen.resume], [f"--resume={chosen.resume}"]):
            raise ConfigError(f"--resume {chosen.resume} continues that run with its own config; drop the other flags")
        return None, chosen.resume
    default = make_config(chosen.env, chosen.core, chosen.agent, chosen.preset, env_options, preset)
    description = (
        f"Train --core {chosen.core} ({', '.join(CORES)}) on --env {chosen.env} with --agent {chosen.agent} "
        f"({', '.join(AGENTS)}) and --preset {chosen.preset}; --resume FOLDER continues a run, on its own. "
        "The values below are those of this choice."
    )
    config = tyro.cli(
        Config,
        default=default,
        args=rest,
        description=description,
        prog="train_rl.py",
        config=(tyro.conf.SuppressFixed,),
    )
    return config, None


def make_config(
    env: str, core: str, agent: str, preset_name: str, env_options: EnvOptions, preset: Callable[..., dict]
) -> Config:
    """The config that a choice of names stands for. Raises ConfigError naming the choices."""
    if agent not in AGENTS:
        raise ConfigError(f"no agent is called {agent!r}{_suggest(agent, AGENTS)}; choose from {', '.join(AGENTS)}")
    if core not in CORES:
        raise ConfigError(f"no core is called {core!r}{_suggest(core, CORES)}; choose from {', '.join(CORES)}")
    fields = preset(env, core, agent, preset_name)
    num_envs, kwargs = fields.pop("num_envs", EnvConfig.num_envs), fields.pop("env_kwargs", {})
    options = _options_class(env, env_options(env))
    base = Config(EnvConfig(env, num_envs, options(**kwargs)), core, core_config(core), agent, AGENTS[agent])
    return dataclasses.replace(base, **fields)


def to_json(config: Config) -> dict[str, Any]:
    """The config as JSON holds it."""
    return dataclasses.asdict(config)


def from_json(saved: dict[str, Any]) -> Config:
    """The config that `to_json` gave. Raises ConfigError if this version of the program cannot read it."""
    try:
        parts = {
            "env": EnvConfig(**saved["env"]),
            "core": type(core_config(saved["core_name"]))(**saved["core"]),
            "agent": type(AGENTS[saved["agent_name"]])(**saved["agent"]),
            "policy": PolicyConfig(**saved["policy"]),
            "optim": OptimConfig(**saved["optim"]),
        }
        return Config(**saved | parts)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"this config.json is of another version: {error}") from error


def _options_class(env: str, parameters: Mapping[str, Parameter]) -> type:
    """The options of an environment as a dataclass, so that each gets a flag of its type; presets are ours."""
    fields = [(p.name, p.annotation, field(default=p.default)) for p in parameters.values() if p.name != "preset"]
    return dataclasses.make_dataclass("Options", fields, frozen=True)


def _suggest(name: str, known: Mapping[str, Any]) -> str:
    close = get_close_matches(name, known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _flag(name: str) -> str:
    return name.replace("_", "-")
