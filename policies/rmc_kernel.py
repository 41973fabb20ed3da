"""What lies between RMC's linear maps, compiled for the CPU.

A step of RMC is small, and most of its time would go into calling some thirty tensor operations and their gradients.
"""

import numpy as np

from engram.kernels import FAST, njit


@njit(cache=True, fastmath=FAST, nogil=True)
def _standardise(x, unit):
    """unit = (x - mean) / deviation; returns 1 / deviation."""
    zero, one, size = x.dtype.type(0), x.dtype.type(1), x.dtype.type(len(x))
    mean, variance = zero, zero
    for m in range(len(x)):
        mean += x[m]
    mean /= size
    for m in range(len(x)):
        variance += (x[m] - mean) * (x[m] - mean)
    spread = one / np.sqrt(variance / size + x.dtype.type(1e-5))
    for m in range(len(x)):
        unit[m] = (x[m] - mean) * spread
    return spread


@njit(cache=True, fastmath=FAST, nogil=True)
def _standardise_backward(grad, unit, spread, gain, grad_x, grad_gain, grad_offset):
    """`grad` arrives at gain * unit + offset; grad_x may be the same array."""
    zero, size = grad.dtype.type(0), grad.dtype.type(len(grad))
    mean, along = zero, zero
    for m in range(len(grad)):
        mean += grad[m] * gain[m]
        along += grad[m] * gain[m] * unit[m]
        grad_gain[m] += grad[m] * unit[m]
        grad_offset[m] += grad[m]
    mean /= size
    along /= size
    for m in range(len(grad)):
        grad_x[m] = spread * (grad[m] * gain[m] - mean - unit[m] * along)


@njit(cache=True, fastmath=FAST, nogil=True)
def norm(x, y, gain, offset, unit, spread, out):
    """out = LN(x + y), by rows: x and y [B, M, W]. Fills unit [B, M, W] and spread [B, M] for the way back."""
    for b in range(x.shape[0]):
        for n in range(x.shape[1]):
            row = out[b, n]
            for m in range(len(row)):
                row[m] = x[b, n, m] + y[b, n, m]
            spread[b, n] = _standardise(row, unit[b, n])
            for m in range(len(row)):
                row[m] = gain[m] * unit[b, n, m] + offset[m]


@njit(cache=True, fastmath=FAST, nogil=True)
def norm_backward(grad, unit, spread, gain, grad_x, grad_gain, grad_offset):
    """Fills grad_x, of x and of y, and adds to the last two."""
    for b in range(grad.shape[0]):
        for n in range(grad.shape[1]):
            _standardise_backward(grad[b, n], unit[b, n], spread[b, n], gain, grad_x[b, n], grad_gain, grad_offset)


@njit(cache=True, fastmath=FAST, nogil=True)
def gate_backward(
    grad, unit, spread, gain, memory, candidate, opened,
    grad_x, grad_gain, grad_offset, grad_given, grad_recalled, grad_memory,
):  # fmt: skip
    """`grad` [B, N, W] arrives at i candidate + f memory, where candidate = tanh(LN(x + y)) and `opened` [B, N, 2 G]
    has i and f, sigmoids of the sum of what was given for all slots [B, 1, 2 G] and recalled by each [B, N, 2 G].

    Adds to grad_gain, grad_offset and grad_given, and fills the others.
    """
    B, N, W = grad.shape
    G, zero, one = opened.shape[2] // 2, grad.dtype.type(0), grad.dtype.type(1)
    for b in range(B):
        for n in range(N):
            gates, to_gates, row = opened[b, n], grad_recalled[b, n], grad_x[b, n]
            if G == 1:
                i, f, to_i, to_f = gates[0], gates[1], zero, zero
                for m in range(W):
                    to_i += grad[b, n, m] * candidate[b, n, m]
                    to_f += grad[b, n, m] * memory[b, n, m]
                    grad_memory[b, n, m] = f * grad[b, n, m]
                    row[m] = i * grad[b, n, m] * (one - candidate[b, n, m] * candidate[b, n, m])
                to_gates[0], to_gates[1] = i * (one - i) * to_i, f * (one - f) * to_f
            else:
                for m in range(W):
                    i, f = gates[m], gates[W + m]
                    to_gates[m] = i * (one - i) * grad[b, n, m] * candidate[b, n, m]
                    to_gates[W + m] = f * (one - f) * grad[b, n, m] * memory[b, n, m]
                    grad_memory[b, n, m] = f * grad[b, n, m]
                    row[m] = i * grad[b, n, m] * (one - candidate[b, n, m] * candidate[b, n, m])
            for g in range(len(gates)):
                grad_given[b, 0, g] += to_gates[g]
            _standardise_backward(row, unit[b, n], spread[b, n], gain, row, grad_gain, grad_offset)


