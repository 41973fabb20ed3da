"""The configuration of a run: one tree of frozen dataclasses, a command line over it, and its form in JSON."""

import ast
import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from engram.agents import AGENTS
from engram.agents.actor_critic import ActorCritic
from engram.agents.sb3 import SB3_AGENTS
from engram.command_line import ConfigError, Resumed, check_name, choose, new_folder, read_flags
from engram.flags import Flags
from engram.optim import OptimConfig
from engram.policies import CORES, CoreConfig, core_config
from engram.policies.encoders import EncoderName


@dataclass(frozen=True)
class EnvConfig(Flags):
    section: ClassVar[str] = "env"
    name: tyro.conf.Fixed[str]
    num_envs: int = 64
    """environments stepped together"""
    kwargs: Any = field(default_factory=dict)
    """the environment's own options"""

    def __post_init__(self):
        self.require(self.num_envs >= 1, "num_envs", "at least 1")

    def options(self, split: str | None = None) -> dict[str, Any]:
        """Keyword arguments of the environment; another split of its levels, where its levels are split."""
        options = self.kwargs if isinstance(self.kwargs, dict) else dataclasses.asdict(self.kwargs)
        return options | {"split": split} if split and options.get("split") else options


@dataclass(frozen=True)
class PolicyConfig(Flags):
    section: ClassVar[str] = "policy"
    encoder: EncoderName = "auto"
    """how images are read: auto is nature from 36 x 36 pixels and box below; what is no image has one encoder"""
    last_action: bool | None = None
    """the core also reads the previous action, one-hot where it is a choice; None where the environment asks for it"""
    last_reward: bool = False
    """the core also reads the previous reward"""
    reward_clip: float | None = None
    """the previous reward is clamped to [-reward_clip, reward_clip] before it is read; None for no limit"""
    normalize_observation: bool = False
    """vectors of floats and pixels are normalised by the mean and deviation of all that was observed in training"""

    def __post_init__(self):
        self.require(self.reward_clip is None or self.reward_clip > 0, "reward_clip", "above 0, or None")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Flags):
    """What runs of every agent have in common, and all that those of other packages have."""

    env: EnvConfig
    agent_name: tyro.conf.Fixed[str]
    agent: Any
    unroll_length: int = 20
    """steps of each environment in a rollout"""
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
    """the run folder; None for one in runs named by environment, core, agent and seed, with a number behind it if that
    exists"""

    def __post_init__(self):
        for name in ("unroll_length", "total_steps", "eval_interval", "eval_episodes", "log_interval"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
        if self.env.options().get("split") == "test":
            raise ConfigError("env.kwargs.split='test' is held out, to evaluate on (--env.kwargs.split)")
        self.require(self.save_minutes >= 0, "save_minutes", "at least 0")
        self.require(0 <= self.seed < 2**31, "seed", "at least 0 and below 2**31")  # beyond are seeds of evaluations

    @property
    def title(self) -> str:
        """What the trained policy is called beside others on the same environment."""
        return self.agent_name

    def new_folder(self) -> Path:
        """Where the run goes: `folder`, else the first free one named after the run."""
        if self.folder is not None:
            return Path(self.folder)
        what = dict.fromkeys((self.env.name, self.title, self.agent_name))
        name = f"{'-'.join(what)}-s{self.seed}"
        return new_folder(name.replace("/", "-").replace(":", "-"))


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """Everything a run of ours depends on; saved with it, and all that evaluating or resuming it needs."""

    core_name: tyro.conf.Fixed[str]
    core: CoreConfig
    policy: PolicyConfig = PolicyConfig()
    optim: OptimConfig = field(default_factory=OptimConfig)
    minibatches: int = 1
    """parts of a rollout, by environments, that get an update each, one after the other"""
    actors: Literal["inline", "threads", "ray"] = "inline"
    """where rollouts come from: inline plays and learns in turn; threads, or ray's processes, play while this learns,
    with older policies"""
    num_actors: int = 1
    """threads or processes that play, each in env.num_envs environments of its own; a rollout is always of one actor"""
    queue_size: int = 1
    """rollouts waiting for the learner from which on no thread begins another"""
    actor_timeout: float = 300.0
    """seconds that a thread or process may take for a rollout, before it counts as hung"""
    ray_address: str | None = None
    """HOST:PORT of the Ray cluster that actors run on; None for one on this machine, for as long as the run lasts"""

    def __post_init__(self):
        super().__post_init__()
        for name in ("minibatches", "num_actors", "queue_size"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
        if self.minibatches > self.env.num_envs:
            raise ConfigError(
                f"minibatches={self.minibatches}, but it must be at most env.num_envs={self.env.num_envs} "
                "(--minibatches, --env.num-envs)"
            )
        if self.actors == "inline" and self.num_actors > 1:
            raise ConfigError(
                f"num_actors={self.num_actors}, but --actors inline is one (--num-actors, --actors threads)"
            )
        if self.actors != "threads" and self.queue_size > 1:
            queue = f"--actors {self.actors} has no queue (--queue-size, --actors threads)"
            raise ConfigError(f"queue_size={self.queue_size}, but {queue}")
        if self.actors != "ray" and self.ray_address is not None:
            raise ConfigError(f"ray_address={self.ray_address}, but --actors {self.actors} needs none (--ray-address)")
        self.require(self.actor_timeout > 0, "actor_timeout", "above 0")

    @property
    def title(self) -> str:
        return self.core_name


EnvOptions = Callable[[str], Mapping[str, Any]]
"""the options of an environment by name, each with `annotation`, `default` and `help`"""


def parse(
    argv: list[str], env_options: EnvOptions, preset: Callable[[str, str, str], dict]
) -> tuple[RunConfig | None, Resumed | None]:
    """The command line: a config, or a run to resume.

    Args:   argv: arguments without the program's name.
            env_options: the options of an environment.
            preset: (env, core, preset) -> the fields of Config that differ from the defaults.
    Raises: ConfigError; SystemExit from --help.
    """
    names = {"env": "graph-pomdp", "core": None, "agent": None, "preset": "default"}
    folders = {"resume": "continues that run with its own config, but for --total-steps and --device"}
    chosen, rest = choose(argv, names, folders, {"total-steps": int, "device": str})
    if chosen["resume"] is not None:
        return None, chosen["resume"]
    env, core, agent = chosen["env"], chosen["core"], chosen["agent"]
    kwargs, rest = ({}, rest) if env_options(env) else _unknown_options(rest)
    if agent in SB3_AGENTS:
        if core is not None:
            raise ConfigError(f"--agent {agent} has a network of its own: drop --core {core}, or choose another agent")
        default, what = make_sb3_config(env, agent, chosen["preset"], env_options, preset), "that package's network"
    else:
        default = make_config(env, "fwm" if core is None else core, agent, chosen["preset"], env_options, preset)
        what = f"--core {default.core_name} ({', '.join(CORES)})"
    description = (
        f"Train {what} on --env {env} with --agent {default.agent_name} ({', '.join([*AGENTS, *SB3_AGENTS])}) and "
        f"--preset {chosen['preset']}. --resume FOLDER continues a run with its own config, of which --total-steps and "
        "--device may change; a learning rate that falls then falls over the new length. The values below are those of "
        "this choice."
    )
    config = read_flags(default, rest, "train_rl.py", description)
    return dataclasses.replace(config, env=dataclasses.replace(config.env, kwargs=kwargs)) if kwargs else config, None


def make_config(
    env: str, core: str, agent: str | None, preset_name: str, env_options: EnvOptions, preset: Callable[..., dict]
) -> Config:
    """The config that a choice of names stands for; agent None is that of the preset. Raises ConfigError."""
    check_name("core", core, CORES)
    fields = preset(env, core, preset_name)
    costs = fields.pop("agent", AGENTS["a2c"])
    if agent is None:
        agent = next(name for name, known in AGENTS.items() if type(known) is type(costs))
    check_name("agent", agent, [*AGENTS, *SB3_AGENTS])
    shared = {field.name: getattr(costs, field.name) for field in dataclasses.fields(ActorCritic)}
    costs = costs if type(costs) is type(AGENTS[agent]) else dataclasses.replace(AGENTS[agent], **shared)
    where = _env_config(env, fields, env_options)
    fields = {"core": core_config(core)} | fields
    return Config(env=where, core_name=core, agent_name=agent, agent=costs, **fields)


def make_sb3_config(
    env: str, agent: str, preset_name: str, env_options: EnvOptions, preset: Callable[..., dict]
) -> RunConfig:
    """The config of another package's agent: what the preset says of the environment and the run, and the discount."""
    fields = preset(env, agent, preset_name)
    constants = dataclasses.replace(SB3_AGENTS[agent], gamma=fields.pop("agent", AGENTS["a2c"]).discount)
    where = _env_config(env, fields, env_options)
    known = {field.name for field in dataclasses.fields(RunConfig)}
    fields = {name: value for name, value in fields.items() if name in known}
    return RunConfig(env=where, agent_name=agent, agent=constants, **fields)


def _env_config(env: str, fields: dict[str, Any], env_options: EnvOptions) -> EnvConfig:
    """The environment's part of a preset's fields, which are left without it."""
    num_envs, kwargs = fields.pop("num_envs", EnvConfig.num_envs), fields.pop("env_kwargs", {})
    return EnvConfig(env, num_envs, _options_class(env_options(env))(**kwargs))


def to_json(config: RunConfig) -> dict[str, Any]:
    """The config as JSON holds it."""
    return dataclasses.asdict(config)


def from_json(saved: dict[str, Any]) -> RunConfig:
    """The config that `to_json` gave. Raises ConfigError if this version of the program cannot read it."""
    if not isinstance(saved, dict):
        raise ConfigError("this config.json is of another version: it holds no config")
    if "task_name" in saved:
        raise ConfigError("this is a run of engram.supervised.train, which also judges and resumes it")
    try:
        parts = {"env": EnvConfig(**saved["env"] | {"kwargs": _tuples(saved["env"]["kwargs"])})}
        if saved["agent_name"] in SB3_AGENTS:
            parts["agent"] = type(SB3_AGENTS[saved["agent_name"]])(**saved["agent"])
            return RunConfig(**saved | parts)
        parts |= {
            "core": type(core_config(saved["core_name"]))(**saved["core"]),
            "agent": type(AGENTS[saved["agent_name"]])(**saved["agent"]),
            "policy": PolicyConfig(**saved["policy"]),
            "optim": OptimConfig(**saved["optim"]),
        }
        return Config(**saved | parts)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"this config.json is of another version: {error}") from error


def _unknown_options(flags: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Options of an environment that tells of none, and the other flags: --env.kwargs.NAME VALUE, a literal or text."""
    options, rest, remaining = {}, [], iter(flags)
    for flag in remaining:
        name, equals, value = flag.partition("=")
        if not name.startswith("--env.kwargs."):
            rest.append(flag)
            continue
        value = value if equals else next(remaining, None)
        if value is None or value.startswith("--"):
            raise ConfigError(f"{name} needs a value")
        option = name.removeprefix("--env.kwargs.").replace("-", "_")
        try:
            options[option] = ast.literal_eval(value)
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            options[option] = value
        try:
            kept = json.loads(json.dumps(options[option]))
        except TypeError as error:
            raise ConfigError(f"{name}={value}, but config.json cannot hold it: {error}") from error
        if kept != _lists(options[option]):
            raise ConfigError(f"{name}={value}, but config.json would hold {kept}")
        options[option] = kept
    return _tuples(options), rest


def _options_class(known: Mapping[str, Any]) -> type:
    """The options of an environment as a dataclass, so that each gets a flag of its type; presets are ours."""
    fields = [
        (name, Annotated[option.annotation, tyro.conf.arg(help=option.help)], field(default=option.default))
        for name, option in known.items()
        if name != "preset"
    ]
    return dataclasses.make_dataclass("Options", fields, frozen=True)


def _lists(value: Any) -> Any:
    """The value with lists for tuples, as JSON has it."""
    if isinstance(value, dict):
        return {name: _lists(part) for name, part in value.items()}
    return [_lists(part) for part in value] if isinstance(value, list | tuple) else value


def _tuples(options: dict[str, Any]) -> dict[str, Any]:
    """Options as they were before JSON made lists of tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
