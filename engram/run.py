"""A run on disk: `config.json`, `metrics.jsonl`, TensorBoard events and `checkpoints/` in one folder.

At every instant the folder can be resumed from its newest checkpoint: a kill, a full disk or a torn file costs the
steps since then and nothing else. The metrics of a resumed run are those of an uninterrupted one, but
for the line where a run had ended that is trained on.
"""

import fcntl
import json
import logging
import math
import os
import shlex
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, Self, SupportsFloat

import torch

from engram import checkpoint

KEEP = 2
"""Checkpoints kept in a folder: the newest, and the one before it in case the newest is damaged."""

_log = logging.getLogger(__name__)


class RunError(Exception):
    """One line for the user: the command line prints it without a traceback and exits with status 2."""


class Run:
    """The one writer of a run folder. Others may read it, by `read_config` and `load_checkpoint`, which write nothing.

    Attributes:
        folder: the run folder.
        config: what `config.json` holds.
    """

    def __init__(self, folder: Path, config: dict[str, Any], metrics: FileIO, step: int | None, wall_time: float):
        """Use `create` or `resume`. `metrics` is open and locked; `step` is that of the checkpoint resumed from."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and readers of a run do without

        self.folder, self.config = folder, config
        self._metrics = metrics
        with ExitStack() as stack, _explained(f"write TensorBoard events in {folder}"):
            stack.callback(metrics.close)
            stack.enter_context(_without_tracebacks_of_tensorboard())
            self._tensorboard = SummaryWriter(str(folder), purge_step=None if step is None else step + 1)
            self._at_close = stack.pop_all()
        self._started = time.monotonic() - wall_time

    @classmethod
    def create(cls, folder: str | Path, config: Mapping[str, Any]) -> Self:
        """Make the folder and start a run with `config`, which JSON can hold.

        Raises: RunError if `folder` exists, whatever is in it, or cannot be made. Only what a run has left that was
            killed before its first checkpoint is nothing to keep, and used again.
        """
        folder = Path(folder)
        text = _encoded(config)
        with _explained(f"make the run folder {folder}"):
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                if not _is_blank(folder):
                    again = f"continue it with --resume {shlex.quote(str(folder))}"
                    raise RunError(f"{folder} exists: {again}, or name another folder") from None
            (folder / "checkpoints").mkdir(exist_ok=True)
            metrics = _open_locked(folder)
            checkpoint.write_atomically(folder / "config.json", text)
        return cls(folder, json.loads(text), metrics, step=None, wall_time=0.0)

    @classmethod
    def resume(cls, folder: str | Path) -> Self:
        """Continue the run in `folder` from its newest good checkpoint, which `load_checkpoint` then returns.

        Later checkpoints, all damaged, are renamed to `*.damaged`; later metrics are removed.

        Raises: RunError if there is no run, no good checkpoint, or another process is writing the run.
        """
        folder = Path(folder)
        config = read_config(folder)
        with _explained(f"resume {folder}"):
            metrics = _open_locked(folder)
            try:
                path, content = _newest_good(folder, "cpu")
                for damaged in _checkpoints(folder):
                    if damaged > path:
                        damaged.rename(damaged.with_suffix(".damaged"))
                _cut(metrics, folder / "metrics.jsonl", content["step"])
            except BaseException:
                metrics.close()
                raise
        return cls(folder, config, metrics, content["step"], content["wall_time"])

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint file."""
        return next(reversed(_checkpoints(self.folder)), None)

    def change(self, changes: Mapping[str, Any]) -> None:
        """Replace entries of the config, in `config.json` too. Raises: RunError if the disk is full."""
        self.config = self.config | changes
        with _explained(f"write the config of {self.folder}"):
            checkpoint.write_atomically(self.folder / "config.json", _encoded(self.config))

    def wall_time(self) -> float:
        """Seconds of training so far, those before a resume included, those lost to a crash not."""
        return time.monotonic() - self._started

    def log(self, step: int, scalars: Mapping[str, SupportsFloat]) -> None:
        """Append the line `{"step": ..., "wall_time": ..., name: value, ...}` to `metrics.jsonl`; tell TensorBoard too.

        JSON has no NaN and no infinities: they are written as the strings "nan", "inf" and "-inf", which `float` reads.

        Args:
            step: of training; never less than in the call before.
            scalars: names, but "step" and "wall_time" (seconds of training), to numbers.
        Raises: RunError if the disk is full.
        """
        values = {name: float(value) for name, value in scalars.items()}
        entry: dict[str, Any] = {"step": step, "wall_time": round(self.wall_time(), 3)}
        if taken := entry.keys() & values.keys():
            raise ValueError(f"the scalar {taken.pop()!r} has a name that every line of metrics.jsonl has already")
        entry |= {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
        line = memoryview(json.dumps(entry, allow_nan=False).encode() + b"\n")
        with _explained(f"write the metrics of {self.folder}"):
            while line:
                line = line[self._metrics.write(line) :]
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)

    def save_checkpoint(self, step: int, state: dict[str, Any]) -> Path:
        """Write `checkpoints/step_<step>.pt` and remove all but the newest `KEEP`.

        Log what belongs to `step` first: a resumed run keeps those lines and does not write them again.

        Args:
            step: of training; also what `load_checkpoint` returns with the state.
            state: what `checkpoint.save` takes.
        Returns: the file.
        Raises: RunError if it cannot be written; the older checkpoints are then as they were. TypeError if `state`
            holds what a checkpoint cannot.
        """
        path = self.folder / "checkpoints" / f"step_{step:012d}.pt"
        try:
            os.fsync(self._metrics.fileno())  # first: a checkpoint never outlives the metrics before it
            self._tensorboard.flush()
            checkpoint.save(path, {"step": step, "wall_time": self.wall_time(), "state": state})
            for old in _checkpoints(self.folder)[:-KEEP]:
                old.unlink()
        except OSError as error:
            last = self.last_checkpoint or "none"
            reason = error.strerror or error
            raise RunError(f"cannot write {path}: {reason}; the last good checkpoint is {last}") from error
        return path

    def load_checkpoint(self, map_location: str | torch.device = "cpu") -> tuple[int, dict[str, Any]]:
        """`load_checkpoint` of this run's folder."""
        return load_checkpoint(self.folder, map_location)

    def close(self) -> None:
        """Finish the files and let go of the folder."""
        try:
            self._tensorboard.close()
        except OSError as error:  # metrics.jsonl has the same numbers, and a worse error may be on its way to the user
            _log.warning("cannot finish the TensorBoard events of %s: %s", self.folder, error.strerror)
        finally:
            self._at_close.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_config(folder: str | Path) -> dict[str, Any]:
    """The config of the run in `folder`. Raises: RunError if there is none."""
    path = Path(folder) / "config.json"
    if not path.parent.is_dir():
        raise RunError(f"there is no run folder {folder}")
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{folder} is not a run folder: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """Lines of the run's metrics.jsonl, without a last one torn by a crash. Raises: RunError if there is no file."""
    path, lines = Path(folder) / "metrics.jsonl", []
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise RunError(f"{folder} has no metrics.jsonl") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def load_checkpoint(folder: str | Path, map_location: str | torch.device = "cpu") -> tuple[int, dict[str, Any]]:
    """The newest good checkpoint of the run in `folder`; a damaged one is passed over with a warning.

    Returns: the step it was saved at, and its state with the tensors on `map_location`.
    Raises: RunError if there is none.
    """
    _, content = _newest_good(Path(folder), map_location)
    return content["step"], content["state"]


