"""FWM's memory compiled for the CPU, a row at a time while what it needs lies in the cache.

`step` is the literal step for acting; `scan` and `scan_backward` are the sequential part of the dual form for learning.
"""

import numpy as np
import torch
from torch import Tensor

from engram.kernels import FAST, njit
from engram.policies import rows

LAYER_NORM_EPS = 1e-5
"""not cosmetic: the first reads of an episode are far below its root, and stay small"""


def step(memory: Tensor, entry: tuple, query: tuple) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """As `fwm_memory.step`, without gradient and in place: memory [B, d, d * d], entry and query with leading [B]."""
    reads, strength, square = (torch.empty_like(x) for x in (query.e, entry.rate, entry.rate))
    arrays = (x.detach().numpy() for x in (memory, *entry, *query, reads, strength, square))
    rows.run(_step, len(memory), *arrays)
    return reads, memory, {"write_strength": strength, "memory_norm": square.sqrt()}


def scan(*tensors: Tensor) -> None:
    """As `fwm_memory._scan`."""
    rows.run(_scan, len(tensors[0]), *(x.detach().numpy() for x in tensors))


def scan_backward(*tensors: Tensor) -> None:
    """As `fwm_memory._scan_backward`."""
    rows.run(_scan_backward, len(tensors[0]), *(x.detach().numpy() for x in tensors))


@njit(cache=True, fastmath=FAST, nogil=True)
def _dot(a, b):
    total = a[0] * b[0]
    for m in range(1, len(a)):
        total += a[m] * b[m]
    return total


@njit(cache=True, fastmath=FAST, nogil=True)
def _address(key1, key2, out):
    d = len(key1)
    for i in range(d):
        for j in range(d):
            out[i * d + j] = key1[i] * key2[j]


@njit(cache=True, fastmath=FAST, nogil=True)
def _write(memory, written, value, rate, address, out):
    """memory += rate (value - memory written) written^T, out = memory address; returns |memory|^2. In a single pass, as
    what is written to a row of the memory depends on that row alone."""
    total = np.float32(0)
    for m in range(len(out)):
        row, old, found = memory[m], np.float32(0), np.float32(0)
        for a in range(len(row)):
            old += row[a] * written[a]
        change = rate * (value[m] - old)
        for a in range(len(row)):
            new = row[a] + change * written[a]
            row[a] = new
            total += new * new
            found += new * address[a]
        out[m] = found
    return total


@njit(cache=True, fastmath=FAST, nogil=True)
def _read(memory, scale, address, out):
    """out = memory address, after memory *= scale in the same pass."""
    for m in range(len(out)):
        row, total = memory[m], np.float32(0)
        if scale == np.float32(1):
            for a in range(len(row)):
                total += row[a] * address[a]
        else:
            for a in range(len(row)):
                new = scale * row[a]
                row[a] = new
                total += new * address[a]
        out[m] = total


@njit(cache=True, fastmath=FAST, nogil=True)
def _normalise(x, out):
    """out = LayerNorm(x)."""
    d, mean, variance = np.float32(len(x)), np.float32(0), np.float32(0)
    for m in range(len(x)):
        mean += x[m]
    mean /= d
    for m in range(len(x)):
        variance += (x[m] - mean) ** 2
    scale = np.float32(1) / np.sqrt(variance / d + np.float32(LAYER_NORM_EPS))
    for m in range(len(x)):
        out[m] = (x[m] - mean) * scale


@njit(cache=True, fastmath=FAST, nogil=True)
def _step(begin, end, memory, key1, key2, value, rate, n, e, reads, strength, square):
    _, d, width = memory.shape
    one = np.float32(1)
    written, address, asked = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(d, np.float32)
    for b in range(begin, end):
        _address(key1[b], key2[b], written)
        _address(n[b, 0], e[b, 0, 0], address)
        total = _write(memory[b], written, value[b], rate[b], address, reads[b, 0, 0])
        strength[b], square[b] = rate[b] * _dot(written, written), total
        shrink = one if total <= one else one / np.sqrt(total)
        reads[b, 0, 0] *= shrink
        for c in range(e.shape[1]):
            for r in range(e.shape[2]):
                if r > 0:
                    _normalise(reads[b, c, r - 1], asked)
                if c + r > 0:  # else it was read while it was written
                    _address(asked if r > 0 else n[b, c], e[b, c, r], address)
                    _read(memory[b], shrink, address, reads[b, c, r])
                    shrink = one
        if shrink != one:  # a single read, which had no pass to scale in
            memory[b] *= shrink


