"""Recurrent Delta Net over sequences, compiled for the CPU as `fwp_recurrent_kernel` is."""

import numpy as np
import torch

from engram.kernels import FAST, njit
from engram.policies import rows
from engram.policies.core import once_differentiable
from engram.policies.fwp_kernel import overwrite, replay, step_backward
from engram.policies.key_maps import PHIS
from engram.policies.key_maps_kernel import phi, phi_backward, sigmoid


class Sequence(torch.autograd.Function):
    """RDN: the last output of a head changes all that its matrix is told next."""

    @staticmethod
    def forward(ctx, memory, program, weight, output, starts, name):
        """Step after step: the program with what the last output adds to it, the write and the read.

        Args:    memory [B, A, d, d]; program [T, B, A, P], rows q, k, v, b; weight [A, d, P]; output [B, A, d], the
                 last one; starts bool [T, B]; name of phi.
        Returns: the outputs [T, B, A, d], the last memory.
        """
        (T, B, A, _), d = program.shape, output.shape[-1]
        told, outputs, after = rows.array(program).copy(), program.new_empty(T, B, A, d), rows.array(memory).copy()
        weights, first, starts = rows.array(weight), rows.array(output), starts.contiguous()
        which = PHIS.index(name)
        kept = [np.empty((T, B, A, *size), told.dtype) for size in ((d,), (d,), (), (2,), (d,))]
        rows.run(_sequence, B, after, told, weights, first, starts.numpy(), which, *kept, outputs.numpy())
        ctx.kept = told, first, starts.numpy(), which, *kept
        ctx.save_for_backward(memory, weight, outputs, output, starts)  # torch checks that nothing changed them since
        return outputs, torch.from_numpy(after)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_outputs, grad_memory):
        told, first, starts, *_ = ctx.kept
        memory, weight, outputs, *_ = ctx.saved_tensors
        grad_before, grad_told, grad_first = rows.array(grad_memory).copy(), np.empty_like(told), np.empty_like(first)
        arrays = rows.array(weight), rows.array(outputs), rows.array(grad_outputs)
        rows.run(
            _sequence_backward, len(first), rows.array(memory), *ctx.kept, *arrays, grad_before, grad_told, grad_first
        )
        grad_told = torch.from_numpy(grad_told)
        last = torch.cat([torch.from_numpy(first)[None], outputs[:-1]]).tanh()
        last = last.masked_fill(torch.from_numpy(starts)[..., None, None], 0)
        grad_weight = last.flatten(0, 1).permute(1, 2, 0) @ grad_told.flatten(0, 1).transpose(0, 1)
        return torch.from_numpy(grad_before), grad_told, grad_weight, torch.from_numpy(grad_first), None, None


@njit(cache=True, fastmath=FAST, nogil=True)
def _sequence(begin, end, memory, told, weight, first, starts, which, query, key, rate, divisors, errors, outputs):
    """Completes told, fills what follows phi; memory [B, A, d, d], the first one, becomes the last."""
    T, _, A, P = told.shape
    d, one = first.shape[2], told.dtype.type(1)
    last, change = np.empty((A, d), told.dtype), np.empty(d, told.dtype)
    for b in range(begin, end):
        last[:] = first[b]
        for t in range(T):
            if starts[t, b]:
                memory[b] = 0
                last[:] = 0
            for a in range(A):
                program = told[t, b, a]
                for j in range(d):
                    s, row = np.tanh(last[a, j]), weight[a, j]
                    for p in range(P):
                        program[p] += s * row[p]
                divisors[t, b, a, 0] = phi(program[:d], which, query[t, b, a])
                divisors[t, b, a, 1] = phi(program[d : 2 * d], which, key[t, b, a])
                rate[t, b, a] = sigmoid(program[3 * d], one)
                overwrite(
                    memory[b, a], key[t, b, a], program[2 * d : 3 * d], rate[t, b, a], query[t, b, a], errors[t, b, a],
                    change, outputs[t, b, a],
                )  # fmt: skip
                last[a] = outputs[t, b, a]


@njit(cache=True, fastmath=FAST, nogil=True)
def _sequence_backward(
    begin, end, first_memory, told, first, starts, which, query, key, rate, divisors, errors, weight, outputs,
    grad_outputs, grad_memory, grad_told, grad_first,
):  # fmt: skip
    """Fills the last two; grad_memory, of the last memory, becomes that of the first."""
    T, _, A, P = told.shape
    d, dtype, one = first.shape[2], told.dtype, told.dtype.type(1)
    memory, grad_last, none = np.empty((A, d, d), dtype), np.empty((A, d), dtype), np.zeros((A, d), dtype)
    change, to_query, to_key, to_value = np.empty(d, dtype), np.empty(d, dtype), np.empty(d, dtype), np.empty(d, dtype)
    for b in range(begin, end):
        stop = T
        grad_last[:] = 0
        while stop > 0:
            start = replay(first_memory, key, rate, errors, starts, b, stop, memory)
            for t in range(stop - 1, start - 1, -1):
                before = none if starts[t, b] else outputs[t - 1, b] if t > 0 else first[b]
                for a in range(A):
                    for m in range(d):
                        grad_last[a, m] += grad_outputs[t, b, a, m]
                    beta, grad, program = rate[t, b, a], grad_told[t, b, a], told[t, b, a]
                    to_rate = step_backward(
                        memory[a], key[t, b, a], beta, query[t, b, a], errors[t, b, a], grad_last[a],
                        grad_memory[b, a], to_key, to_value, to_query, change, False,
                    )  # fmt: skip
                    by_query, by_key = divisors[t, b, a]
                    phi_backward(program[:d], query[t, b, a], by_query, which, to_query, grad[:d])
                    phi_backward(program[d : 2 * d], key[t, b, a], by_key, which, to_key, grad[d : 2 * d])
                    grad[2 * d : 3 * d] = to_value
                    grad[3 * d] = to_rate * beta * (one - beta)
                    for j in range(d):
                        s, row, slope = np.tanh(before[a, j]), weight[a, j], dtype.type(0)
                        for p in range(P):
                            slope += row[p] * grad[p]
                        grad_last[a, j] = slope * (one - s * s)
            if starts[start, b]:
                grad_memory[b] = 0
                grad_last[:] = 0
            stop = start
        grad_first[b] = grad_last
