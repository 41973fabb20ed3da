"""Gated recurrent unit (Cho et al. 2014), in the form that torch and cuDNN compute: the reset gate after the recurrent
product."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engram.policies import segments
from engram.policies.core import Core, CoreConfig, CoreOutput, may_be_any, once_differentiable


class GRU(Core):
    """One GRU layer, output size Y = hidden_size = h.

    Parameters, in order: weight_ih [3h, D], weight_hh [3h, h], bias_ih [3h], bias_hh [3h]; gate rows r, z, n. Together
    3h(D + h) + 6h numbers, drawn uniformly from +-1/sqrt(h).
    """

    @dataclass(frozen=True)
    class Config(CoreConfig):
        hidden_size: int = 256
        """units h; the state holds as many numbers"""

        def build(self, input_size: int) -> "GRU":
            return GRU(input_size, self)

    class State(NamedTuple):
        h: Tensor

    diagnostics = ("gates", "memory_norm")
    """[T, B, 2] means of r and z over the units, where z is what stays of h; |h| [T, B]"""

    def __init__(self, input_size: int, config: Config):
        super().__init__()
        self.config = config
        self.input_size, self.output_size = input_size, config.hidden_size
        rows, bound = 3 * config.hidden_size, 1 / math.sqrt(config.hidden_size)

        def uniform(*shape):
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        self.weight_ih = uniform(rows, input_size)
        self.weight_hh = uniform(rows, config.hidden_size)
        self.bias_ih = uniform(rows)
        self.bias_hh = uniform(rows)

    def initial_state(self, batch_size: int) -> State:
        return self.State(self.weight_hh.new_zeros(batch_size, self.output_size))

    def step(self, x: Tensor, state: State, report: tuple[str, ...] = (), donate: bool = False) -> CoreOutput:
        h = torch.gru_cell(x, state.h, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        diagnosed = {}
        if report:
            gates = (x @ self.weight_ih.T + self.bias_ih + state.h @ self.weight_hh.T + self.bias_hh).detach()
            r, z, _ = gates.chunk(3, dim=1)
            means = torch.stack([r.sigmoid().mean(1), z.sigmoid().mean(1)], 1)
            diagnosed = {"gates": means, "memory_norm": torch.linalg.vector_norm(h.detach(), dim=1)}
        return CoreOutput(h, self.State(h), {name: diagnosed[name] for name in report})

    def sequence(
        self, xs: Tensor, state: State, episode_starts: Tensor | None, report: tuple[str, ...], donate: bool
    ) -> CoreOutput:
        """On the CPU, where torch's GRU is a loop of small operations too, `_Sequence` with its resets; elsewhere one
        fused call, or one for segments of similar length."""
        if report or len(xs) == 1:
            return self.loop(xs, state, episode_starts, report, donate)
        if not self._is_fused(xs.device):
            given = F.linear(xs, self.weight_ih, self.bias_ih)
            ys = _Sequence.apply(given, state.h, self.weight_hh, self.bias_hh, episode_starts)
            return CoreOutput(ys, self.State(ys[-1].clone()), {})  # a view would hold all of them
        if episode_starts is not None:
            state = self.reset(state, episode_starts[0])
        if episode_starts is None or not may_be_any(episode_starts[1:]):
            ys = self._run(xs, state, self.weight_ih)
        else:
            # outputs are the state, so that what padding steps leave behind is never read
            unused = self.weight_ih.new_zeros(len(self.weight_ih), 1)
            weight_ih = torch.cat([self.weight_ih, unused], dim=1)

            def kernel(xs, state):
                return (self._run(xs, state, weight_ih),)

            (ys,) = segments.run(kernel, xs, state, self.initial_state, episode_starts)
        return CoreOutput(ys, self.State(ys[-1].clone()), {})

    @staticmethod
    def _is_fused(device: torch.device) -> bool:
        return device.type != "cpu"

    def _run(self, xs: Tensor, state, weight_ih: Tensor) -> Tensor:
        """The fused kernel without resets: outputs [T, B, h]."""
        weights = [weight_ih, self.weight_hh, self.bias_ih, self.bias_hh]
        ys, _ = torch.gru(xs, state[0][None], weights, True, 1, 0.0, False, False, False)
        return ys


class _Sequence(torch.autograd.Function):
    """The recurrence over T steps, with resets, and its derivative. Backward, a step multiplies what arrives at its
    output by factors that all steps find at once, and gradients of weights are one product over the whole sequence."""

    @staticmethod
    def forward(ctx, given, h, weight, bias, starts):
        """given [T, B, 3h]: what the inputs add to r, z, n; h [B, h]; weight [3h, h], bias [3h]; starts bool [T, B] or
        None -> ys [T, B, h]."""
        n, T, resets = h.shape[1], len(given), _resets(starts, len(given))
        recalled, gates, before = torch.empty_like(given), torch.empty_like(given), given.new_empty(T, *h.shape)
        ys = torch.empty_like(before)
        for t in range(T):
            h = before[t].copy_(h)
            if resets[t] is not None:
                h.masked_fill_(resets[t], 0)
            added, back, gate = given[t], torch.addmm(bias, h, weight.T, out=recalled[t]), gates[t]
            r, z = torch.add(added[:, : 2 * n], back[:, : 2 * n], out=gate[:, : 2 * n]).sigmoid_().chunk(2, dim=1)
            new = torch.addcmul(added[:, 2 * n :], r, back[:, 2 * n :], out=gate[:, 2 * n :]).tanh_()
            h = torch.lerp(new, h, z, out=ys[t])
        ctx.save_for_backward(weight, recalled, gates, before, starts)
        return ys

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_ys):
        weight, recalled, gates, before, starts = ctx.saved_tensors
        resets, (r, z, new) = _resets(starts, len(gates)), gates.chunk(3, dim=2)
        n, to_new = before.shape[2], new.square().neg_().add_(1).mul_(1 - z)
        factors = gates.new_empty(*before.shape[:2], 3, n)
        torch.mul(to_new * recalled[..., 2 * n :], r * (1 - r), out=factors[:, :, 0])
        torch.mul(before - new, z * (1 - z), out=factors[:, :, 1])
        torch.mul(to_new, r, out=factors[:, :, 2])
        grad_recalled, grads, grad_h = torch.empty_like(factors), torch.empty_like(before), torch.zeros_like(before[0])
        for t in reversed(range(len(gates))):
            grad = torch.add(grad_h, grad_ys[t], out=grads[t])
            torch.mul(grad[:, None], factors[t], out=grad_recalled[t])
            grad_h = torch.addmm(grad * z[t], grad_recalled[t].flatten(1), weight)
            if resets[t] is not None:
                grad_h.masked_fill_(resets[t], 0)
        grad_given = torch.cat([grad_recalled[:, :, :2].flatten(2), grads * to_new], dim=2)
        grad_recalled = grad_recalled.flatten(2).flatten(0, 1)
        return grad_given, grad_h, grad_recalled.T @ before.flatten(0, 1), grad_recalled.sum(0), None


def _resets(starts: Tensor | None, T: int) -> list[Tensor | None]:
    """For each step the rows that start an episode, bool [B, 1], or None where none does."""
    if starts is None:
        return [None] * T
    return [now[:, None] if now.any() else None for now in starts]
