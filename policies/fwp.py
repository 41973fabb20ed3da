"""Fast weight programmers whose writes and reads are all known from the inputs: their sequences have no scan."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from engram.policies import delta_rule
from engram.policies.delta_rule import Write
from engram.policies.fwp_stack import Access, FastWeightProgrammer, restack


class LinearTransformer(FastWeightProgrammer):
    """Linear Transformer (Katharopoulos et al. 2020; Irie et al. 2021, Eqs. 5 to 7): M adds up what was written.

    Per head: M <- M + phi(k) v^T, o = M^T phi(q); P = 3 d, rows q, k, v. The state holds n A d^2 numbers. M grows with
    the length of an episode.
    """

    @dataclass(frozen=True)
    class Config(FastWeightProgrammer.Config):
        def build(self, input_size: int) -> "LinearTransformer":
            return LinearTransformer(input_size, self)

    class State(NamedTuple):
        memory: Tensor  # M [B, n, A, d, d]

    diagnostics = ("query", "key", "write_strength", "memory_norm")
    """[T, B, n, A, 1, d] twice, then [T, B, n, A, 1] twice: |k|^2, |M|"""

    def widths(self) -> list[int]:
        return 3 * [self.config.head_size]

    def shapes(self) -> list[tuple[int, ...]]:
        return [(self.config.head_size, self.config.head_size)]

    def fast_step(self, fast: nn.Module, program: Tensor, state: State) -> tuple[Tensor, State, list[Access]]:
        write, query = self._parse(program)
        output, memory = delta_rule.step(state.memory, write, query)
        return output, self.State(memory), [Access(write, query, memory)]

    def fast_sequence(
        self, fast: nn.Module, program: Tensor, state: State, starts: Tensor | None
    ) -> tuple[Tensor, State]:
        outputs, memory = delta_rule.sequence(state.memory, *self._parse(program), starts)
        return outputs, self.State(memory)

    def _parse(self, program: Tensor) -> tuple[Write, Tensor]:
        """What a program writes, and the query."""
        query, key, value = program.split(self.widths(), -1)
        return Write(self._phi(key), value, None), self._phi(query)


class DeltaNet(LinearTransformer):
    """Delta Net (Schlag, Irie & Schmidhuber 2021; Irie et al. 2021, Eqs. 8 to 10): writes replace what was there.

    Per head: M <- M + beta phi(k) (v - M^T phi(k))^T, o = M^T phi(q), beta = sigmoid(b); P = 3 d + 1, rows q, k, v, b.
    The state holds n A d^2 numbers.
    """

    @dataclass(frozen=True)
    class Config(FastWeightProgrammer.Config):
        def build(self, input_size: int) -> "DeltaNet":
            return DeltaNet(input_size, self)

    class State(NamedTuple):
        memory: Tensor  # M [B, n, A, d, d]

    diagnostics = FastWeightProgrammer.diagnostics

    def widths(self) -> list[int]:
        return [*3 * [self.config.head_size], 1]

    def _parse(self, program: Tensor) -> tuple[Write, Tensor]:
        query, key, value, b = program.split(self.widths(), -1)
        return Write(self._phi(key), value, b[..., 0].sigmoid()), self._phi(query)


class DeltaMLP(FastWeightProgrammer):
    """Delta MLP (Irie et al. 2021, Eqs. 13 and 14): the fast net is a feed-forward network of residual blocks.

    Per head, g = q, then for each of K blocks, with matrices M [d, 4 d] and N [4 d, d] written by the delta rule:
    g <- g + N^T phi(M^T phi(LN(g))). P = d + K (10 d + 2), rows q, then of each block k_1 (d), v_1 (4 d), b_1,
    k_2 (4 d), v_2 (d), b_2. The layer norms over d are shared by the heads. The state holds 8 n A K d^2 numbers.
    """

    @dataclass(frozen=True)
    class Config(FastWeightProgrammer.Config):
        fast_blocks: int = 1
        """blocks K of each fast net"""

        def build(self, input_size: int) -> "DeltaMLP":
            return DeltaMLP(input_size, self)

    class State(NamedTuple):
        inner: Tensor  # M [B, n, A, K, d, 4 d]
        outer: Tensor  # N [B, n, A, K, 4 d, d]

    def widths(self) -> list[int]:
        d = self.config.head_size
        return [d, *self.config.fast_blocks * [d, 4 * d, 1, 4 * d, d, 1]]

    def shapes(self) -> list[tuple[int, ...]]:
        d, blocks = self.config.head_size, self.config.fast_blocks
        return [(blocks, d, 4 * d), (blocks, 4 * d, d)]

    def fast_parameters(self) -> nn.Module:
        return nn.ModuleList(nn.LayerNorm(self.config.head_size) for _ in range(self.config.fast_blocks))

    def fast_step(self, fast: nn.Module, program: Tensor, state: State) -> tuple[Tensor, State, list[Access]]:
        g, blocks = self._parse(program)
        inners, outers, accesses = [], [], []
        for j, (norm, (write, write2)) in enumerate(zip(fast, blocks, strict=True)):
            query = self._phi(norm(g))
            hidden, inner = delta_rule.step(state.inner[:, :, j], write, query)
            query2 = self._phi(hidden)
            found, outer = delta_rule.step(state.outer[:, :, j], write2, query2)
            g = g + found
            inners.append(inner)
            outers.append(outer)
            accesses += [Access(write, query, inner), Access(write2, query2, outer)]
        return g, self.State(restack(state.inner, inners, 2), restack(state.outer, outers, 2)), accesses

    def fast_sequence(
        self, fast: nn.Module, program: Tensor, state: State, starts: Tensor | None
    ) -> tuple[Tensor, State]:
        g, blocks = self._parse(program)
        inners, outers = [], []
        for j, (norm, (write, write2)) in enumerate(zip(fast, blocks, strict=True)):
            hidden, inner = delta_rule.sequence(state.inner[:, :, j], write, self._phi(norm(g)), starts)
            found, outer = delta_rule.sequence(state.outer[:, :, j], write2, self._phi(hidden), starts)
            g = g + found
            inners.append(inner)
            outers.append(outer)
        return g, self.State(torch.stack(inners, 2), torch.stack(outers, 2))

    def _parse(self, program: Tensor) -> tuple[Tensor, list[tuple[Write, Write]]]:
        """The query, and what is written to the two matrices of each block."""
        query, *parts = program.split(self.widths(), -1)
        blocks = []
        for j in range(0, len(parts), 6):
            key, value, b, key2, value2, b2 = parts[j : j + 6]
            write = Write(self._phi(key), value, b[..., 0].sigmoid())
            blocks.append((write, Write(self._phi(key2), value2, b2[..., 0].sigmoid())))
        return query, blocks


class DeltaDeltaNet(FastWeightProgrammer):
    """Delta Delta Net (Irie et al. 2021, Sec. 3.1): a Delta Net that programs a second one.

    Per head, M_1 [d, 3 d + 1] is written and asked as a Delta Net's memory, and what it answers is the program q, k, v,
    b of the second Delta Net M_2 [d, d]. P = 5 d + 2, rows q, k, v (3 d + 1), b. The state holds n A (4 d^2 + d)
    numbers. With slow_base, M_1 starts from a parameter [A, d, 3 d + 1] of each layer, drawn from [1, 2).
    """

    @dataclass(frozen=True)
    class Config(FastWeightProgrammer.Config):
        slow_base: bool = False
        """M_1 starts an episode from slow weights; otherwise from zero"""

        def build(self, input_size: int) -> "DeltaDeltaNet":
            return DeltaDeltaNet(input_size, self)

    class State(NamedTuple):
        programmer: Tensor  # M_1 less the slow weights it starts from [B, n, A, d, 3 d + 1]
        memory: Tensor  # M_2 [B, n, A, d, d]

    def widths(self) -> list[int]:
        d = self.config.head_size
        return [d, d, 3 * d + 1, 1]

    def shapes(self) -> list[tuple[int, ...]]:
        d = self.config.head_size
        return [(d, 3 * d + 1), (d, d)]

    def fast_step(self, fast: nn.Module, program: Tensor, state: State) -> tuple[Tensor, State, list[Access]]:
        write, query, known = self._outer(fast, program)
        inner, programmer = delta_rule.step(state.programmer, write, query)
        write2, query2 = self._parse(known + inner, self._inner_widths())
        output, memory = delta_rule.step(state.memory, write2, query2)
        return (
            output,
            self.State(programmer, memory),
            [Access(write, query, programmer), Access(write2, query2, memory)],
        )

    def fast_sequence(
        self, fast: nn.Module, program: Tensor, state: State, starts: Tensor | None
    ) -> tuple[Tensor, State]:
        write, query, known = self._outer(fast, program)
        inner, programmer = delta_rule.sequence(state.programmer, write, query, starts)
        write2, query2 = self._parse(known + inner, self._inner_widths())
        outputs, memory = delta_rule.sequence(state.memory, write2, query2, starts)
        return outputs, self.State(programmer, memory)

    def fast_parameters(self) -> nn.Module:
        module = nn.Module()
        if self.config.slow_base:
            shape = self.config.num_heads, *self.shapes()[0]
            module.register_parameter("base", nn.Parameter(1 + torch.rand(shape)))
        return module

    def _outer(self, fast: nn.Module, program: Tensor) -> tuple[Write, Tensor, Tensor | float]:
        """What is written to M_1, its query, and what its slow weights answer.

        M_1 = base + M by the delta rule is M by the delta rule under the values v - k base.
        """
        write, query = self._parse(program, self.widths())
        if not self.config.slow_base:
            return write, query, 0.0

        def answer(key):
            return (key[..., None, :] @ fast.base)[..., 0, :]

        return write._replace(value=write.value - answer(write.key)), query, answer(query)

    def _inner_widths(self) -> list[int]:
        return [*3 * [self.config.head_size], 1]

    def _parse(self, program: Tensor, widths: list[int]) -> tuple[Write, Tensor]:
        """What a program writes, and the query."""
        query, key, value, b = program.split(widths, -1)
        return Write(self._phi(key), value, b[..., 0].sigmoid()), self._phi(query)
