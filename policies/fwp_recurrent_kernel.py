"""Delta RNN and Delta LSTM over sequences, compiled for the CPU.

A row hears of no other, so that it takes all its steps while its matrices are in the cache. As in `fwp_kernel`, the
backward pass undoes the writes.
"""

import numpy as np
import torch

from engram.kernels import FAST, njit
from engram.policies import rows
from engram.policies.core import once_differentiable
from engram.policies.fwp_kernel import overwrite, replay, step_backward
from engram.policies.key_maps_kernel import sigmoid, softmax, softmax_backward

CELLS = ("rnn", "v1", "v2", "v3", "v4")
"""Delta RNN, and the versions of Delta LSTM"""


class Recurrent(torch.autograd.Function):
    """Delta RNN and Delta LSTM: the last output of a head is what its matrices are asked for next."""

    @staticmethod
    def forward(ctx, memory, key, value, rate, found, carry, starts, cell):
        """Step after step: the writes, the recurrent query, and the cell.

        Args:    memory [B, A, G, d, d]; key, value [T, B, A, G, d] and rate [T, B, A, G] of the writes; found [T, B, A,
                 G, d], added to what is read; carry [B, A, S, d], h and where there is one c; starts bool [T, B]; cell
                 in `CELLS`.
        Returns: the carries [T, B, A, S, d], the last memory.
        """
        shape, (B, A, G, d, _) = value.shape, memory.shape
        arrays = [rows.array(x.reshape(*shape[:2], A * G, *x.shape[4:])) for x in (key, value, rate, found)]
        first, before = rows.array(carry), rows.array(memory.reshape(B, A * G, d, d))
        starts, cell, after = starts.contiguous(), CELLS.index(cell), before.copy()
        errors, answers = np.empty_like(arrays[1]), np.empty_like(arrays[1])
        carries = value.new_empty(*shape[:2], *carry.shape[1:])
        rows.run(_recurrent, B, after, *arrays, first, starts.numpy(), cell, errors, answers, carries.numpy())
        key, _, rate, _ = arrays
        ctx.kept = key, rate, starts.numpy(), errors, answers, first, cell
        ctx.save_for_backward(memory, carries, carry, starts)  # torch checks that nothing has changed them since
        return carries, torch.from_numpy(after).view(memory.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_carries, grad_memory):
        key, rate, starts, errors, answers, first, cell = ctx.kept
        memory, carries, *_ = ctx.saved_tensors
        T, B, H, d = key.shape
        before = rows.array(memory.reshape(B, H, d, d))
        grad_before = rows.array(grad_memory.reshape(B, H, d, d)).copy()
        grads = [np.empty_like(x) for x in (key, errors, rate, errors, first)]
        kept = key, rate, starts, errors, answers, first, rows.array(carries), cell
        rows.run(_recurrent_backward, B, before, *kept, rows.array(grad_carries), grad_before, *grads)
        grad_before, *grads, grad_first = map(torch.from_numpy, (grad_before, *grads))
        leading = T, *memory.shape[:3]
        key, value, rate, found = (x.view(*leading, *x.shape[3:]) for x in grads)
        return grad_before.view(memory.shape), key, value, rate, found, grad_first, None, None


@njit(cache=True, fastmath=FAST, nogil=True)
def _recurrent(begin, end, memory, key, value, rate, found, first, starts, cell, errors, answers, carries):
    """Fills the last three; memory [B, H, d, d], the first one, becomes the last. The H / A matrices of a head are
    neighbours."""
    T, _, H, d = value.shape
    A = first.shape[1]
    G = H // A
    change, query, carry = np.empty(d, key.dtype), np.empty(d, key.dtype), np.empty_like(first[0])
    for b in range(begin, end):
        carry[:] = first[b]
        for t in range(T):
            if starts[t, b]:
                memory[b] = 0
                carry[:] = 0
            for a in range(A):
                _ask(carry[a, 0], cell, query)
                for h in range(a * G, (a + 1) * G):
                    answer = answers[t, b, h]
                    overwrite(
                        memory[b, h],
                        key[t, b, h],
                        value[t, b, h],
                        rate[t, b, h],
                        query,
                        errors[t, b, h],
                        change,
                        answer,
                    )
                    for m in range(d):
                        answer[m] += found[t, b, h, m]
                _advance(answers[t, b, a * G : (a + 1) * G], found[t, b, a * G : (a + 1) * G], cell, carry[a])
                carries[t, b, a] = carry[a]


