"""One step of FWM's memory for acting on a CPU: a whole row's write and reads while its memory lies in the cache."""

import numba
import numpy as np
import torch
from torch import Tensor

FAST = {"reassoc", "contract", "arcp", "nsz"}  # sums in any order; a NaN stays a NaN


def supports(memory: Tensor, entry: tuple, query: tuple, key: str) -> bool:
    """Whether `step` here computes it: float32 on the CPU, tensor keys, no gradient wanted."""
    return (
        key == "tensor"
        and memory.device.type == "cpu"
        and memory.dtype == entry.value.dtype == torch.float32
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in (memory, *entry, *query)))
    )


def step(memory: Tensor, entry: tuple, query: tuple) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """As `fwm_memory.step`, without gradient and in place: memory [B, d, d * d], entry and query with leading [B]."""
    asked, read = torch.empty_like(query.e), torch.empty_like(entry.value)
    strength, square = torch.empty_like(entry.rate), torch.empty_like(entry.rate)
    arrays = (x.detach().numpy() for x in (memory, *entry, *query, asked, read, strength, square))
    _step(*arrays)
    diagnosed = {"read_n": asked, "read_e": query.e, "write_strength": strength, "memory_norm": square.sqrt()}
    return read, memory, diagnosed


@numba.njit(cache=True, fastmath=FAST, nogil=True)
def _address(key1, key2, out):
    d = len(key1)
    for i in range(d):
        for j in range(d):
            out[i * d + j] = key1[i] * key2[j]


@numba.njit(cache=True, fastmath=FAST, nogil=True)
def _lookup(memory, address, out):
    for m in range(len(out)):
        row, total = memory[m], np.float32(0)
        for a in range(len(address)):
            total += row[a] * address[a]
        out[m] = total


@numba.njit(cache=True, fastmath=FAST, nogil=True)
def _step(memory, key1, key2, value, rate, n0, e, asked, read, strength, square):
    B, d, width = memory.shape
    one, eps = np.float32(1), np.float32(1e-5)
    address, found = np.empty(width, np.float32), np.empty(d, np.float32)
    for b in range(B):
        _address(key1[b], key2[b], address)
        _lookup(memory[b], address, found)
        total, length = np.float32(0), np.float32(0)
        for a in range(width):
            length += address[a] * address[a]
        for m in range(d):
            row, change = memory[b, m], rate[b] * (value[b, m] - found[m])
            for a in range(width):
                row[a] += change * address[a]
                total += row[a] * row[a]
        strength[b], square[b] = rate[b] * length, total
        if total > one:
            shrink = one / np.sqrt(total)
            flat = memory[b].reshape(-1)
            for a in range(len(flat)):
                flat[a] *= shrink
        n = read[b]
        n[:] = n0[b]
        for r in range(e.shape[1]):
            asked[b, r] = n
            _address(n, e[b, r], address)
            _lookup(memory[b], address, found)
            mean, variance = np.float32(0), np.float32(0)
            for m in range(d):
                mean += found[m]
            mean /= np.float32(d)
            for m in range(d):
                variance += (found[m] - mean) ** 2
            scale = one / np.sqrt(variance / np.float32(d) + eps)
            for m in range(d):
                n[m] = (found[m] - mean) * scale
