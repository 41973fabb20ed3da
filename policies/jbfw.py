"""Fast weights that attend to the recent past (Ba, Hinton, Mnih, Leibo & Ionescu, NeurIPS 2016).

A recurrent network with a matrix A to which each hidden vector is added as a decaying outer product with itself. An
inner loop applies A to the hidden vector in the making, which draws it towards those of the recent past that are like
it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from engram.policies import jbfw_kernel, rows
from engram.policies.core import Core, CoreConfig, CoreOutput


class JBFW(Core):
    """Output size Y = hidden_size = n.

    Parameters, in order: input.weight [n, D] and bias, recurrent.weight [n, n], 0.05 times the identity at first, gain
    and offset of the layer norm. Together n (D + 1) + n^2 + 2n numbers; the state holds n + n^2.
    """

    @dataclass(frozen=True)
    class Config(CoreConfig):
        hidden_size: int = 100
        """units n; the fast weights are [n, n] for each sequence"""
        inner_steps: int = 1
        """times S that the fast weights are applied in a step"""
        decay: float = 0.95
        """lambda, what a step keeps of the fast weights"""
        learning_rate: float = 0.5
        """eta, with which a hidden vector's outer product is added; 0 leaves a recurrent network with layer norm"""

        def __post_init__(self):
            super().__post_init__()
            self.require(0 <= self.decay <= 1, "decay", "between 0 and 1")
            self.require(self.learning_rate >= 0, "learning_rate", "at least 0")

        def build(self, input_size: int) -> "JBFW":
            return JBFW(input_size, self)

    class State(NamedTuple):
        h: Tensor  # [B, n]
        fast: Tensor  # A, [B, n, n], of the steps before the one that made h

    diagnostics = ("hidden", "query", "write_strength", "memory_norm")
    """h [T, B, n]; what A is applied to [T, B, S, n], whose inner products with earlier h are the attention; of the
    last h, which A gets, eta |h|^2, and |A|, both [T, B]"""

    def __init__(self, input_size: int, config: Config):
        super().__init__()
        self.config = config
        self.input_size, self.output_size = input_size, config.hidden_size
        self.input = nn.Linear(input_size, config.hidden_size)
        self.recurrent = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        nn.init.eye_(self.recurrent.weight).data.mul_(0.05)
        self.norm = nn.LayerNorm(config.hidden_size)

    def initial_state(self, batch_size: int) -> State:
        n, weight = self.config.hidden_size, self.recurrent.weight
        return self.State(weight.new_zeros(batch_size, n), weight.new_zeros(batch_size, n, n))

    def step(self, x: Tensor, state: State, report: tuple[str, ...] = (), donate: bool = False) -> CoreOutput:
        fast = self.config.decay * state.fast + self.config.learning_rate * state.h[:, :, None] * state.h[:, None, :]
        given, queries = self.input(x) + self.recurrent(state.h), []
        h = self.norm(given).relu()
        for _ in range(self.config.inner_steps):
            queries.append(h)
            h = self.norm(given + (fast @ h[..., None])[..., 0]).relu()
        diagnosed = {}
        if report:
            strength = self.config.learning_rate * state.h.square().sum(1)
            diagnosed = {"hidden": h, "query": torch.stack(queries, 1), "write_strength": strength}
            diagnosed["memory_norm"] = torch.linalg.matrix_norm(fast)
        return CoreOutput(h, self.State(h, fast), {name: diagnosed[name].detach() for name in report})

    def sequence(
        self, xs: Tensor, state: State, episode_starts: Tensor | None, report: tuple[str, ...], donate: bool
    ) -> CoreOutput:
        if report:
            return self.loop(xs, state, episode_starts, report, donate)
        config, ys = self.config, []
        for t, given in enumerate(self.input(xs).unbind()):
            h, fast = state if episode_starts is None else self.reset(state, episode_starts[t], donate and t == 0)
            given = given + self.recurrent(h)
            query = self.norm(given).relu()
            # one pass over the fast weights, which are by far the most of what a step touches
            if rows.acts(fast, given):
                fast = fast.contiguous() if donate or t > 0 else fast.clone(memory_format=torch.contiguous_format)
                found = jbfw_kernel.step(fast, h, query, config.decay, config.learning_rate)
            else:
                fast = torch.baddbmm(fast, h[:, :, None], h[:, None, :], beta=config.decay, alpha=config.learning_rate)
                found = (fast @ query[..., None])[..., 0]
            h = self.norm(given + found).relu()
            for _ in range(config.inner_steps - 1):
                h = self.norm(given + (fast @ h[..., None])[..., 0]).relu()
            state = self.State(h, fast)
            ys.append(h)
        return CoreOutput(torch.stack(ys), state, {})
