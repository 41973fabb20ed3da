"""Gated recurrent unit (Cho et al. 2014), in the form that torch and cuDNN compute: the reset gate after the recurrent
product."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from engram.policies import segments
from engram.policies.core import Core, CoreConfig, CoreOutput, may_be_any


class GRU(Core):
    """One GRU layer, output size Y = hidden_size = h.

    Parameters, in order: weight_ih [3h, D], weight_hh [3h, h], bias_ih [3h], bias_hh [3h]; gate rows r, z, n. Together
    3h(D + h) + 6h numbers, drawn uniformly from +-1/sqrt(h).
    """

    @dataclass(frozen=True)
    class Config(CoreConfig):
        hidden_size: int = 256
        """units h; the state holds as many numbers"""

        def __post_init__(self):
            self.require(self.hidden_size > 0, "hidden_size", "at least 1")

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

    def forward(
        self,
        xs: Tensor,
        state: State,
        episode_starts: Tensor | None = None,
        report: tuple[str, ...] = (),
        donate: bool = False,
    ) -> CoreOutput:
        self.check(xs, state, episode_starts, report)
        if report or len(xs) == 1:
            return self.loop(xs, state, episode_starts, report, donate)
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
        return CoreOutput(ys, self.State(ys[-1]), {})

    def _run(self, xs: Tensor, state, weight_ih: Tensor) -> Tensor:
        """The fused kernel without resets: outputs [T, B, h]."""
        weights = [weight_ih, self.weight_hh, self.bias_ih, self.bias_hh]
        ys, _ = torch.gru(xs, state[0][None], weights, True, 1, 0.0, False, False, False)
        return ys