@contextmanager
def fitting(folder: str | Path) -> Iterator[None]:
    """Loading a state inside this raises RunError, one line, where it is of another program than the config makes."""
    try:
        yield
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).split("\n")[0].rstrip(": ")
        raise RunError(f"the checkpoint of {folder} does not fit its config.json, or this version: {reason}") from error


def _is_blank(folder: Path) -> bool:
    """Whether it holds nothing but the beginning of a run, without a checkpoint or metrics."""
    checkpoints = folder / "checkpoints"
    if not checkpoints.is_dir() or any(path.suffix != ".tmp" for path in checkpoints.iterdir()):
        return False
    names = {path.name for path in folder.iterdir() if not path.name.startswith("events.out.tfevents.")}
    metrics = folder / "metrics.jsonl"
    known = {"checkpoints", "config.json", "config.json.tmp", metrics.name}
    return names <= known and (not metrics.exists() or metrics.stat().st_size == 0)


def _encoded(config: Mapping[str, Any]) -> bytes:
    return json.dumps(config, indent=2).encode() + b"\n"


def _checkpoints(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted((folder / "checkpoints").glob("step_*.pt"))


def _newest_good(folder: Path, map_location: str | torch.device) -> tuple[Path, dict[str, Any]]:
    damaged = []
    for path in reversed(_checkpoints(folder)):
        try:
            content = checkpoint.load(path, map_location)
        except (checkpoint.DamagedCheckpoint, OSError) as error:
            damaged.append(f"{path} ({error})")
            continue
        if damaged:
            _log.warning("passed over %s: using %s", ", ".join(damaged), path)
        return path, content
    reason = ", ".join(damaged) or "none was saved"
    if _is_blank(folder):
        reason += f"; start it again with --folder {shlex.quote(str(folder))}"
    raise RunError(f"{folder} has no usable checkpoint: {reason}")


def _open_locked(folder: Path) -> FileIO:
    """`metrics.jsonl`, open for as long as the run is written, carries the run's lock: the kernel ends it with us."""
    file = open(folder / "metrics.jsonl", "ab", buffering=0)  # noqa: SIM115 -- closed by Run.close
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RunError(f"another process is writing {folder}: stop it first") from None
    return file


def _cut(metrics: FileIO, path: Path, step: int) -> None:
    """End `metrics` before its first line that is later than `step` or torn: one system call, and no disk space."""
    end = 0
    with open(path, "rb") as lines:
        for line in lines:
            try:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
            except (ValueError, LookupError, TypeError):
                break
            end += len(line)
    metrics.truncate(end)


@contextmanager
def _without_tracebacks_of_tensorboard() -> Iterator[None]:
    """The OSError of its writing thread is raised again where the run is next logged or saved, and told in one line."""
    tell = threading.excepthook

    def tell_others(raised: threading.ExceptHookArgs) -> None:
        if not (isinstance(raised.exc_value, OSError) and type(raised.thread).__module__.startswith("tensorboard.")):
            tell(raised)

    threading.excepthook = tell_others
    try:
        yield
    finally:
        threading.excepthook = tell


@contextmanager
def _explained(action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot {action}: {error.strerror or error}") from error
