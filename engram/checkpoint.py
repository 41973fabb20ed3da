"""One checkpoint file: what it can hold, how a crash leaves either the old file or the new one, how damage is noticed.

A file is `torch.save`'s archive followed by the archive's SHA-256, because `torch.load` takes flipped bits in a tensor
for numbers. Plain `torch.load(path)` passes over the digest, and reads the file too.
"""

import copy
import hashlib
import io
import os
import random
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

DIGEST_SIZE = hashlib.sha256().digest_size
NPY = "__npy__"


class DamagedCheckpoint(Exception):
    """The file is not what was written: cut short, or changed since."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path`, whole or not at all.

    Args:
        path: the file, replaced if it is there.
        state: nested dicts (keys str or int), lists and tuples of tensors, numpy arrays and scalars of any dtype but
            object, str, int, float, bool and None. What goes in comes out; tensors come out detached.
    Raises: TypeError naming the entry that cannot be stored; OSError, and then what was at `path` is still there.
    """
    buffer = io.BytesIO()  # serialised in memory first: the only errors of the writing itself are then OSErrors
    torch.save(_encode(state, "state"), buffer)
    archive = buffer.getbuffer()
    write_atomically(path, archive, hashlib.sha256(archive).digest())


def load(path: Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read what `save` wrote, tensors on `map_location`.

    Raises: DamagedCheckpoint if the digest does not fit; OSError.
    """
    content = memoryview(path.read_bytes())
    archive, digest = content[:-DIGEST_SIZE], content[-DIGEST_SIZE:]
    if hashlib.sha256(archive).digest() != digest:
        raise DamagedCheckpoint("torn or corrupt")
    return _decode(torch.load(io.BytesIO(archive), map_location=map_location, weights_only=True))


def is_stream(path: Path) -> bool:
    """Whether a path cannot be replaced: a pipe, or what is open already, as /dev/stdout even where that is a file."""
    is_open = str(path) in ("/dev/stdout", "/dev/stderr") or str(path.parent) in ("/dev/fd", "/proc/self/fd")
    return is_open or (path.exists() and not path.is_file())


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Replace `path` by `parts`: after a kill, a power cut or an OSError it holds the old bytes or all of the new ones.

    One process at a time may write in a folder: the temporary file has a fixed name, so that one left by a kill is
    overwritten by the next write. A stream is appended to, after all that has been printed.
    """
    if is_stream(path):
        sys.stdout.flush()
        with open(path, "ab", buffering=0) as stream:
            for part in parts:
                stream.write(part)
        return
    path = path.resolve()
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)  # the new name is durable once the folder is
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _encode(value: Any, where: str) -> Any:
    """`value` in types that `torch.load(weights_only=True)` reads: a numpy array as the bytes of a .npy file."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        is_part = value.untyped_storage().nbytes() > value.numel() * value.element_size()
        return value.clone() if is_part else value  # torch.save would store the whole that a view is part of
    if (type(value) is np.ndarray or isinstance(value, np.generic)) and not value.dtype.hasobject:
        npy = io.BytesIO()
        np.save(npy, value, allow_pickle=False)
        return {NPY: torch.frombuffer(npy.getbuffer(), dtype=torch.uint8), "scalar": isinstance(value, np.generic)}
    if type(value) in (dict, OrderedDict):
        encoded = copy.copy(value)  # keeps a state dict's _metadata
        for key, entry in value.items():
            if type(key) not in (str, int):
                raise TypeError(f"{where} has the key {key!r}: a checkpoint takes str and int keys")
            encoded[key] = _encode(entry, f"{where}[{key!r}]")
        return encoded
    if type(value) in (list, tuple):
        return type(value)(_encode(entry, f"{where}[{i}]") for i, entry in enumerate(value))
    if type(value) in (str, int, float, bool, type(None)):
        return value
    raise TypeError(
        f"{where} is a {type(value).__name__}: a checkpoint takes dict, list, tuple, tensor, numpy array without"
        " objects, str, int, float, bool and None (a named tuple x as tuple(x))"
    )


def _decode(value: Any) -> Any:
    if type(value) in (dict, OrderedDict):
        if NPY in value:
            array = np.load(io.BytesIO(value[NPY].cpu().numpy()), allow_pickle=False)
            return array[()] if value["scalar"] else array
        for key, entry in value.items():
            value[key] = _decode(entry)
        return value
    if type(value) in (list, tuple):
        return type(value)(_decode(entry) for entry in value)
    return value


def random_state() -> dict[str, Any]:
    """The states of the global generators of Python, numpy and torch, and of the current CUDA device if one is used."""
    state = {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002 -- libraries may draw from the global generator
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Put the generators back to what `random_state` returned; CUDA's only on a machine that has it."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())  # a checkpoint loaded onto a device has it there
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
