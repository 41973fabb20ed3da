"""A step of the fast weights of `jbfw` compiled for acting on the CPU: each is read and written once."""

import numpy as np
import torch
from torch import Tensor

from engram.kernels import FAST, njit
from engram.policies import rows


def step(fast: Tensor, h: Tensor, query: Tensor, decay: float, learning_rate: float) -> Tensor:
    """In place fast <- decay fast + learning_rate h h^T, [B, n, n] without gaps; returns fast query [B, n]."""
    found = torch.empty_like(query, memory_format=torch.contiguous_format)
    arrays = (x.contiguous().numpy() for x in (fast, h, query, found))
    rows.run(_step, len(fast), *arrays, np.float32(decay), np.float32(learning_rate))
    return found


@njit(cache=True, fastmath=FAST, nogil=True)
def _step(begin, end, fast, h, query, found, decay, learning_rate):
    n = h.shape[1]
    for b in range(begin, end):
        for i in range(n):
            row, change, total = fast[b, i], learning_rate * h[b, i], np.float32(0)
            for j in range(n):
                new = decay * row[j] + change * h[b, j]
                row[j] = new
                total += new * query[b, j]
            found[b, i] = total
