"""Long short-term memory (Hochreiter & Schmidhuber 1997; with forget gates, Gers et al. 2000): core and controller."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from engram.policies.core import Core, CoreConfig, CoreOutput, may_be_any


class LSTM(Core):
    """One LSTM layer, output size Y = hidden_size = h.

    Parameters, in order: weight_ih [4h, D], weight_hh [4h, h], bias_ih [4h] and, with two_biases, bias_hh [4h]; gate
    rows i, f, g, o. Together 4h(D + h) + 8h numbers, drawn uniformly from +-1/sqrt(h).
    """

    @dataclass(frozen=True)
    class Config(CoreConfig):
        hidden_size: int = 256
        """units h; the state holds 2h numbers"""
        forget_bias: float = 0.0
        """constant added inside the forget gate; 1 remembers longer from the start"""
        two_biases: bool = True
        """a bias for the input and one for the recurrent projection, as in torch; otherwise one"""

        def __post_init__(self):
            self.require(self.hidden_size > 0, "hidden_size", "at least 1")

        def build(self, input_size: int) -> "LSTM":
            return LSTM(input_size, self)

    class State(NamedTuple):
        h: Tensor
        c: Tensor

    diagnostics = ("gates", "cell_norm")
    """[T, B, 4] means of i, f, g, o over the units; [T, B]"""

    def __init__(self, input_size: int, config: Config):
        super().__init__()
        self.config = config
        self.input_size, self.output_size = input_size, config.hidden_size
        rows, bound = 4 * config.hidden_size, 1 / math.sqrt(config.hidden_size)

        def uniform(*shape):
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        self.weight_ih = uniform(rows, input_size)
        self.weight_hh = uniform(rows, config.hidden_size)
        self.bias_ih = uniform(rows)
        self.bias_hh = uniform(rows) if config.two_biases else None

    def initial_state(self, batch_size: int) -> State:
        zeros = self.weight_hh.new_zeros(batch_size, self.output_size)
        return self.State(zeros, zeros)

    def step(self, x: Tensor, state: State, report: tuple[str, ...] = (), donate: bool = False) -> CoreOutput:
        bias_ih, bias_hh = self._biases()
        h, c = torch.lstm_cell(x, state, self.weight_ih, self.weight_hh, bias_ih, bias_hh)
        diagnosed = {}
        if report:
            gates = (x @ self.weight_ih.T + bias_ih + state.h @ self.weight_hh.T + bias_hh).detach()
            i, f, g, o = gates.chunk(4, dim=1)
            means = [i.sigmoid().mean(1), f.sigmoid().mean(1), g.tanh().mean(1), o.sigmoid().mean(1)]
            diagnosed = {"gates": torch.stack(means, 1), "cell_norm": torch.linalg.vector_norm(c.detach(), dim=1)}
        return CoreOutput(h, self.State(h, c), {name: diagnosed[name] for name in report})

    def forward(
        self,
        xs: Tensor,
        state: State,
        episode_starts: Tensor | None = None,
        report: tuple[str, ...] = (),
        donate: bool = False,
    ) -> CoreOutput:
        self.check(xs, state, report)
        if report or len(xs) == 1:
            return self.loop(xs, state, episode_starts, report, donate)
        if episode_starts is not None:
            state = self.reset(state, episode_starts[0])
        biases = self._biases()
        if episode_starts is None or not may_be_any(episode_starts[1:]):
            weights = [self.weight_ih, self.weight_hh, *biases]
            ys, h, c = torch.lstm(xs, [leaf[None] for leaf in state], weights, True, 1, 0.0, False, False, False)
            return CoreOutput(ys, self.State(h[0], c[0]), {})
        T, B, D = xs.shape
        weight_ih = self.weight_ih.view(4, -1, D).transpose(1, 2)
        bias = (biases[0] + biases[1]).view(4, 1, -1)
        projected = torch.baddbmm(bias, xs.reshape(1, T * B, D).expand(4, -1, -1), weight_ih).view(4, T, B, -1)
        ys, c = _Recurrence.apply(projected, self.weight_hh, *state, episode_starts)
        return CoreOutput(ys, self.State(ys[-1], c), {})

    def _biases(self) -> tuple[Tensor, Tensor]:
        bias_ih, bias_hh = self.bias_ih, self.bias_hh
        if bias_hh is None:
            bias_hh = torch.zeros_like(bias_ih)
        if self.config.forget_bias:
            forget = torch.arange(len(bias_ih), device=bias_ih.device) // self.output_size == 1
            bias_ih = bias_ih + self.config.forget_bias * forget
        return bias_ih, bias_hh


class _Recurrence(torch.autograd.Function):
    """The recurrent half of an LSTM with episode starts inside the sequence, where fused kernels know none.

    Gates are kept apart, [4, T, B, h] in the order i, f, g, o, so that every operation runs over contiguous memory, and
    the backward pass is written out: weights get their gradient from one product over all steps.
    """

    @staticmethod
    def forward(ctx, projected, weight_hh, h, c, starts):
        """projected W_ih x + b [4, T, B, h], weight_hh [4h, h], h and c [B, h], starts [T, B] -> hs [T, B, h], c."""
        _, T, B, size = projected.shape
        weight = weight_hh.view(4, size, size).transpose(1, 2)
        gates = torch.empty_like(projected)
        hs, cs, tanh_cs = (projected.new_empty(T, B, size) for _ in range(3))
        h0, c0, resets = h, c, starts.any(1).tolist()
        for t in range(T):
            if resets[t]:
                h, c = h.masked_fill(starts[t, :, None], 0), c.masked_fill(starts[t, :, None], 0)
            gate = torch.baddbmm(projected[:, t], h.expand(4, -1, -1), weight)
            torch.sigmoid(gate[:2], out=gates[:2, t])
            torch.tanh(gate[2], out=gates[2, t])
            torch.sigmoid(gate[3], out=gates[3, t])
            i, f, g, o = gates[:, t]
            c = torch.addcmul(f * c, i, g, out=cs[t])
            h = torch.mul(o, torch.tanh(c, out=tanh_cs[t]), out=hs[t])
        ctx.save_for_backward(gates, hs, cs, tanh_cs, h0, c0, weight_hh, starts)
        ctx.resets = resets
        return hs, c.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_hs, grad_c):
        gates, hs, cs, tanh_cs, h0, c0, weight_hh, starts = ctx.saved_tensors
        _, T, B, size = gates.shape
        weight = weight_hh.view(4, size, size)
        grad_gates, grad_h = torch.empty_like(gates), torch.zeros_like(h0)
        for t in reversed(range(T)):
            i, f, g, o = gates[:, t]
            before = cs[t - 1] if t else c0
            if ctx.resets[t]:
                before = before.masked_fill(starts[t, :, None], 0)
            grad_h = grad_h + grad_hs[t]
            grad_o = grad_h * tanh_cs[t]
            grad_c = grad_c + grad_h * o - grad_o * o * tanh_cs[t]
            torch.mul(grad_c * g, i - i * i, out=grad_gates[0, t])
            torch.mul(grad_c * before, f - f * f, out=grad_gates[1, t])
            torch.mul(grad_c * i, 1 - g * g, out=grad_gates[2, t])
            torch.mul(grad_o, o - o * o, out=grad_gates[3, t])
            grad_h = torch.bmm(grad_gates[:, t], weight).sum(0)
            grad_c = grad_c * f
            if ctx.resets[t]:
                grad_h, grad_c = grad_h.masked_fill(starts[t, :, None], 0), grad_c.masked_fill(starts[t, :, None], 0)
        befores = torch.cat([h0[None], hs[:-1]]).masked_fill(starts[..., None], 0).view(T * B, size)
        grad_weight = grad_gates.view(4, T * B, size).transpose(1, 2) @ befores
        return grad_gates, grad_weight.view_as(weight_hh), grad_h, grad_c, None
