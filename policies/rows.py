"""Compiled kernels over the rows of a batch, in as many threads as torch computes with.

Not Numba's parallel loops: of its threading layers, one dies where two actors call at once and one after a fork.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

SHARE = 2**20
"""bytes of arrays for which it pays to wake a thread, which takes some 50 us"""


def compiles(first: Tensor, *others: Tensor | None) -> bool:
    """Whether sequences of these are compiled: all float32 or all float64, on the CPU; not within torch.compile."""
    return (
        first.device.type == "cpu"
        and first.dtype in (torch.float32, torch.float64)
        and all(x is None or x.dtype == first.dtype for x in others)
        and not torch.compiler.is_compiling()
    )


def acts(first: Tensor, *others: Tensor | None) -> bool:
    """Whether a step of these is compiled, for acting: all float32, on the CPU, without gradients."""
    return not torch.is_grad_enabled() and first.dtype == torch.float32 and compiles(first, *others)


def array(x: Tensor) -> np.ndarray:
    """The numbers of x without gaps between them."""
    return x.detach().contiguous().numpy()


def run(kernel: Callable, num_rows: int, *args) -> None:
    """kernel(begin, end, *args) on slices that make up `num_rows`.

    The kernel releases the interpreter's lock and treats each row alone, so that the number of threads changes nothing
    in what it writes into the arrays among `args`.
    """
    size = sum(x.nbytes for x in args if isinstance(x, np.ndarray))
    threads = torch.get_num_threads()
    parts = max(1, min(threads, num_rows, size // SHARE))
    cuts = [num_rows * i // parts for i in range(parts + 1)]
    others = [_pool(threads - 1).submit(kernel, *cut, *args) for cut in pairwise(cuts[1:])]
    try:
        kernel(0, cuts[1], *args)
    finally:
        wait(others)  # also after an error, as they write into the arrays
    for other in others:
        other.result()


@cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads, "rows")


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_pool.cache_clear)  # of all threads, a fork has the one that forked
