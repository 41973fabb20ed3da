"""Relational Memory Core (Santoro et al., NeurIPS 2018).

Memory slots attend to each other and to the input at every step, and each is then gated like the cell of an LSTM. Where
the paper's equations and the authors' program differ, this is the program: no output gate and no hidden vector beside
the memory, one layer norm over all queries, keys and values, an initial memory that is the identity.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engram.policies import rmc_sequence, rows
from engram.policies.core import Core, CoreConfig, CoreOutput


class RMC(Core):
    """N = num_slots slots of width W = num_heads * head_size; output size Y = N W, the memory itself.

    Parameters, in order: input [W, D / input_rows]; for each block qkv [Q, W], its norm, and the norms after attention
    and after the MLP, with Q = num_heads * (2 key_size + head_size); the MLP's layers [W, W], which all blocks share;
    gate_input [2 G, W * input_rows] and gate_memory [2 G, W], rows i and f, G = W, 1 or none. All have biases.
    """

    @dataclass(frozen=True)
    class Config(CoreConfig):
        num_slots: int = 4
        """slots N of the memory"""
        head_size: int = 16
        """width of a value; all heads together are the width of a slot. 64 in the paper's BoxWorld agent"""
        num_heads: int = 4
        """attention heads"""
        key_size: int | None = None
        """width of a query and a key; none for head_size"""
        num_blocks: int = 1
        """rounds P of attention and MLP in a step"""
        mlp_layers: int = 2
        """layers of the MLP"""
        gate: Literal["memory", "unit", "none"] = "memory"
        """an input and a forget gate for each slot, for each unit of a slot, or no gates"""
        forget_bias: float = 1.0
        """constant added inside the forget gate"""
        input_bias: float = 0.0
        """constant added inside the input gate"""
        attention_scale: Literal["key", "qkv"] = "key"
        """scores divided by the root of key_size, or of 2 key_size + head_size as in the authors' first releases"""
        input_rows: int = 1
        """the inputs are that many rows, each of which is attended to"""

        def __post_init__(self):
            super().__post_init__()
            self.require(
                self.num_slots <= self.width,
                "num_slots",
                f"at most num_heads * head_size = {self.width}: slots beyond that would stay equal to each other",
            )

        @property
        def width(self) -> int:
            """W, of a slot."""
            return self.num_heads * self.head_size

        @property
        def head_sizes(self) -> tuple[int, int, int]:
            """Widths of a head's query, key and value."""
            key_size = self.head_size if self.key_size is None else self.key_size
            return key_size, key_size, self.head_size

        def build(self, input_size: int) -> "RMC":
            self.require(input_size % self.input_rows == 0, "input_rows", f"a divisor of the input size {input_size}")
            return RMC(input_size, self)

    class State(NamedTuple):
        memory: Tensor  # M, [B, N, W]

    diagnostics = ("attention", "gate_i", "gate_f", "memory_norm")
    """[T, B, P, heads, N + rows, N + rows], where a row sums to 1 (Fig. 3 shows the first N of them); [T, B, N, G]
    twice; of the slots [T, B, N]. Without gates, they are reported as 1 and 0."""

    def __init__(self, input_size: int, config: Config):
        super().__init__()
        self.config = config
        self.input_size, self.output_size = input_size, config.num_slots * config.width
        self.input = nn.Linear(input_size // config.input_rows, config.width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_blocks))
        self.mlp = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(config.mlp_layers))
        if config.gate != "none":
            gates = 2 * (config.width if config.gate == "unit" else 1)
            self.gate_input = nn.Linear(config.width * config.input_rows, gates)
            self.gate_memory = nn.Linear(config.width, gates)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                std = 1 / math.sqrt(module.in_features)
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
                nn.init.zeros_(module.bias)

    def initial_state(self, batch_size: int) -> State:
        like = self.input.weight
        identity = torch.eye(self.config.num_slots, self.config.width, dtype=like.dtype, device=like.device)
        return self.State(identity.repeat(batch_size, 1, 1))

    def step(self, x: Tensor, state: State, report: tuple[str, ...] = (), donate: bool = False) -> CoreOutput:
        N, rows = self.config.num_slots, self._rows(x)
        attended, maps = torch.cat([state.memory, rows], dim=1), []
        for block in self.blocks:
            read, weights = block.attend(block.project(attended))
            attended = block.attended_norm(attended + read)
            attended = block.mlp_norm(self._mlp(attended) + attended)
            maps.append(weights)
        memory, gates = self._gate(state.memory, attended[:, :N], self._gate_input(rows))
        diagnosed = {}
        if report:
            gate_i, gate_f = gates or (torch.ones_like(memory[..., :1]), torch.zeros_like(memory[..., :1]))
            norms = torch.linalg.vector_norm(memory, dim=2)
            named = zip(self.diagnostics, (torch.stack(maps, 1), gate_i, gate_f, norms), strict=True)
            diagnosed = {name: value.detach() for name, value in named if name in report}
        return CoreOutput(memory.flatten(1), self.State(memory), {name: diagnosed[name] for name in report})

    def sequence(
        self, xs: Tensor, state: State, episode_starts: Tensor | None, report: tuple[str, ...], donate: bool
    ) -> CoreOutput:
        if report:
            return self.loop(xs, state, episode_starts, report, donate)
        # what depends on the inputs alone, for all steps
        given = self._rows(xs)
        projected, gates = self.blocks[0].project(given), self._gate_input(given)
        if rows.compiles(xs):
            initial, scale = self.initial_state(1).memory[0], self.blocks[0].scale
            inputs = episode_starts, given, projected, gates, state.memory, initial
            memories = rmc_sequence.Sequence.apply(self.config, scale, *inputs, *self._recurrent_parameters())
            # a copy, as a view would hold all of them, and be overwritten with them where the state is donated
            return CoreOutput(memories.flatten(2), self.State(memories[-1].clone()), {})
        memories = []
        # unbound, as the gradient of an index is as large as all of it
        gates = [None] * len(xs) if gates is None else gates.unbind()
        for t, parts in enumerate(zip(given.unbind(), projected.unbind(), gates, strict=True)):
            if episode_starts is not None:
                state = self.reset(state, episode_starts[t], donate and t == 0)
            state = self.State(self._advance(state.memory, *parts))
            memories.append(state.memory)
        return CoreOutput(torch.stack(memories).flatten(2), state, {})

    def _recurrent_parameters(self) -> list[Tensor]:
        """All but those of the maps of the inputs, as `rmc_sequence.Sequence` takes them."""
        modules = [m for b in self.blocks for m in (b.qkv, b.qkv_norm, b.attended_norm, b.mlp_norm)] + [*self.mlp]
        if self.config.gate != "none":
            modules.append(self.gate_memory)
        return [parameter for module in modules for parameter in (module.weight, module.bias)]

    def _advance(self, memory: Tensor, rows: Tensor, projected: Tensor, gates: Tensor | None) -> Tensor:
        """The next memory [B, N, W]. Of the inputs: their rows [B, n, W], of these the queries, keys and values in the
        first block [B, n, Q], and their part of the gates. What they become in the last block is never read."""
        N, last = self.config.num_slots, len(self.blocks) - 1
        attended = torch.cat([memory, rows], dim=1) if last > 0 else memory
        for p, block in enumerate(self.blocks):
            if p == 0:
                mapped = block.qkv(memory)
            else:
                mapped, projected = block.qkv(attended), projected[:, :0]
            if p == last:
                attended = attended[:, :N]
            qkv = torch.cat([block.qkv_norm(mapped), projected], dim=1)
            attended = block.attended_norm(attended + block.attend(qkv, attended.shape[1])[0])
            attended = block.mlp_norm(self._mlp(attended) + attended)
        return self._gate(memory, attended, gates)[0]

    def _rows(self, xs: Tensor) -> Tensor:
        """Inputs [..., D] as rows of the width of a slot [..., rows, W]."""
        return self.input(xs.unflatten(-1, (self.config.input_rows, -1)))

    def _gate_input(self, rows: Tensor) -> Tensor | None:
        """What the inputs and the constants contribute to the gates of every slot [..., 1, 2 G]."""
        if self.config.gate == "none":
            return None
        i, f = self.gate_input(rows.flatten(-2))[..., None, :].chunk(2, dim=-1)
        return torch.cat([i + self.config.input_bias, f + self.config.forget_bias], dim=-1)

    def _mlp(self, rows: Tensor) -> Tensor:
        for depth, layer in enumerate(self.mlp):
            rows = layer(rows.relu() if depth > 0 else rows)
        return rows

    def _gate(self, memory: Tensor, candidate: Tensor, gates: Tensor | None):
        """The next memory [B, N, W] and its gates i and f, each [B, N, G]."""
        if gates is None:
            return candidate, None
        i, f = (gates + self.gate_memory(memory.tanh())).sigmoid().chunk(2, dim=-1)
        return i * candidate.tanh() + f * memory, (i, f)


