"""The delta rule compiled for the CPU, where each matrix is written and read while it is in the cache.

`step` is for acting, in place. `Sequence` is for learning: at the sizes of a head, the literal steps over a matrix in
the cache are faster than the products of the chunkwise form.
"""

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from engram.policies import rows

FAST = {"reassoc", "contract", "arcp", "nsz"}  # sums in any order; a NaN stays a NaN


def supports(memory: Tensor, write: tuple, query: Tensor) -> bool:
    """Whether `step` computes it: float32 on the CPU, no gradients, matrices without gaps."""
    return (
        not torch.is_grad_enabled()
        and memory.device.type == "cpu"
        and memory.dtype == write[0].dtype == query.dtype == torch.float32
        and memory.stride()[-2:] == (memory.shape[-1], 1)
    )


def compiles(memory: Tensor, write: tuple, query: Tensor) -> bool:
    """Whether `Sequence` computes it: float32 or float64 on the CPU."""
    return (
        memory.device.type == "cpu"
        and memory.dtype in (torch.float32, torch.float64)
        and all(x is None or x.dtype == memory.dtype for x in (*write, query))
    )


def step(memory: Tensor, write: tuple, query: Tensor) -> Tensor:
    """As `delta_rule.step`, in place: memory [..., K, V] -> what was read [..., V]."""
    places = torch.tensor(memory.storage_offset())
    for size, stride in zip(memory.shape[:-2], memory.stride()[:-2], strict=True):
        places = places[..., None] + stride * torch.arange(size)
    storage = memory.as_strided((memory.untyped_storage().nbytes() // memory.element_size(),), (1,), 0)
    found = torch.empty(memory.shape[:-2] + memory.shape[-1:])
    arrays = _vectors(write, query, memory.shape[:-2])
    places, read = places.reshape(-1).numpy(), found.view(-1, found.shape[-1]).numpy()
    rows.run(_step, len(places), storage.numpy(), places, *arrays, read, write[2] is None)
    return found


class Sequence(torch.autograd.Function):
    """As `delta_rule.sequence`, differentiable.

    The backward pass builds the last memory of each episode again and then undoes its writes one by one, so that
    nothing is kept but vectors.
    """

    @staticmethod
    def forward(ctx, memory, key, value, rate, query, starts):
        """memory [B, ..., K, V], the vectors [T, B, ..., K or V], rate [T, B, ...] or None, starts bool [T, B]."""
        *leading, K, V = memory.shape
        ctx.summed = rate is None
        before, starts = memory.detach().reshape(-1, K, V), starts.contiguous().numpy()
        arrays = _vectors((key, value, rate), query, (len(key), *leading))
        arrays = [x.reshape(len(starts), len(before), *x.shape[1:]) for x in arrays]
        last, found = before.clone(memory_format=torch.contiguous_format), value.new_empty(len(key), *leading, V)
        errors = np.empty_like(arrays[1])
        rows.run(
            _sequence, len(last), last.numpy(), *arrays, starts, errors, found.numpy().reshape(errors.shape), ctx.summed
        )
        key, _, rate, query = arrays
        ctx.shapes = leading, K, V
        ctx.save_for_backward(memory)
        ctx.kept = key, rate, query, starts, errors
        return found, last.view(memory.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_found, grad_memory):
        leading, K, V = ctx.shapes
        key, rate, query, _, errors = ctx.kept
        (memory,) = (x.detach().reshape(-1, K, V).contiguous() for x in ctx.saved_tensors)
        grad_memory = grad_memory.reshape(-1, K, V).clone(memory_format=torch.contiguous_format)
        grads = [np.empty_like(x) for x in (key, errors, rate, query)]
        grad_found = grad_found.contiguous().numpy().reshape(errors.shape)
        rows.run(
            _sequence_backward, len(memory), memory.numpy(), *ctx.kept, grad_found, grad_memory.numpy(), *grads,
            ctx.summed,
        )  # fmt: skip
        key, value, rate, query = (torch.from_numpy(x) for x in grads)
        T = len(key)
        key, value, query = (x.view(T, *leading, -1) for x in (key, value, query))
        return grad_memory.view(*leading, K, V), key, value, None if ctx.summed else rate.view(T, *leading), query, None


def _vectors(write: tuple, query: Tensor, leading: tuple[int, ...]) -> list[np.ndarray]:
    """Key, value, rate (1 where there is none) and query of `leading` matrices, in rows [N, K or V], the rate [N]."""
    key, value, rate = write
    rate = key.new_ones(1) if rate is None else rate
    vectors = (x.expand(*leading, x.shape[-1]).reshape(-1, x.shape[-1]) for x in (key, value, query))
    key, value, query, rate = (x.detach().contiguous().numpy() for x in (*vectors, rate.expand(leading).reshape(-1)))
    return [key, value, rate, query]


@numba.njit(cache=True, fastmath=FAST, nogil=True)
def _combine(matrix, weights, out):
    """out = weights matrix."""
    out[:] = 0
    for i in range(len(matrix)):
        row, weight = matrix[i], weights[i]
        for m in range(len(out)):
            out[m] += weight * row[m]


@numba.njit(cache=True, fastmath=FAST, nogil=True)
def _write(memory, key, change, query, out):
    """memory += key change^T, out = query memory."""
    out[:] = 0
    for i in range(len(memory)):
        row, k, q = memory[i], key[i], query[i]
        for m in range(len(out)):
            new = row[m] + k * change[m]
            row[m] = new
            out[m] += q * new


@numba.njit(cache=True, fastmath=FAST, nogil=True)
def _step(begin, end, storage, places, key, value, rate, query, found, summed):
    K, V = key.shape[1], value.shape[1]
    change = np.empty(V, np.float32)
    for n in range(begin, end):
        memory = storage[places[n] : places[n] + K * V].reshape(K, V)
        if summed:
            change[:] = value[n]
        else:
            _combine(memory, key[n], change)
            for m in range(V):
                change[m] = rate[n] * (value[n, m] - change[m])
        _write(memory, key[n], change, query[n], found[n])


@numba.njit(cache=True, fastmath=FAST, nogil=True)
def _sequence(begin, end, memory, key, value, rate, query, starts, errors, found, summed):
    """Fills errors, v - k M before each write, and found; memory [N, K, V] is the first one and becomes the last."""
    T, N, V = value.shape
    heads = N // starts.shape[1]
    change = np.empty(V, value.dtype)
    for n in range(begin, end):
        for t in range(T):
            if starts[t, n // heads]:
                memory[n] = 0
            error = errors[t, n]
            if summed:
                error[:] = value[t, n]
            else:
                _combine(memory[n], key[t, n], error)
                for m in range(V):
                    error[m] = value[t, n, m] - error[m]
            for m in range(V):
                change[m] = rate[t, n] * error[m]
            _write(memory[n], key[t, n], change, query[t, n], found[t, n])


@numba.njit(cache=True, fastmath=FAST, nogil=True)
def _sequence_backward(
    begin, end, first, key, rate, query, starts, errors, grad_found, grad_memory,
    grad_key, grad_value, grad_rate, grad_query, summed,
):  # fmt: skip
    """Fills the last four; grad_memory, of the last memory, becomes that of `first`."""
    T, N, V = errors.shape
    K, heads, zero = key.shape[2], N // starts.shape[1], errors.dtype.type(0)
    memory, change, grad_change = np.empty((K, V), key.dtype), np.empty(V, key.dtype), np.empty(V, key.dtype)
    for n in range(begin, end):
        grads, stop = grad_memory[n], T
        while stop > 0:
            start = stop - 1
            while start > 0 and not starts[start, n // heads]:
                start -= 1
            fresh = starts[start, n // heads]
            if fresh:
                memory[:] = 0
            else:
                memory[:] = first[n]
            for t in range(start, stop):
                for i in range(K):
                    row, weight = memory[i], rate[t, n] * key[t, n, i]
                    for m in range(V):
                        row[m] += weight * errors[t, n, m]
            for t in range(stop - 1, start - 1, -1):
                error, arriving = errors[t, n], grad_found[t, n]
                for m in range(V):
                    change[m] = rate[t, n] * error[m]
                grad_change[:] = 0
                for i in range(K):
                    row, grad, k, q = memory[i], grads[i], key[t, n, i], query[t, n, i]
                    to_query, to_key = zero, zero
                    for m in range(V):
                        to_query += row[m] * arriving[m]
                        slope = grad[m] + q * arriving[m]
                        grad[m] = slope
                        to_key += slope * change[m]
                        grad_change[m] += k * slope
                        row[m] -= k * change[m]
                    grad_query[t, n, i], grad_key[t, n, i] = to_query, to_key
                to_value, to_rate = grad_value[t, n], zero
                for m in range(V):
                    to_rate += grad_change[m] * error[m]
                    to_value[m] = rate[t, n] * grad_change[m]
                grad_rate[t, n] = to_rate
                if not summed:
                    for i in range(K):
                        row, grad, k, to_key = memory[i], grads[i], key[t, n, i], zero
                        for m in range(V):
                            to_key += row[m] * to_value[m]
                            grad[m] -= k * to_value[m]
                        grad_key[t, n, i] -= to_key
            if fresh:
                grads[:] = 0
            stop = start
