"""A step of MNM's memory compiled for acting on the CPU: in place, a row at a time while it lies in the cache."""

import math

import numba
import numpy as np
import torch
from torch import Tensor

FAST = {"reassoc", "contract", "arcp", "nsz"}  # sums in any order; a NaN stays a NaN


def supports(memory: Tensor, *vectors: Tensor) -> bool:
    """Whether `step` here computes it: float32 on the CPU, no gradient wanted."""
    return (
        memory.device.type == "cpu"
        and all(x.dtype == torch.float32 for x in (memory, *vectors))
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in (memory, *vectors)))
    )


def step(
    memory: Tensor,
    read_keys: Tensor,
    write_keys: Tensor,
    values: Tensor,
    rates: Tensor,
    targets: Tensor | None,
    bend: bool,
) -> Tensor:
    """Write, then read.

    Args:    memory [B, L, d, d], contiguous, changed in place; read_keys, write_keys and values [B, H, d];
             rates [B, L], the scale of writes included; targets [B, L, H, d] of the perceptron rule, or None for the
             gradient rule; bend: the last layer ends in tanh.
    Returns: what was read [B, d].
    """
    read = torch.empty_like(values[:, 0], memory_format=torch.contiguous_format)
    arrays = [x.detach().contiguous().numpy() for x in (read_keys, write_keys, values, rates)]
    if targets is None:
        _gradient(memory.detach().numpy(), *arrays, bend, read.numpy())
    else:
        _perceptron(memory.detach().numpy(), *arrays, targets.detach().contiguous().numpy(), bend, read.numpy())
    return read


@numba.njit(cache=True, fastmath=FAST, nogil=True)
def _dot(a, b):
    total = np.float32(0)
    for j in range(len(a)):
        total += a[j] * b[j]
    return total


@numba.njit(cache=True, fastmath=FAST, nogil=True)
def _write_row(row, errors, i, rate, keys):
    """row of weights i -= rate sum over heads of errors[h, i] keys[h]."""
    for h in range(len(keys)):
        key, change = keys[h], rate * errors[h, i]
        for j in range(len(row)):
            row[j] -= change * key[j]


@numba.njit(cache=True, fastmath=FAST, nogil=True)
def _mean(heads, out):
    for i in range(len(out)):
        total = np.float32(0)
        for h in range(len(heads)):
            total += heads[h, i]
        out[i] = total / np.float32(len(heads))


@numba.njit(cache=True, fastmath=FAST, nogil=True)
def _perceptron(memory, read_keys, write_keys, values, rates, targets, bend, read):
    """Each row of weights is used, changed and used again at once."""
    B, L, d, _ = memory.shape
    H = read_keys.shape[1]
    zs, found = np.empty((2, H, d), np.float32), np.empty((2, H, d), np.float32)
    errors = np.empty((H, d), np.float32)
    for b in range(B):
        zs[0], found[0] = write_keys[b], read_keys[b]
        for l in range(L):
            z, z_next, a, a_next = zs[l % 2], zs[(l + 1) % 2], found[l % 2], found[(l + 1) % 2]
            bends = bend or l < L - 1
            for i in range(d):
                row = memory[b, l, i]
                for h in range(H):
                    total = _dot(row, z[h])
                    z_next[h, i] = math.tanh(total) if bends else total
                    errors[h, i] = z_next[h, i] - targets[b, l, h, i]
                _write_row(row, errors, i, rates[b, l], z)
                for h in range(H):
                    total = _dot(row, a[h])
                    a_next[h, i] = math.tanh(total) if bends else total
        _mean(found[L % 2], read[b])


@numba.njit(cache=True, fastmath=FAST, nogil=True)
def _gradient(memory, read_keys, write_keys, values, rates, bend, read):
    """Forward and back through the old weights, then each row of them is changed and used at once."""
    B, L, d, _ = memory.shape
    H = read_keys.shape[1]
    zs, errors = np.empty((L + 1, H, d), np.float32), np.empty((L, H, d), np.float32)
    found = np.empty((2, H, d), np.float32)
    one = np.float32(1)
    for b in range(B):
        zs[0], found[0] = write_keys[b], read_keys[b]
        for l in range(L):
            for i in range(d):
                for h in range(H):
                    total = _dot(memory[b, l, i], zs[l, h])
                    zs[l + 1, h, i] = math.tanh(total) if bend or l < L - 1 else total
        for l in range(L - 1, -1, -1):
            error, z = errors[l], zs[l + 1]
            if l == L - 1:
                error[:] = z - values[b]
            else:
                error[:] = 0
                for i in range(d):
                    row = memory[b, l + 1, i]
                    for h in range(H):
                        above = errors[l + 1, h, i]
                        for j in range(d):
                            error[h, j] += above * row[j]
            if bend or l < L - 1:
                for h in range(H):
                    for i in range(d):
                        error[h, i] *= one - z[h, i] * z[h, i]
        for l in range(L):
            a, a_next = found[l % 2], found[(l + 1) % 2]
            for i in range(d):
                row = memory[b, l, i]
                _write_row(row, errors[l], i, rates[b, l], zs[l])
                for h in range(H):
                    total = _dot(row, a[h])
                    a_next[h, i] = math.tanh(total) if bend or l < L - 1 else total
        _mean(found[L % 2], read[b])
