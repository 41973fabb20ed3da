"""Functions that Numba compiles for the CPU and keeps on disk."""

import os
from collections.abc import Callable
from types import FunctionType

import numba
import numpy as np
from numba.core.dispatcher import Dispatcher

FAST = {"reassoc", "contract", "arcp", "nsz"}
"""`fastmath` for sums in any order, where a NaN stays a NaN"""


def njit(**options) -> Callable[[FunctionType], Dispatcher]:
    """`numba.njit` with a cache that knows of what a function takes from other files.

    Numba itself compares the file of the function alone, and would go on with old code of what it calls elsewhere.
    """

    def decorate(function: FunctionType) -> Dispatcher:
        compiled = numba.njit(**options)(function)
        if options.get("cache"):
            index = compiled._cache._cache_file  # Numba has no public name for it
            index._source_stamp = index._source_stamp, tuple(sorted(_taken(function)))
        return compiled

    return decorate


def _taken(function: FunctionType, seen: tuple[FunctionType, ...] = ()) -> set[tuple]:
    """Constants that a function names, and the state of each file with a kernel that it calls, directly or not."""
    found = set()
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, Dispatcher) and value.py_func not in seen:
            file = os.stat(value.py_func.__code__.co_filename)
            found.add((value.py_func.__code__.co_filename, str(file.st_mtime_ns), str(file.st_size)))
            found |= _taken(value.py_func, (*seen, function))
        elif isinstance(value, np.ndarray):
            found.add((name, str(value.dtype), value.tobytes().hex()))
        elif isinstance(value, int | float | str | tuple):
            found.add((name, type(value).__name__, repr(value)))
    return found