@njit(cache=True, fastmath=FAST, nogil=True)
def _scan(begin, end, gram, retained, value, rate, norm2, starts, written, old, logs, befores, squares, decay, faded):
    _, T, d = value.shape
    zero, one = value.dtype.type(0), value.dtype.type(1)
    u = np.empty(d, value.dtype)
    for b in range(begin, end):
        norm, log = norm2[b], zero
        for t in range(T):
            if starts[b, t]:
                norm, log = zero, zero
            befores[b, t] = log
            was, shrink = old[b, t], np.exp(-log)
            for m in range(d):
                was[m] = retained[b, t, m] * shrink
            for s in range(t):
                kept = one if befores[b, s] == log else min(one, np.exp(befores[b, s] - log))
                if not kept >= zero:
                    kept = zero
                weight = gram[b, t, s] * kept
                decay[b, t, s], faded[b, t, s] = kept, weight
                for m in range(d):
                    was[m] += weight * written[b, s, m]
            c = rate[b, t]
            for m in range(d):
                u[m] = value[b, t, m] - was[m]
                write = c * u[m]
                written[b, t, m] = write if abs(write) < np.inf else zero  # by comparing: isfinite is reassociated away
            u_was, u_u = _dot(u, was), _dot(u, u)
            square = norm + c * (u_was + u_was) + c * c * gram[b, t, t] * u_u
            squares[b, t], norm = square, square
            if not square <= one:
                log += np.log(np.sqrt(square))
                norm = square / square
            logs[b, t] = log


@njit(cache=True, fastmath=FAST, nogil=True)
def _scan_backward(
    begin, end, gram, value, rate, starts, old, squares, faded, grad_written, grad_logs,
    grad_value, grad_old, grad_rate, grad_diagonal, grad_norm2,
):  # fmt: skip
    _, T, d = value.shape
    zero, one, two = value.dtype.type(0), value.dtype.type(1), value.dtype.type(2)
    u, later, grad_u = np.empty(d, value.dtype), np.empty(d, value.dtype), np.empty(d, value.dtype)
    for b in range(begin, end):
        grad_norm, grad_log = zero, zero
        for t in range(T - 1, -1, -1):
            later[:] = 0
            for s in range(t + 1, T):
                weight, grad = faded[b, s, t], grad_old[b, s]
                for m in range(d):
                    later[m] += weight * grad[m]
            c, was, square, key2 = rate[b, t], old[b, t], squares[b, t], gram[b, t, t]
            for m in range(d):
                u[m] = value[b, t, m] - was[m]
                grad_u[m] = grad_written[b, t, m] + later[m]
            u_u, u_was, u_grad = _dot(u, u), _dot(u, was), _dot(u, grad_u)
            grad_log += grad_logs[b, t]
            grad_square = grad_log / (two * square) if square > one else grad_norm
            c2 = two * c * grad_square
            for m in range(d):
                grad_value[b, t, m] = c * grad_u[m] + c2 * was[m] + c * c2 * key2 * u[m]
                grad_old[b, t, m] = c2 * u[m] - grad_value[b, t, m]
            grad_rate[b, t] = u_grad + two * grad_square * (u_was + c * key2 * u_u)
            grad_diagonal[b, t] = c * c * u_u * grad_square
            grad_log += c * _dot(u, later) - _dot(grad_old[b, t], was)
            grad_norm = grad_square
            if starts[b, t]:
                grad_log, grad_norm = zero, zero
        grad_norm2[b] = grad_norm