class _Block(nn.Module):
    """Multi-head attention among rows [B, R, W], with the norms of what follows it."""

    def __init__(self, config: RMC.Config):
        super().__init__()
        self.config = config
        size = config.num_heads * sum(config.head_sizes)
        self.qkv, self.qkv_norm = nn.Linear(config.width, size), nn.LayerNorm(size)
        self.attended_norm, self.mlp_norm = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        key_size, _, head_size = config.head_sizes
        self.scale = 1 / math.sqrt(key_size if config.attention_scale == "key" else 2 * key_size + head_size)

    def project(self, rows: Tensor) -> Tensor:
        """Queries, keys and values of all heads [..., Q], normalised together."""
        return self.qkv_norm(self.qkv(rows))

    def attend(self, qkv: Tensor, num_queries: int | None = None) -> tuple[Tensor, Tensor]:
        """What the first `num_queries` rows (or all) read from all: [B, queries, W], weights [B, heads, queries, R]."""
        heads = qkv.unflatten(-1, (self.config.num_heads, -1)).transpose(1, 2)
        query, key, value = heads.split(self.config.head_sizes, dim=-1)
        weights = F.softmax(self.scale * query[:, :, :num_queries] @ key.transpose(2, 3), dim=-1)
        return (weights @ value).transpose(1, 2).flatten(2), weights
