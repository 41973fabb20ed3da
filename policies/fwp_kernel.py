"""The delta rule compiled for the CPU, where each matrix is written and read while it is in the cache.

`step` is for acting, in place. `Sequence` is for learning: at the sizes of a head, the literal steps over a matrix in
the cache are faster than the products of the chunkwise form.
"""

import numpy as np
import torch
from torch import Tensor

from engram.kernels import FAST, njit
from engram.policies import rows
from engram.policies.core import once_differentiable


def supports(memory: Tensor, write: tuple, query: Tensor) -> bool:
    """Whether `step` computes it: where acting is compiled, on matrices without gaps."""
    return rows.acts(memory, *write, query) and memory.stride()[-2:] == (memory.shape[-1], 1)


def step(memory: Tensor, write: tuple, query: Tensor) -> Tensor:
    """As `delta_rule.step`, in place: memory [..., K, V] -> what was read [..., V]."""
    places = torch.tensor(memory.storage_offset(), device=memory.device)
    for size, stride in zip(memory.shape[:-2], memory.stride()[:-2], strict=True):
        places = places[..., None] + stride * torch.arange(size, device=memory.device)
    storage = memory.as_strided((memory.untyped_storage().nbytes() // memory.element_size(),), (1,), 0)
    found = memory.new_empty(memory.shape[:-2] + memory.shape[-1:])
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
        (T, B), (*leading, K, V) = starts.shape, memory.shape
        ctx.summed = rate is None
        arrays = _vectors((key, value, rate), query, (T, *leading))
        arrays = [x.reshape(T, B, -1, *x.shape[1:]) for x in arrays]
        before = memory.detach().reshape(B, -1, K, V)
        last, found = before.clone(memory_format=torch.contiguous_format), value.new_empty(T, *leading, V)
        starts, errors = starts.contiguous(), np.empty_like(arrays[1])
        read = found.numpy().reshape(errors.shape)
        rows.run(_sequence, B, last.numpy(), *arrays, starts.numpy(), errors, read, ctx.summed)
        key, _, rate, query = arrays
        ctx.kept = key, rate, query, starts.numpy(), errors
        ctx.save_for_backward(memory, starts)  # torch checks that nothing has changed them since
        return found, last.view(memory.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_found, grad_memory):
        key, rate, query, _, errors = ctx.kept
        T, B, H, K = key.shape
        memory, _ = ctx.saved_tensors
        first = memory.detach().reshape(B, H, K, -1).contiguous().numpy()
        grad_first = grad_memory.reshape(first.shape).clone(memory_format=torch.contiguous_format)
        grad_found = grad_found.contiguous().numpy().reshape(errors.shape)
        grads = [np.empty_like(x) for x in (key, errors, rate, query)]
        rows.run(_sequence_backward, B, first, *ctx.kept, grad_found, grad_first.numpy(), *grads, ctx.summed)
        leading = T, *memory.shape[:-2]
        key, value, query = (torch.from_numpy(grads[i]).view(*leading, -1) for i in (0, 1, 3))
        rate = None if ctx.summed else torch.from_numpy(grads[2]).view(leading)
        return grad_first.view(memory.shape), key, value, rate, query, None


def _vectors(write: tuple, query: Tensor, leading: tuple[int, ...]) -> list[np.ndarray]:
    """Key, value, rate (1 where there is none) and query of `leading` matrices, in rows [N, K or V], the rate [N]."""
    key, value, rate = write
    rate = key.new_ones(1) if rate is None else rate
    vectors = (x.expand(*leading, x.shape[-1]).reshape(-1, x.shape[-1]) for x in (key, value, query))
    key, value, query, rate = (x.detach().contiguous().numpy() for x in (*vectors, rate.expand(leading).reshape(-1)))
    return [key, value, rate, query]


@njit(cache=True, fastmath=FAST, nogil=True)
def combine(matrix, weights, out):
    """out = weights matrix."""
    out[:] = 0
    for i in range(len(matrix)):
        row, weight = matrix[i], weights[i]
        for m in range(len(out)):
            out[m] += weight * row[m]


@njit(cache=True, fastmath=FAST, nogil=True)
def add(memory, key, change):
    """memory += key change^T."""
    for i in range(len(memory)):
        row, k = memory[i], key[i]
        for m in range(len(change)):
            row[m] += k * change[m]


@njit(cache=True, fastmath=FAST, nogil=True)
def write(memory, key, change, query, out):
    """memory += key change^T, out = query memory."""
    out[:] = 0
    for i in range(len(memory)):
        row, k, q = memory[i], key[i], query[i]
        for m in range(len(out)):
            new = row[m] + k * change[m]
            row[m] = new
            out[m] += q * new


@njit(cache=True, fastmath=FAST, nogil=True)
def overwrite(memory, key, value, rate, query, error, change, out):
    """The delta rule: error = value - key memory, memory += key (rate error)^T, out = query memory."""
    combine(memory, key, error)
    for m in range(len(out)):
        error[m] = value[m] - error[m]
        change[m] = rate * error[m]
    write(memory, key, change, query, out)


@njit(cache=True, fastmath=FAST, nogil=True)
def _step(begin, end, storage, places, key, value, rate, query, found, summed):
    K, V = key.shape[1], value.shape[1]
    change = np.empty(V, np.float32)
    for n in range(begin, end):
        memory = storage[places[n] : places[n] + K * V].reshape(K, V)
        if summed:
            change[:] = value[n]
        else:
            combine(memory, key[n], change)
            for m in range(V):
                change[m] = rate[n] * (value[n, m] - change[m])
        write(memory, key[n], change, query[n], found[n])


@njit(cache=True, fastmath=FAST, nogil=True)
def _sequence(begin, end, memory, key, value, rate, query, starts, errors, found, summed):
    """Fills errors, v - k M before each write, and found; memory [B, H, K, V], the first one, becomes the last. The H
    matrices of a row take their steps together, as their vectors lie side by side."""
    T, _, H, V = value.shape
    change = np.empty(V, value.dtype)
    for b in range(begin, end):
        for t in range(T):
            if starts[t, b]:
                memory[b] = 0
            for h in range(H):
                if summed:
                    errors[t, b, h] = value[t, b, h]
                    write(memory[b, h], key[t, b, h], value[t, b, h], query[t, b, h], found[t, b, h])
                else:
                    overwrite(
                        memory[b, h], key[t, b, h], value[t, b, h], rate[t, b, h], query[t, b, h], errors[t, b, h],
                        change, found[t, b, h],
                    )  # fmt: skip


@njit(cache=True, fastmath=FAST, nogil=True)
def _sequence_backward(
    begin, end, first, key, rate, query, starts, errors, grad_found, grad_memory,
    grad_key, grad_value, grad_rate, grad_query, summed,
):  # fmt: skip
    """Fills the last four; grad_memory, of the last memory, becomes that of `first`."""
    T, _, H, _ = key.shape
    memory, change = np.empty(first.shape[1:], key.dtype), np.empty(first.shape[3], key.dtype)
    for b in range(begin, end):
        stop = T
        while stop > 0:
            start = replay(first, key, rate, errors, starts, b, stop, memory)
            for t in range(stop - 1, start - 1, -1):
                for h in range(H):
                    grad_rate[t, b, h] = step_backward(
                        memory[h], key[t, b, h], rate[t, b, h], query[t, b, h], errors[t, b, h], grad_found[t, b, h],
                        grad_memory[b, h], grad_key[t, b, h], grad_value[t, b, h], grad_query[t, b, h], change, summed,
                    )  # fmt: skip
            if starts[start, b]:
                grad_memory[b] = 0
            stop = start


@njit(cache=True, fastmath=FAST, nogil=True)
def replay(first, key, rate, errors, starts, b, stop, memory):
    """Fills memory [H, K, V] with that of row b after the step before `stop`; returns the first step of the episode.

    Where no episode starts before, that is step 0, and `first` [B, H, K, V] the memory before it.
    """
    start = stop - 1
    while start > 0 and not starts[start, b]:
        start -= 1
    if starts[start, b]:
        memory[:] = 0
    else:
        memory[:] = first[b]
    change = np.empty(errors.shape[3], errors.dtype)
    for t in range(start, stop):
        for h in range(len(memory)):
            for m in range(len(change)):
                change[m] = rate[t, b, h] * errors[t, b, h, m]
            add(memory[h], key[t, b, h], change)
    return start


@njit(cache=True, fastmath=FAST, nogil=True)
def step_backward(
    memory, key, rate, query, error, grad_found, grad_memory, grad_key, grad_value, grad_query, change, summed
):
    """Undoes a write to memory [K, V] and fills the gradients of its vectors; returns that of the rate."""
    zero = key.dtype.type(0)
    to_rate = zero
    for m in range(len(error)):
        change[m] = rate * error[m]
    grad_value[:] = 0
    for i in range(len(key)):
        row, grad, k, q, to_query, to_key = memory[i], grad_memory[i], key[i], query[i], zero, zero
        for m in range(len(error)):
            to_query += row[m] * grad_found[m]
            slope = grad[m] + q * grad_found[m]
            grad[m] = slope
            to_key += slope * change[m]
            grad_value[m] += k * slope
            row[m] -= k * change[m]
        grad_query[i], grad_key[i] = to_query, to_key
    for m in range(len(error)):
        to_rate += grad_value[m] * error[m]
        grad_value[m] *= rate
    if not summed:
        for i in range(len(key)):
            row, grad, k, to_key = memory[i], grad_memory[i], key[i], zero
            for m in range(len(error)):
                to_key += row[m] * grad_value[m]
                grad[m] -= k * grad_value[m]
            grad_key[i] -= to_key
    return to_rate
