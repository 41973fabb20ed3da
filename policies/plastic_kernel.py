"""A step of the plastic network compiled for the CPU, for acting: a row's traces change while they are in the cache."""

import numpy as np
import torch
from torch import Tensor

from engram.kernels import FAST, njit
from engram.policies import rows


def step(
    given: Tensor,
    before: Tensor,
    starts: Tensor,
    weight: Tensor,
    alpha: Tensor,
    eta: Tensor,
    modulator: Tensor | None,
    rule: str,
    trace: Tensor,
    eligibility: Tensor | None,
) -> Tensor:
    """One step, which changes traces and eligibility traces in place.

    Args:    given [B, n]: what the input adds; before [B, n]: the last output; starts [B]: rows without a past;
             weight, alpha [n, n]; eta: a number; modulator [n + 1]: its weights and bias, or none;
             rule: hebb, oja or clip; trace [B, n, n]; eligibility [B, n, n]: gated by the modulator, or none, where the
             modulator is the rate.
    Returns: the output [B, n].
    """
    y = torch.empty_like(given)
    modulated, gated = modulator is not None, eligibility is not None
    tensors = (given, before, starts, weight, alpha, modulator if modulated else given[0], trace)
    arrays = (x.detach().numpy() for x in (*tensors, eligibility if gated else trace, y))
    choices = modulated, gated, rule == "hebb", rule == "oja", rule == "clip"
    rows.run(_step, len(y), *arrays, np.float32(eta.item()), *choices)
    return y


@njit(cache=True, fastmath=FAST, nogil=True)
def _step(
    begin, end, given, before, starts, weight, alpha, modulator, trace, eligibility, y,
    eta, modulated, gated, hebb, oja, clip,
):  # fmt: skip
    _, n = given.shape
    one = np.float32(1)
    for b in range(begin, end):
        if starts[b]:
            trace[b], y[b] = 0, np.tanh(given[b])
            if gated:
                eligibility[b] = 0
            continue
        for i in range(n):
            total, row = given[b, i], trace[b, i]
            for j in range(n):
                total += (weight[i, j] + alpha[i, j] * row[j]) * before[b, j]
            y[b, i] = np.tanh(total)
        strength, rate = np.float32(0), eta
        if modulated:
            strength = modulator[n]
            for i in range(n):
                strength += modulator[i] * y[b, i]
            strength = np.tanh(strength)
            rate = eta if gated else strength
        for i in range(n):
            row, kept, change = trace[b, i], one, rate * y[b, i]
            if gated:
                eligible = eligibility[b, i]
                for j in range(n):
                    row[j] += strength * eligible[j]
                    eligible[j] = (one - rate) * eligible[j] + change * before[b, j]
            else:
                if hebb:
                    kept = one - rate
                elif oja:
                    kept = one - change * y[b, i]
                for j in range(n):
                    row[j] = kept * row[j] + change * before[b, j]
            if clip:
                for j in range(n):
                    row[j] = one if row[j] > one else (-one if row[j] < -one else row[j])
