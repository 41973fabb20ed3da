"""What the command lines of training share: names that choose a config, flags that change it, one line for an error."""

import argparse
import io
import itertools
import re
import signal
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import redirect_stderr
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import tyro

Config = TypeVar("Config")


class ConfigError(ValueError):
    """One line for the user: a choice that does not exist or does not fit."""


class Resumed(NamedTuple):
    """A run to continue, and what of its config changes, field to value."""

    folder: str
    changes: dict[str, Any]


def choose(
    argv: list[str], names: Mapping[str, str], folders: Mapping[str, str], changes: Mapping[str, Callable[[str], Any]]
) -> tuple[dict[str, Any], list[str]]:
    """The flags that are read before the others, because the others depend on them.

    Args:    argv: arguments without the program's name.
             names: flags such as "core", to their defaults.
             folders: flags that name a run folder and stand alone, to what they do.
             changes: flags that may stand beside --resume all the same, to how their values are read.
    Returns: the values of `names` and `folders`, None for a folder that is not given and a Resumed for that of
             --resume; and the other arguments.
    Raises:  ConfigError.
    """
    chosen, rest = take_flags(argv, dict.fromkeys([*names, *folders], str))
    for name, action in folders.items():
        if name not in chosen:
            continue
        folder = chosen.pop(name)
        changed, rest = take_flags(rest, changes if name == "resume" else {})
        if others := [f"--{other} {value}" for other, value in chosen.items()] + rest:
            raise ConfigError(f"--{name} {folder} {action}; drop {' '.join(others)}")
        chosen[name] = Resumed(folder, changed) if name == "resume" else folder
    return {**names, **dict.fromkeys(folders), **chosen}, rest


def take_flags(argv: list[str], flags: Mapping[str, Callable[[str], Any]]) -> tuple[dict[str, Any], list[str]]:
    """Those of `flags` that are given, by name with underscores, and the other arguments.

    Args:   flags: without dashes, to how their values are read.
    Raises: ConfigError.
    """
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False, argument_default=argparse.SUPPRESS
    )
    for flag, kind in flags.items():
        parser.add_argument(f"--{flag}", type=kind)
    try:
        given, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ConfigError(str(error)) from None
    return vars(given), rest


def read_flags(default: Config, flags: list[str], program: str, description: str) -> Config:
    """`default`, a dataclass, with the fields that `flags` name changed.

    Raises: ConfigError; SystemExit from --help.
    """
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            return tyro.cli(
                type(default),
                default=default,
                args=flags,
                description=description,
                prog=program,
                config=(tyro.conf.SuppressFixed,),
            )
    except SystemExit as error:
        if not error.code:  # --help
            raise
        raise ConfigError(_one_line(complaint.getvalue())) from None


def check_name(kind: str, name: str, known: Collection[str]) -> None:
    """Raise a ConfigError that names the choices unless `name` is one of them."""
    if name not in known:
        close = get_close_matches(name, known, n=1)
        suggestion = f", did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"no {kind} is called {name!r}{suggestion}; choose from {', '.join(known)}")


def torch_device(name: str) -> torch.device:
    """The device meant by --device: auto is cuda where there is one. Raises ConfigError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise ConfigError(f"there is no --device {name}; choose auto, cpu, cuda or cuda:N")
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"cannot use --device {name} ({reason}); choose another, or auto") from error


def exit_status(program: Callable[[], int | None], *expected: type[Exception], who: str = "") -> int:
    """What `program` returns, 0 for nothing, and no traceback for what is no fault of ours.

    An error that is `expected`, memory that ran out and an interrupt end in one line on standard error, which names
    `who` if that is given; the status is then 2, or 130 where interrupted.
    """
    try:
        return program() or 0
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        if isinstance(error, expected):
            complaint = str(error)
        elif isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            complaint = f"out of memory: {error}"  # torch raises a plain RuntimeError where it is the CPU's
        else:
            raise
        print(f"error: {who}{complaint}", file=sys.stderr)
        return 2


def new_folder(stem: str) -> Path:
    """runs/stem, with a number behind it if that exists."""
    return next(p for n in itertools.count(1) if not (p := Path("runs", stem + (f"-{n}" if n > 1 else ""))).exists())


def _one_line(box: str) -> str:
    """What tyro says in a box, of ASCII where stdout has no other: a title, then sections with rules between them.

    The first is the complaint; another may have flags to use.
    """
    rows = [row.strip("│╰╯ ") for row in box.splitlines()[1:]]
    said, *rest = filter(str.strip, re.split("^[─-]+$", "\n".join(rows), flags=re.MULTILINE))
    said = re.sub(r"^Error parsing [A-Z]\w*: ", "", " ".join(said.split()).rstrip("."))  # of the config as a whole
    said = re.sub(r"^Error parsing (?:--)?", "--", said)
    hints = "\n".join(part for part in rest if re.search(r"^(Perhaps you meant|Arguments similar)", part, re.MULTILINE))
    near = sorted(re.findall(r"^--[^\s,]+", hints, re.MULTILINE))  # tyro's own order is not always the same
    return said + (f"; did you mean {' or '.join(near)}?" if near else "; --help shows the flags")
