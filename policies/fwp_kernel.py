"""A step of the delta rule compiled for the CPU, for acting: each matrix is written and read while in the cache."""

import numba
import numpy as np
import torch
from torch import Tensor

FAST = {"reassoc", "contract", "arcp", "nsz"}  # sums in any order; a NaN stays a NaN


def supports(memory: Tensor, write: tuple, query: Tensor) -> bool:
    """Whether `step` computes it: float32 on the CPU, no gradients, matrices without gaps."""
    return (
        not torch.is_grad_enabled()
        and memory.device.type == "cpu"
        and memory.dtype == write[0].dtype == query.dtype == torch.float32
        and memory.stride()[-2:] == (memory.shape[-1], 1)
    )


def step(memory: Tensor, write: tuple, query: Tensor) -> Tensor:
    """As `delta_rule.step`, in place: memory [..., K, V] -> what was read [..., V]."""
    places = torch.tensor(memory.storage_offset())
    for size, stride in zip(memory.shape[:-2], memory.stride()[:-2], strict=True):
        places = places[..., None] + stride * torch.arange(size)
    storage = memory.as_strided((memory.untyped_storage().nbytes() // memory.element_size(),), (1,), 0)
    key, value, rate = write
    summed = rate is None
    rate = key.new_ones(key.shape[:-1]) if summed else rate
    found = torch.empty(memory.shape[:-2] + memory.shape[-1:])
    rows = (
        x.expand(*memory.shape[:-2], x.shape[-1]).reshape(-1, x.shape[-1]).contiguous() for x in (key, value, query)
    )
    key, value, query = (x.detach().numpy() for x in rows)
    rate = rate.expand(memory.shape[:-2]).reshape(-1).contiguous().detach().numpy()
    _step(
        storage.numpy(),
        places.reshape(-1).numpy(),
        key,
        value,
        rate,
        query,
        found.view(-1, found.shape[-1]).numpy(),
        summed,
    )
    return found


@numba.njit(cache=True, fastmath=FAST, nogil=True)
def _step(storage, places, key, value, rate, query, found, summed):
    N, K = key.shape
    V = value.shape[1]
    change = np.empty(V, np.float32)
    for n in range(N):
        memory = storage[places[n] : places[n] + K * V].reshape(K, V)
        change[:] = 0
        if not summed:
            for i in range(K):
                row, k = memory[i], key[n, i]
                for m in range(V):
                    change[m] += k * row[m]
        for m in range(V):
            change[m] = rate[n] * (value[n, m] - change[m])
        out = found[n]
        out[:] = 0
        for i in range(K):
            row, k, q = memory[i], key[n, i], query[n, i]
            for m in range(V):
                row[m] += k * change[m]
                out[m] += q * row[m]