@njit(cache=True, fastmath=FAST, nogil=True)
def _ask(h, cell, query):
    if cell == 1:
        query[:] = h
    else:
        softmax(h, query)


@njit(cache=True, fastmath=FAST, nogil=True)
def _advance(answers, found, cell, carry):
    """The cell: answers and found [G, d] turn carry [S, d] into the next one."""
    if cell == 0:
        carry[0] = answers[0]
        return
    h, c, one = carry[0], carry[1], answers.dtype.type(1)
    for m in range(len(h)):
        u = answers[1, m] if cell == 4 else sigmoid(answers[1, m], one)
        c[m] += sigmoid(answers[0, m], one) * (u - c[m])
        h[m] = sigmoid(answers[2, m], one) * c[m]
    if cell == 1:
        softmax(h, h)
    if cell == 3:
        for m in range(len(h)):
            h[m] += found[1, m]


@njit(cache=True, fastmath=FAST, nogil=True)
def _advance_backward(answers, cell, after, before, grad_carry, grad_answers, grad_found):
    """What arrives at the carry `after` a step goes to answers and found, and grad_carry[1] to c `before`."""
    if cell == 0:
        grad_answers[0] = grad_carry[0]
        grad_found[0] = grad_carry[0]
        return
    one, grad_h, grad_c, c = answers.dtype.type(1), grad_carry[0], grad_carry[1], before[1]
    if cell == 1:
        softmax_backward(after[0], grad_h, grad_h)
    for m in range(len(grad_h)):
        i, o, u = sigmoid(answers[0, m], one), sigmoid(answers[2, m], one), answers[1, m]
        slope = one
        if cell != 4:
            u = sigmoid(u, one)
            slope = u * (one - u)
        grad_c[m] += o * grad_h[m]
        grad_answers[0, m] = grad_c[m] * (u - c[m]) * i * (one - i)
        grad_answers[1, m] = grad_c[m] * i * slope
        grad_answers[2, m] = grad_h[m] * after[1, m] * o * (one - o)
        grad_c[m] *= one - i
    grad_found[:] = grad_answers
    if cell == 3:
        for m in range(len(grad_h)):
            grad_found[1, m] += grad_h[m]


@njit(cache=True, fastmath=FAST, nogil=True)
def _recurrent_backward(
    begin, end, first_memory, key, rate, starts, errors, answers, first, carries, cell, grad_carries,
    grad_memory, grad_key, grad_value, grad_rate, grad_found, grad_first,
):  # fmt: skip
    """Fills the last five; grad_memory, of the last memory, becomes that of the first."""
    T, _, H, d = key.shape
    _, A, S, _ = first.shape
    G, dtype = H // A, key.dtype
    memory, fresh_carry, grad_carry = np.empty((H, d, d), dtype), np.zeros((A, S, d), dtype), np.empty((A, S, d), dtype)
    grad_answers = np.empty((G, d), dtype)
    change, query, grad_query, part = np.empty(d, dtype), np.empty(d, dtype), np.empty(d, dtype), np.empty(d, dtype)
    for b in range(begin, end):
        stop = T
        grad_carry[:] = 0
        while stop > 0:
            start = replay(first_memory, key, rate, errors, starts, b, stop, memory)
            for t in range(stop - 1, start - 1, -1):
                before = fresh_carry if starts[t, b] else carries[t - 1, b] if t > 0 else first[b]
                for a in range(A):
                    for s in range(S):
                        for m in range(d):
                            grad_carry[a, s, m] += grad_carries[t, b, a, s, m]
                    own = slice(a * G, (a + 1) * G)
                    _advance_backward(
                        answers[t, b, own], cell, carries[t, b, a], before[a], grad_carry[a], grad_answers,
                        grad_found[t, b, own],
                    )  # fmt: skip
                    _ask(before[a, 0], cell, query)
                    grad_query[:] = 0
                    for g in range(G):
                        h = a * G + g
                        grad_rate[t, b, h] = step_backward(
                            memory[h], key[t, b, h], rate[t, b, h], query, errors[t, b, h], grad_answers[g],
                            grad_memory[b, h], grad_key[t, b, h], grad_value[t, b, h], part, change, False,
                        )  # fmt: skip
                        for m in range(d):
                            grad_query[m] += part[m]
                    if cell == 1:
                        grad_carry[a, 0] = grad_query
                    else:
                        softmax_backward(query, grad_query, grad_carry[a, 0])
            if starts[start, b]:
                grad_memory[b] = 0
                grad_carry[:] = 0
            stop = start
        grad_first[b] = grad_carry
