"""The configuration of a supervised run: frozen dataclasses, a command line over them, and their form in JSON."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from engram.command_line import ConfigError, check_name, choose, new_folder, read_flags
from engram.flags import Flags
from engram.optim import OptimConfig
from engram.policies import CORES, CoreConfig, core_config
from engram.supervised.awd import AWDConfig
from engram.supervised.model import ModelConfig
from engram.supervised.presets import preset
from engram.supervised.tasks import TASKS, Task


@dataclass(frozen=True)
class Config(Flags):
    """Everything a run depends on; saved with it, and all that evaluating or resuming it needs."""

    task_name: tyro.conf.Fixed[str]
    task: Task
    core_name: tyro.conf.Fixed[str]
    core: CoreConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    awd: AWDConfig = field(default_factory=AWDConfig)
    aux_cost: float = 1.0
    """weight of the core's own losses, where it has any"""
    batch_size: int = 64
    """examples of an update; rows of a stream"""
    total_updates: int = 10_000
    """updates at which training ends"""
    eval_interval: int = 500
    """updates between evaluations on the valid set"""
    log_interval: int = 50
    """updates that one line of metrics.jsonl averages"""
    save_minutes: float = 1.0
    """minutes between checkpoints"""
    seed: int = 0
    """of the weights, and of which training examples come and in what order"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto is cuda where there is one"""
    folder: str | None = None
    """the run folder; None for runs/TASK-CORE-sSEED, with a number behind it if that exists"""

    def __post_init__(self):
        for name in ("batch_size", "total_updates", "eval_interval", "log_interval"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
        for name in ("aux_cost", "save_minutes"):
            self.require(getattr(self, name) >= 0, name, "at least 0")
        self.require(0 <= self.seed < 2**32, "seed", "at least 0 and below 2**32")

    def new_folder(self) -> Path:
        """Where the run goes."""
        return Path(self.folder) if self.folder else new_folder(f"{self.task_name}-{self.core_name}-s{self.seed}")


def make_config(task: str, core: str, preset_name: str) -> Config:
    """The config that a choice of names stands for. Raises ConfigError naming the choices."""
    check_name("task", task, TASKS)
    check_name("core", core, CORES)
    return dataclasses.replace(Config(task, TASKS[task], core, core_config(core)), **preset(task, core, preset_name))


def parse(argv: list[str]) -> tuple[Config | None, str | None, str | None]:
    """The command line: a config, or the folder of a run to resume, or of one to evaluate.

    Raises: ConfigError; SystemExit from --help.
    """
    names = {"task": "associative-retrieval", "core": "fwm", "preset": "small"}
    folders = {"resume": "continues that run with its own config", "eval": "judges that run by its own config"}
    chosen, rest = choose(argv, names, folders)
    if chosen["resume"] or chosen["eval"]:
        return None, chosen["resume"], chosen["eval"]
    default = make_config(chosen["task"], chosen["core"], chosen["preset"])
    description = (
        f"Train --core {chosen['core']} ({', '.join(CORES)}) on --task {chosen['task']} ({', '.join(TASKS)}) with "
        f"--preset {chosen['preset']} (small, paper); --resume FOLDER continues a run and --eval FOLDER judges it, "
        "each on its own. The values below are those of this choice."
    )
    return read_flags(default, rest, "engram.supervised.train", description), None, None


def to_json(config: Config) -> dict[str, Any]:
    """The config as JSON holds it."""
    return dataclasses.asdict(config)


def from_json(saved: dict[str, Any]) -> Config:
    """The config that `to_json` gave. Raises ConfigError if this version of the program cannot read it."""
    try:
        parts = {
            "task": type(TASKS[saved["task_name"]])(**saved["task"]),
            "core": type(core_config(saved["core_name"]))(**saved["core"]),
            "model": ModelConfig(**saved["model"]),
            "optim": OptimConfig(**saved["optim"]),
            "awd": AWDConfig(**saved["awd"]),
        }
        return Config(**saved | parts)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"this config.json is of another version: {error}") from error
