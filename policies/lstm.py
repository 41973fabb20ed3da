"""Long short-term memory (Hochreiter & Schmidhuber 1997; with forget gates, Gers et al. 2000): core and controller."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from engram.policies import segments
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

        def build(self, input_size: int) -> "LSTM":
            return LSTM(input_size, self)

    class State(NamedTuple):
        h: Tensor
        c: Tensor

    diagnostics = ("gates", "memory_norm")
    """[T, B, 4] means of i, f, g, o over the units; |c| [T, B]"""

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
        return self.State(*self.weight_hh.new_zeros(2, batch_size, self.output_size))

    def step(self, x: Tensor, state: State, report: tuple[str, ...] = (), donate: bool = False) -> CoreOutput:
        bias_ih, bias_hh = self._biases()
        h, c = torch.lstm_cell(x, state, self.weight_ih, self.weight_hh, bias_ih, bias_hh)
        diagnosed = {}
        if report:
            gates = (x @ self.weight_ih.T + bias_ih + state.h @ self.weight_hh.T + bias_hh).detach()
            i, f, g, o = gates.chunk(4, dim=1)
            means = [i.sigmoid().mean(1), f.sigmoid().mean(1), g.tanh().mean(1), o.sigmoid().mean(1)]
            diagnosed = {"gates": torch.stack(means, 1), "memory_norm": torch.linalg.vector_norm(c.detach(), dim=1)}
        return CoreOutput(h, self.State(h, c), {name: diagnosed[name] for name in report})

    def sequence(
        self, xs: Tensor, state: State, episode_starts: Tensor | None, report: tuple[str, ...], donate: bool
    ) -> CoreOutput:
        if report or len(xs) == 1:
            return self.loop(xs, state, episode_starts, report, donate)
        if episode_starts is not None:
            state = self.reset(state, episode_starts[0])
            if may_be_any(episode_starts[1:]):
                return self._segments(xs, state, episode_starts)
        ys, h, c = self._run(xs, state, self.weight_ih)
        return CoreOutput(ys, self.State(h, c), {})

    def _segments(self, xs: Tensor, state: State, starts: Tensor) -> CoreOutput:
        """Between episode starts; the last input of a padding step closes i and opens f, which holds the cell."""
        hold = torch.tensor([-1e4, 1e4, 0, 0], dtype=xs.dtype, device=xs.device)
        weight_ih = torch.cat([self.weight_ih, hold.repeat_interleave(self.output_size)[:, None]], dim=1)

        def kernel(xs, state):
            ys, _, c = self._run(xs, state, weight_ih)
            return ys, c

        ys, c = segments.run(kernel, xs, state, self.initial_state, starts)
        return CoreOutput(ys, self.State(ys[-1].clone(), c), {})  # a view would hold all of them

    def _run(self, xs: Tensor, state, weight_ih: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The fused kernel without resets: outputs [T, B, h], final h and c [B, h]."""
        weights = [weight_ih, self.weight_hh, *self._biases()]
        ys, h, c = torch.lstm(xs, [leaf[None] for leaf in state], weights, True, 1, 0.0, False, False, False)
        return ys, h[0], c[0]

    def _biases(self) -> tuple[Tensor, Tensor]:
        bias_ih, bias_hh = self.bias_ih, self.bias_hh
        if bias_hh is None:
            bias_hh = torch.zeros_like(bias_ih)
        if self.config.forget_bias:
            forget = torch.arange(len(bias_ih), device=bias_ih.device) // self.output_size == 1
            bias_ih = bias_ih + self.config.forget_bias * forget.to(bias_ih.dtype)
        return bias_ih, bias_hh