@njit(cache=True, fastmath=FAST, nogil=True)
def attend(
    rows, projected, residual, gain, offset, last_gain, last_offset, num_heads, K, S, scale,
    unit, spread, qkv, maps, last_unit, last_spread, out,
):  # fmt: skip
    """out = LN(residual + what the first rows read from all rows by multi-head attention), [B, M, W].

    rows [B, N, Q] are queries, keys and values of all heads before their layer norm, projected [B, n, Q] those of more
    rows after it, residual [B, M, W] the rows that ask, gain and offset those of both layer norms, K and S the widths
    of a key and a value. Fills what the way back needs: unit [B, N, Q], spread [B, N], qkv [B, N + n, Q], maps [B,
    heads, M, N + n], last_unit [B, M, W], last_spread [B, M].
    """
    B, N, Q = rows.shape
    R, M, W = qkv.shape[1], residual.shape[1], residual.shape[2]
    zero, factor = rows.dtype.type(0), rows.dtype.type(scale)
    summed = np.empty(W, rows.dtype)
    for b in range(B):
        for r in range(N):
            spread[b, r] = _standardise(rows[b, r], unit[b, r])
            for m in range(Q):
                qkv[b, r, m] = gain[m] * unit[b, r, m] + offset[m]
        qkv[b, N:] = projected[b]
        for i in range(M):
            summed[:] = residual[b, i]
            for h in range(num_heads):
                start, weights = h * (2 * K + S), maps[b, h, i]
                query, read = qkv[b, i, start : start + K], summed[h * S : (h + 1) * S]
                for j in range(R):
                    key, score = qkv[b, j, start + K : start + 2 * K], zero
                    for m in range(K):
                        score += query[m] * key[m]
                    weights[j] = factor * score
                largest, total = weights[0], zero
                for j in range(1, R):
                    largest = max(largest, weights[j])
                for j in range(R):
                    weights[j] = np.exp(weights[j] - largest)
                    total += weights[j]
                for j in range(R):
                    weights[j] /= total
                    weight, value = weights[j], qkv[b, j, start + 2 * K : start + 2 * K + S]
                    for m in range(S):
                        read[m] += weight * value[m]
            last_spread[b, i] = _standardise(summed, last_unit[b, i])
            for m in range(W):
                out[b, i, m] = last_gain[m] * last_unit[b, i, m] + last_offset[m]


@njit(cache=True, fastmath=FAST, nogil=True)
def attend_backward(
    grad, unit, spread, qkv, maps, last_unit, last_spread, gain, last_gain, num_heads, K, S, scale,
    grad_qkv, grad_rows, grad_residual, grad_gain, grad_offset, grad_last_gain, grad_last_offset,
):  # fmt: skip
    """Fills grad_rows and grad_residual and adds to the others; grad_qkv, zero before, ends with grad_projected."""
    B, N, _ = unit.shape
    R, M = qkv.shape[1], last_unit.shape[1]
    zero, factor = grad.dtype.type(0), grad.dtype.type(scale)
    slopes = np.empty(R, grad.dtype)
    for b in range(B):
        for i in range(M):
            arriving = grad_residual[b, i]
            _standardise_backward(
                grad[b, i], last_unit[b, i], last_spread[b, i], last_gain, arriving, grad_last_gain, grad_last_offset
            )
            for h in range(num_heads):
                start, weights, read = h * (2 * K + S), maps[b, h, i], arriving[h * S : (h + 1) * S]
                query, grad_query = qkv[b, i, start : start + K], grad_qkv[b, i, start : start + K]
                common = zero
                for j in range(R):
                    value = qkv[b, j, start + 2 * K : start + 2 * K + S]
                    grad_value = grad_qkv[b, j, start + 2 * K : start + 2 * K + S]
                    weight, slope = weights[j], zero
                    for m in range(S):
                        slope += read[m] * value[m]
                    for m in range(S):
                        grad_value[m] += weight * read[m]
                    slopes[j] = slope
                    common += weight * slope
                for j in range(R):
                    key = qkv[b, j, start + K : start + 2 * K]
                    grad_key = grad_qkv[b, j, start + K : start + 2 * K]
                    slope = factor * weights[j] * (slopes[j] - common)
                    for m in range(K):
                        grad_query[m] += slope * key[m]
                    for m in range(K):
                        grad_key[m] += slope * query[m]
        for r in range(N):
            _standardise_backward(
                grad_qkv[b, r], unit[b, r], spread[b, r], gain, grad_rows[b, r], grad_gain, grad_offset
            )
