"""Fast Weight Memory (Schlag, Munkhdalai & Schmidhuber, ICLR 2021).

An LSTM writes one association a step into a third-order tensor of fast weights and reads it in a chain, where each
retrieved vector becomes one of the two keys of the next read. The LSTM never sees what was read, so that a whole
sequence of it runs before the memory does.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from engram.policies import fwm_memory
from engram.policies.core import Core, CoreConfig, CoreOutput
from engram.policies.lstm import LSTM


class FWM(Core):
    """LSTM with a Fast Weight Memory; output size Y = hidden_size = l, memory width memory_size = d, N = num_reads.

    Parameters, in order: those of the LSTM, then write.weight [3d + 1, l] (rows k1, k2, v, beta) and bias, read.weight
    [C (1 + N) d, l] (rows n, e_1 .. e_N of each of C = num_chains) and bias, output.weight [l, C d] and bias; with a
    readout of r units its weights [r, l + C N (d + 1)] and [l, r], each with a bias. The state holds 2 l + d^3 numbers.
    """

    @dataclass(frozen=True)
    class Config(CoreConfig):
        hidden_size: int = 32
        """units l of the LSTM, and width of the output"""
        memory_size: int = 16
        """width d of keys and values; the memory is [d, d * d] for each sequence"""
        num_reads: int = 3
        """chained reads N of each step"""
        num_chains: int = 1
        """chains C that a step reads side by side, each with queries of its own; one in the paper"""
        key: Literal["tensor", "concat"] = "tensor"
        """two keys address the memory by their outer product or by their concatenation (App. E)"""
        write_scale: float | None = None
        """s in F' = F + s beta (v - F k) k^T; None for 1 / d, which keeps writes contractive; 1 in the paper (Eq. 3)"""
        query_activation: Literal["tanh", "tanh-e", "none"] = "tanh"
        """tanh on all queries (Eqs. 5, 6), on e_1 .. e_N alone, or on none"""
        beta_offset: float = 1.0
        """constant added before the sigmoid of the write strength; 0 in the paper"""
        bias: bool = True
        """biases of the write, read and output projections; none in the paper"""
        residual: bool = True
        """add the LSTM's output to what was read"""
        readout_size: int | None = None
        """hidden units of a perceptron that sees the LSTM's output beside all reads, and how much each found, and adds
        to the output: what is done can then depend on all together; none in the paper, where only the last read counts,
        linearly, and how much it found is normalised away"""
        forget_bias: float = 0.0
        """constant added inside the forget gate of the LSTM"""
        two_biases: bool = True
        """the LSTM has a bias for the input and one for the recurrent projection; otherwise one"""

        def __post_init__(self):
            super().__post_init__()
            self.require(self.write_scale is None or self.write_scale > 0, "write_scale", "above 0 or none")

        @property
        def scale(self) -> float:
            """s, of which beta is the share that a step uses."""
            return 1 / self.memory_size if self.write_scale is None else self.write_scale

        def build(self, input_size: int) -> "FWM":
            return FWM(input_size, self)

    class State(NamedTuple):
        h: Tensor  # [B, l]
        c: Tensor  # [B, l]
        memory: Tensor  # F, [B, d, d * d]: value index, then the two key indices; concatenated keys: [B, d, 2 d]

    diagnostics = ("key1", "key2", "read_n", "read_e", "beta", "write_strength", "memory_norm")
    """[T, B, d] twice, [T, B, C, N, d] twice, then [T, B] thrice: beta, s beta |k|^2, and |F'| before it is bounded by
    1. The products <k1, n><k2, e> over earlier steps are the maps of Fig. 3."""

    def __init__(self, input_size: int, config: Config):
        super().__init__()
        self.config = config
        self.input_size, self.output_size = input_size, config.hidden_size
        l, d, C, N = config.hidden_size, config.memory_size, config.num_chains, config.num_reads
        self.lstm = LSTM(input_size, LSTM.Config(l, config.forget_bias, config.two_biases))
        self.write = nn.Linear(l, 3 * d + 1, bias=config.bias)
        self.read = nn.Linear(l, C * (1 + N) * d, bias=config.bias)
        self.output = nn.Linear(C * d, l, bias=config.bias)
        self.readout = None
        if (r := config.readout_size) is not None:
            self.readout = nn.Sequential(nn.Linear(l + C * N * (d + 1), r), nn.ReLU(), nn.Linear(r, l))
        for projection in (self.write, self.read):
            nn.init.uniform_(projection.weight, -math.sqrt(6 / (l + d)), math.sqrt(6 / (l + d)))

    def initial_state(self, batch_size: int) -> State:
        d = self.config.memory_size
        memory = self.output.weight.new_zeros(batch_size, d, d * d if self.config.key == "tensor" else 2 * d)
        return self.State(*self.lstm.initial_state(batch_size), memory)

    def step(self, x: Tensor, state: State, report: tuple[str, ...] = (), donate: bool = False) -> CoreOutput:
        hidden, (h, c), _ = self.lstm.step(x, LSTM.State(state.h, state.c))
        entry, query = self._project(hidden)
        reads, memory, diagnosed = fwm_memory.step(state.memory, entry, query, self.config.key, donate)
        ys = self._output(hidden, reads)
        return CoreOutput(ys, self.State(h, c, memory), self._report(entry, query, reads, diagnosed, report))

    def sequence(
        self, xs: Tensor, state: State, episode_starts: Tensor | None, report: tuple[str, ...], donate: bool
    ) -> CoreOutput:
        if len(xs) == 1:
            return self.loop(xs, state, episode_starts, report, donate)
        hidden, (h, c), _ = self.lstm(xs, LSTM.State(state.h, state.c), episode_starts)
        entry, query = self._project(hidden)
        reads, memory, diagnosed = fwm_memory.sequence(state.memory, entry, query, episode_starts, self.config.key)
        ys = self._output(hidden, reads)
        return CoreOutput(ys, self.State(h, c, memory), self._report(entry, query, reads, diagnosed, report))

    def _project(self, hidden: Tensor) -> tuple[fwm_memory.Entry, fwm_memory.Query]:
        """What the hidden states [..., l] write and ask for."""
        config, d = self.config, self.config.memory_size
        written, asked = self.write(hidden), self.read(hidden)
        key1, key2, value = written[..., : 3 * d].tanh().split(d, dim=-1)  # Eq. 2
        beta = torch.sigmoid(written[..., 3 * d] + config.beta_offset)
        asked = asked.unflatten(-1, (config.num_chains, 1 + config.num_reads, d))
        n, e = asked[..., 0, :], asked[..., 1:, :]
        if config.query_activation == "tanh":  # Eqs. 5 and 6
            n = n.tanh()
        if config.query_activation != "none":
            e = e.tanh()
        return fwm_memory.Entry(key1, key2, value, config.scale * beta), fwm_memory.Query(n, e)

    def _output(self, hidden: Tensor, reads: Tensor) -> Tensor:
        """Hidden states [..., l] and what the chains read [..., C, N, d] -> [..., l]."""
        if self.readout is None:
            reads = reads[..., -1:, :]
        reads = reads.contiguous()
        found = fwm_memory.normalise(reads)
        ys = self.output(found[..., -1, :].flatten(-2))
        if self.config.residual:
            ys = hidden + ys
        if self.readout is not None:
            magnitude = fwm_memory.magnitude(reads)
            ys = ys + self.readout(torch.cat([hidden, found.flatten(-3), magnitude.flatten(-2)], dim=-1))
        return ys

    def _report(self, entry, query, reads, diagnosed, report) -> dict[str, Tensor]:
        if not report:
            return {}
        found = fwm_memory.normalise(reads[..., :-1, :])  # each read asks for the next
        asked = torch.cat([query.n[..., None, :], found], dim=-2)
        diagnosed |= {"key1": entry.key1, "key2": entry.key2, "beta": entry.rate / self.config.scale}
        diagnosed |= {"read_n": asked, "read_e": query.e}
        return {name: diagnosed[name].detach() for name in report}
