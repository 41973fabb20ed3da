"""A step of MNM's memory compiled for acting on the CPU: in place, a row at a time while it lies in the cache."""

import numpy as np
import torch
from torch import Tensor

from engram.kernels import FAST, njit
from engram.policies import rows


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
        rows.run(_gradient, len(memory), memory.detach().numpy(), *arrays, bend, read.numpy())
    else:
        arrays.append(targets.detach().contiguous().numpy())
        rows.run(_perceptron, len(memory), memory.detach().numpy(), *arrays, bend, read.numpy())
    return read


@njit(cache=True, fastmath=FAST, nogil=True)
def _tanh(x):
    """In place, by the quotient of polynomials that Eigen uses: within 3e-7, and a dozen numbers at a time."""
    flat, bound = x.reshape(-1), np.float32(7.9)
    for k in range(len(flat)):
        y = bound if flat[k] > bound else (-bound if flat[k] < -bound else flat[k])
        y2 = y * y
        p = np.float32(-2.76076847742355e-16) * y2 + np.float32(2.00018790482477e-13)
        p = p * y2 + np.float32(-8.60467152213735e-11)
        p = p * y2 + np.float32(5.12229709037114e-08)
        p = p * y2 + np.float32(1.48572235717979e-05)
        p = p * y2 + np.float32(6.37261928875436e-04)
        p = p * y2 + np.float32(4.89352455891786e-03)
        q = np.float32(1.19825839466702e-06) * y2 + np.float32(1.18534705686654e-04)
        q = q * y2 + np.float32(2.26843463243900e-03)
        q = q * y2 + np.float32(4.89352518554385e-03)
        flat[k] = y * p / q


@njit(cache=True, fastmath=FAST, nogil=True)
def _product(weights, vectors, out):
    """out[h] = weights vectors[h]; four rows at a time, as a single sum would wait for itself."""
    d = len(weights)
    whole = d - d % 4
    for i in range(0, whole, 4):
        row0, row1, row2, row3 = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        for h in range(len(vectors)):
            vector = vectors[h]
            sum0, sum1, sum2, sum3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            for j in range(d):
                sum0 += row0[j] * vector[j]
                sum1 += row1[j] * vector[j]
                sum2 += row2[j] * vector[j]
                sum3 += row3[j] * vector[j]
            out[h, i], out[h, i + 1], out[h, i + 2], out[h, i + 3] = sum0, sum1, sum2, sum3
    for i in range(whole, d):
        for h in range(len(vectors)):
            total = np.float32(0)
            for j in range(d):
                total += weights[i, j] * vectors[h, j]
            out[h, i] = total


@njit(cache=True, fastmath=FAST, nogil=True)
def _write(weights, errors, rate, keys):
    """weights -= rate sum over heads of errors[h] keys[h]^T."""
    for i in range(len(weights)):
        row = weights[i]
        for h in range(len(keys)):
            key, change = keys[h], rate * errors[h, i]
            for j in range(len(row)):
                row[j] -= change * key[j]


@njit(cache=True, fastmath=FAST, nogil=True)
def _mean(heads, out):
    for i in range(len(out)):
        total = np.float32(0)
        for h in range(len(heads)):
            total += heads[h, i]
        out[i] = total / np.float32(len(heads))


@njit(cache=True, fastmath=FAST, nogil=True)
def _perceptron(begin, end, memory, read_keys, write_keys, values, rates, targets, bend, read):
    """A layer is used, changed and used again while it is near."""
    _, L, d, _ = memory.shape
    H = read_keys.shape[1]
    zs, found = np.empty((2, H, d), np.float32), np.empty((2, H, d), np.float32)
    errors = np.empty((H, d), np.float32)
    for b in range(begin, end):
        zs[0], found[0] = write_keys[b], read_keys[b]
        for l in range(L):
            weights, bends = memory[b, l], bend or l < L - 1
            z, z_next, a, a_next = zs[l % 2], zs[(l + 1) % 2], found[l % 2], found[(l + 1) % 2]
            _product(weights, z, z_next)
            if bends:
                _tanh(z_next)
            errors[:] = z_next - targets[b, l]
            _write(weights, errors, rates[b, l], z)
            _product(weights, a, a_next)
            if bends:
                _tanh(a_next)
        _mean(found[L % 2], read[b])


@njit(cache=True, fastmath=FAST, nogil=True)
def _gradient(begin, end, memory, read_keys, write_keys, values, rates, bend, read):
    """Forward and back through the old weights, then each layer of them is changed and used at once."""
    _, L, d, _ = memory.shape
    H = read_keys.shape[1]
    zs, errors = np.empty((L + 1, H, d), np.float32), np.empty((L, H, d), np.float32)
    found = np.empty((2, H, d), np.float32)
    one = np.float32(1)
    for b in range(begin, end):
        zs[0], found[0] = write_keys[b], read_keys[b]
        for l in range(L):
            _product(memory[b, l], zs[l], zs[l + 1])
            if bend or l < L - 1:
                _tanh(zs[l + 1])
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
            _write(memory[b, l], errors[l], rates[b, l], zs[l])
            _product(memory[b, l], a, a_next)
            if bend or l < L - 1:
                _tanh(a_next)
        _mean(found[L % 2], read[b])
