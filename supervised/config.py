"""The configuration of a supervised run: frozen dataclasses, a command line over them, and their form in JSON."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from engram.command_line import ConfigError, Resumed, check_name, choose, new_folder, read_flags, take_flags
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


class Inspection(NamedTuple):
    """What is asked for beside --eval."""

    chosen: str
    """the words of a sentence, or the number of a test example"""
    page: str | None
    """the file to draw it in"""


def parse_inspection(argv: list[str]) -> tuple[Inspection | None, list[str]]:
    """The flags --inspect and --report of the command line, and the others. Raises: ConfigError."""
    given, rest = take_flags(argv, {"inspect": str, "report": str})
    if "inspect" in given:
        return Inspection(given["inspect"], given.get("report")), rest
    if "report" in given:
        raise ConfigError(f"--report {given['report']} says where --inspect draws; add --inspect")
    return None, rest


def parse(argv: list[str]) -> tuple[Config | None, Resumed | None, str | None]:
    """The command line: a config, or a run to resume, or the folder of one to evaluate.

    Raises: ConfigError; SystemExit from --help.
    """
    names = {"task": "associative-retrieval", "core": "fwm", "preset": "small"}
    folders = {
        "resume": "continues that run with its own config, but for --total-updates and --device",
        "eval": "judges that run by its own config",
    }
    chosen, rest = choose(argv, names, folders, {"total-updates": int, "device": str})
    if chosen["resume"] is not None or chosen["eval"] is not None:
        return None, chosen["resume"], chosen["eval"]
    default = make_config(chosen["task"], chosen["core"], chosen["preset"])
    description = (
        f"Train --core {chosen['core']} ({', '.join(CORES)}) on --task {chosen['task']} ({', '.join(TASKS)}) with "
        f"--preset {chosen['preset']} (small, paper). --resume FOLDER continues a run with its own config, of which "
        "--total-updates and --device may change; a learning rate that falls then falls over the new length. --eval "
        'FOLDER judges a run, on its own. --eval FOLDER --inspect "mary went to the kitchen . where is mary ?" draws '
        "what the memory of the run looks back at in that sentence, --inspect 17 in that test example (of catbabi-* a "
        "story, of text a window), on a page: FOLDER/inspect.html or --report FILE. The values below are those of this "
        "choice."
    )
    config = read_flags(default, rest, "engram.supervised.train", description)
    return dataclasses.replace(config, task=_found_anywhere(_itself(config.task, config.task_name))), None, None


def _itself(task: Task, name: str) -> Task:
    """The task, whose options have not made it another of the registry. Raises ConfigError."""
    for other_name, other in TASKS.items():
        telling = {field: value for field, value in vars(other).items() if value != vars(TASKS[name]).get(field)}
        if type(other) is type(task) and telling and telling.items() <= vars(task).items():
            raise ConfigError(f"with these options --task {name} is another task: choose --task {other_name}")
    return task


def _found_anywhere(task: Task) -> Task:
    """The task, with its folder of data under a name that holds in every working folder."""
    folder = vars(task).get("data_dir")
    return task if folder is None else dataclasses.replace(task, data_dir=str(Path(folder).resolve()))


def to_json(config: Config) -> dict[str, Any]:
    """The config as JSON holds it."""
    return dataclasses.asdict(config)


def from_json(saved: dict[str, Any]) -> Config:
    """The config that `to_json` gave. Raises ConfigError if this version of the program cannot read it."""
    if "env" in saved:
        raise ConfigError("this is a run of train_rl.py, which also resumes it; eval_rl.py judges it")
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
