"""Fast weight programmers that are recurrent in each head: what was read decides what is asked next."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from engram.policies import delta_rule, rdn_kernel, rows
from engram.policies.delta_rule import Cell, Write, start_mask
from engram.policies.fwp_stack import Access, FastWeightProgrammer
from engram.policies.key_maps import Phi


class DeltaRNN(FastWeightProgrammer):
    """Delta RNN (Irie et al. 2021, Eq. 12): a Delta Net M and a recurrent fast matrix R asked for the last output.

    Per head, both written by the delta rule: o_t = M^T phi(q) + R^T softmax(o_{t-1}); P = 5 d + 2, rows q, k, v, k',
    v', b, b'. Keys of R are softmax(k'). The state holds n A (2 d^2 + d) numbers.
    """

    @dataclass(frozen=True)
    class Config(FastWeightProgrammer.Config):
        phi: Phi = "softmax"
        """map of M's keys and queries; the authors' agents use softmax, their other programs elu1-sum"""

        def build(self, input_size: int) -> "DeltaRNN":
            return DeltaRNN(input_size, self)

    class State(NamedTuple):
        memory: Tensor  # M [B, n, A, d, d]
        recurrent: Tensor  # R [B, n, A, d, d]
        output: Tensor  # o [B, n, A, d]

    def widths(self) -> list[int]:
        return [*5 * [self.config.head_size], 1, 1]

    def shapes(self) -> list[tuple[int, ...]]:
        d = self.config.head_size
        return [(d, d), (d, d), (d,)]

    def fast_step(self, fast: nn.Module, program: Tensor, state: State) -> tuple[Tensor, State, list[Access]]:
        write, query, recurrent_write = self._parse(program)
        found, memory = delta_rule.step(state.memory, write, query)
        last = state.output.softmax(-1)
        recalled, recurrent = delta_rule.step(state.recurrent, recurrent_write, last)
        output = found + recalled
        accesses = [Access(write, query, memory), Access(recurrent_write, last, recurrent)]
        return output, self.State(memory, recurrent, output), accesses

    def fast_sequence(
        self, fast: nn.Module, program: Tensor, state: State, starts: Tensor | None
    ) -> tuple[Tensor, State]:
        write, query, recurrent_write = self._parse(program)
        found, memory = delta_rule.sequence(state.memory, write, query, starts)
        found, *recurrent_write = (x[:, :, :, None] for x in (found, *recurrent_write))
        (outputs,), recurrent, (last,) = delta_rule.recurrent(
            state.recurrent[:, :, None],
            Write(*recurrent_write),
            found,
            (state.output,),
            starts,
            Cell("rnn", lambda output: output.softmax(-1), lambda found, recalled, _: ((found + recalled)[:, :, 0],)),
        )
        return outputs, self.State(memory, recurrent[:, :, 0], last)

    def _parse(self, program: Tensor) -> tuple[Write, Tensor, Write]:
        query, key, value, key2, value2, b, b2 = program.split(self.widths(), -1)
        write = Write(self._phi(key), value, b[..., 0].sigmoid())
        return write, self._phi(query), Write(key2.softmax(-1), value2, b2[..., 0].sigmoid())


class DeltaLSTM(FastWeightProgrammer):
    """Delta LSTM (Irie et al. 2021, Sec. 3.1): the gates and the update of an LSTM are recurrent fast nets.

    Per head and for each of g = i, u, o, with matrices written by the delta rule under keys phi(k) and softmax(k'):
    a_g = M_g^T phi(q) + R_g^T softmax(h_{t-1}). With i = sigmoid(a_i), c_t = i a_u + (1 - i) c_{t-1} and the head's
    output is h_t = sigmoid(a_o) c_t. P = 15 d + 6, rows (q, k, v, k', v') for i, u and o, then (b, b') for each.
    The state holds n A (6 d^2 + 2 d) numbers.
    """

    @dataclass(frozen=True)
    class Config(FastWeightProgrammer.Config):
        version: Literal["v1", "v2", "v3", "v4"] = "v4"
        """v4 is the one of the paper's tables; v2: sigmoid(a_u) in the place of a_u; v3: v2, with the answer of M_u
        added to h_t; v1: v2, but h_t = softmax(sigmoid(a_o) c_t), and the recurrent query is h_{t-1} itself"""

        def build(self, input_size: int) -> "DeltaLSTM":
            return DeltaLSTM(input_size, self)

    class State(NamedTuple):
        memory: Tensor  # M_i, M_u, M_o [B, n, A, 3, d, d]
        recurrent: Tensor  # R_i, R_u, R_o [B, n, A, 3, d, d]
        h: Tensor  # [B, n, A, d]
        c: Tensor  # [B, n, A, d]

    def widths(self) -> list[int]:
        return [15 * self.config.head_size, 6]

    def shapes(self) -> list[tuple[int, ...]]:
        d = self.config.head_size
        return [(3, d, d), (3, d, d), (d,), (d,)]

    def fast_step(self, fast: nn.Module, program: Tensor, state: State) -> tuple[Tensor, State, list[Access]]:
        write, query, recurrent_write = self._parse(program)
        found, memory = delta_rule.step(state.memory, write, query)
        last = self._recurrent_query(state.h)[..., None, :].expand_as(query)
        recalled, recurrent = delta_rule.step(state.recurrent, recurrent_write, last)
        h, c = self._cell(found, recalled, state.c)
        accesses = [
            Access(Write(*(x[:, :, g] for x in write)), asked[:, :, g], matrices[:, :, g])
            for write, asked, matrices in ((write, query, memory), (recurrent_write, last, recurrent))
            for g in range(3)
        ]
        return h, self.State(memory, recurrent, h, c), accesses

    def fast_sequence(
        self, fast: nn.Module, program: Tensor, state: State, starts: Tensor | None
    ) -> tuple[Tensor, State]:
        write, query, recurrent_write = self._parse(program)
        found, memory = delta_rule.sequence(state.memory, write, query, starts)
        (outputs, _), recurrent, last = delta_rule.recurrent(
            state.recurrent,
            recurrent_write,
            found,
            (state.h, state.c),
            starts,
            Cell(
                self.config.version,
                self._recurrent_query,
                lambda found, recalled, carry: self._cell(found, recalled, carry[1]),
            ),
        )
        return outputs, self.State(memory, recurrent, *last)

    def _parse(self, program: Tensor) -> tuple[Write, Tensor, Write]:
        vectors, b = program.split(self.widths(), -1)
        query, key, value, key2, value2 = vectors.unflatten(-1, (3, 5, self.config.head_size)).unbind(-2)
        rate, rate2 = b.unflatten(-1, (3, 2)).sigmoid().unbind(-1)
        return Write(self._phi(key), value, rate), self._phi(query), Write(key2.softmax(-1), value2, rate2)

    def _recurrent_query(self, h: Tensor) -> Tensor:
        return h if self.config.version == "v1" else h.softmax(-1)

    def _cell(self, found: Tensor, recalled: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """What M and R answered [B, A, 3, d] and the cell [B, A, d] -> h and c."""
        i, u, o = (found + recalled).unbind(-2)
        i, o = i.sigmoid(), o.sigmoid()
        if self.config.version != "v4":
            u = u.sigmoid()
        c = c + i * (u - c)
        h = o * c
        if self.config.version == "v1":
            h = h.softmax(-1)
        if self.config.version == "v3":
            h = h + found[..., 1, :]
        return h, c


class RDN(FastWeightProgrammer):
    """Recurrent Delta Net (Irie et al. 2021, Eqs. 15 to 18): keys, values, queries and strengths see the last output.

    Per head, s = tanh(o_{t-1}): q = phi(q_x + s R_q), k = phi(k_x + s R_k), v = v_x + s R_v, beta = sigmoid(b_x + s
    R_b), then the step of a Delta Net; P = 3 d + 1, rows q, k, v, b. Each layer's fast nets have the parameters R_q,
    R_k, R_v [A, d, d] and R_b [A, d], drawn from N(0, 1 / d). The state holds n A (d^2 + d) numbers.
    """

    @dataclass(frozen=True)
    class Config(FastWeightProgrammer.Config):
        phi: Phi = "softmax"
        """map of keys and queries"""

        def build(self, input_size: int) -> "RDN":
            return RDN(input_size, self)

    class State(NamedTuple):
        memory: Tensor  # M [B, n, A, d, d]
        output: Tensor  # o [B, n, A, d]

    class Recurrence(nn.Module):
        """The slow recurrent weights of one layer."""

        def __init__(self, num_heads: int, head_size: int):
            super().__init__()

            def normal(*shape):
                return nn.Parameter(torch.randn(num_heads, *shape) / head_size**0.5)

            self.query, self.key, self.value = (normal(head_size, head_size) for _ in range(3))
            self.beta = normal(head_size)

        def matrix(self) -> Tensor:
            """All of them side by side, [A, d, P]."""
            return torch.cat([self.query, self.key, self.value, self.beta[..., None]], -1)

    def widths(self) -> list[int]:
        return [*3 * [self.config.head_size], 1]

    def shapes(self) -> list[tuple[int, ...]]:
        d = self.config.head_size
        return [(d, d), (d,)]

    def fast_parameters(self) -> nn.Module:
        return self.Recurrence(self.config.num_heads, self.config.head_size)

    def fast_step(self, fast: nn.Module, program: Tensor, state: State) -> tuple[Tensor, State, list[Access]]:
        recalled = state.output.tanh().transpose(0, 1) @ fast.matrix()
        query, key, value, b = (program + recalled.transpose(0, 1)).split(self.widths(), -1)
        write, query = Write(self._phi(key), value, b[..., 0].sigmoid()), self._phi(query)
        output, memory = delta_rule.step(state.memory, write, query)
        return output, self.State(memory, output), [Access(write, query, memory)]

    def fast_sequence(
        self, fast: nn.Module, program: Tensor, state: State, starts: Tensor | None
    ) -> tuple[Tensor, State]:
        matrix = fast.matrix()
        if not rows.compiles(state.memory, program, matrix, state.output):
            return self.scan(fast, program, state, starts)
        outputs, memory = rdn_kernel.Sequence.apply(
            state.memory, program, matrix, state.output, start_mask(starts, program), self.config.phi
        )
        return outputs, self.State(memory, outputs[-1])
