"""SAM-based two-memory model (Le, Tran & Venkatesh, ICML 2020).

An item memory collects outer products of the inputs with themselves. Self-attentive associative memory (`sam.py`) turns
it into relations between items, which a relational memory collects, feeds back into the item memory, and which alone
make the output.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engram.policies.core import Core, CoreConfig, CoreOutput, may_be_any
from engram.policies.sam import bind, project, sam
from engram.policies.stm_memory import Relations

CHUNK = 16
"""steps whose associations `forward` keeps as factors before it adds them to the relational memory"""


class STM(Core):
    """Two-memory model; width d = memory_size, n = slots, output size Y = output_size.

    Parameters, in order: f1, f2 (D -> d), f3 (D -> n), gate_input, gate_memory (d -> 2d, rows input gate, forget gate),
    gate_bias (two numbers), attend (d -> 3n, rows q, k, v), attend_norm, transfer (G1, n d -> d), relate (G2, d * d
    -> r), combine (G3, n r -> o), output_norm, mlp (o -> p -> p -> Y), alpha (those not fixed), initial (item and
    relational memory). What a configuration has no use for it does not have.
    """

    @dataclass(frozen=True)
    class Config(CoreConfig):
        memory_size: int = 96
        """width d of both memories; the state holds (1 + n) d * d numbers"""
        slots: int = 8
        """queries n, and as many key-value pairs: matrices of the relational memory"""
        relation_size: int = 96
        """numbers r read off each matrix of the relational memory"""
        read_size: int = 64
        """numbers o that all matrices together give to the output network"""
        mlp_size: int = 128
        """hidden units p of the two layers of the output network"""
        output_size: int = 256
        """width Y of the output"""
        carried: bool = True
        """keep the relational memory over time; otherwise it is made from the items alone at each step"""
        gates: bool = True
        """input and forget gates on the item memory; otherwise items are added up"""
        write: Literal["f1f1", "f1f2"] = "f1f1"
        """items are tanh(f1 f1^T), or f1 f2^T as in the paper (Eq. 9); without gates the first has no tanh"""
        input_hidden_size: int | None = None
        """width of two further affine maps within each of f1, f2, f3; none for a single map each"""
        sam_norm: Literal["block", "row"] = "block"
        """layer norm of queries, keys and values over the whole block [d, 3n] or over each row [3n]"""
        output_norm: bool = False
        """layer norm before the output network"""
        sam_steps: int = 1
        """how often a step attends, transfers and writes relations, with the same parameters"""
        transfer_from: Literal["sam", "memory"] = "sam"
        """the item memory receives the new associations, or the whole relational memory (Eq. 13)"""
        alpha1: float | None = None
        """scale in M^r = alpha1 M^r + SAM; none to learn it from 0"""
        alpha1_on: Literal["memory", "sam"] = "memory"
        """what alpha1 scales: the old relational memory, or the new associations (Eq. 12)"""
        alpha1_max: float | None = None
        """bound of a learned alpha1, which becomes alpha1_max * tanh(parameter); below 1 the memory stays bounded"""
        alpha2: float | None = None
        """scale of what the relational memory adds to the items before SAM; none to learn it from 0"""
        alpha3: float | None = None
        """scale of the transfer to the item memory; none to learn it from 0"""
        learn_initial: bool = True
        """learn both memories of an episode's start; otherwise they are zero"""

        def __post_init__(self):
            super().__post_init__()
            for field in ("alpha1", "alpha1_max", "alpha2"):
                self.require(self.carried or getattr(self, field) is None, field, "none where carried=False")
            free = self.alpha1_max is None
            self.require(free or self.alpha1_max > 0, "alpha1_max", "none or above 0")
            self.require(free or self.alpha1 is None, "alpha1_max", f"none where alpha1={self.alpha1} is fixed")

        def build(self, input_size: int) -> "STM":
            return STM(input_size, self)

    class State(NamedTuple):
        item: Tensor  # M^i, [B, d, d]
        relational: Tensor  # M^r, [B, n, d, d]: slot, key index, value index

    class ItemState(NamedTuple):
        """of a core whose relational memory is not carried"""

        item: Tensor  # [B, d, d]

    diagnostics = (
        "memory_norm", "attention", "alpha3",
        "gate_input", "gate_forget", "slot_weights", "relational_read", "alpha1", "alpha2",
    )  # fmt: skip
    """Of M^i and of each matrix of M^r [T, B, 1 + n]; tanh(q_s * k_j) averaged over d, [T, B, n, n]; [T, B]. With gates
    their means, [T, B]. Of a carried relational memory the softmax over slots [T, B, n] and v^r [T, B, d] of its read,
    and [T, B] twice."""

    def __init__(self, input_size: int, config: Config):
        super().__init__()
        self.config = config
        self.input_size, self.output_size = input_size, config.output_size
        d, n = config.memory_size, config.slots

        def affine(out: int) -> nn.Module:
            hidden = config.input_hidden_size
            widths = [input_size, out] if hidden is None else [input_size, hidden, hidden, out]
            return nn.Sequential(*(nn.Linear(*widths[i : i + 2]) for i in range(len(widths) - 1)))

        self.f1 = affine(d)
        self.f2 = affine(d) if config.carried or config.write == "f1f2" else None
        self.f3 = affine(n) if config.carried else None
        if config.gates:
            self.gate_input = nn.Linear(d, 2 * d)
            self.gate_memory = nn.Linear(d, 2 * d)
            self.gate_bias = nn.ParameterDict({"forget": torch.tensor(1.0), "input": torch.tensor(0.0)})
        self.attend = nn.Linear(d, 3 * n)
        self.attend_norm = nn.LayerNorm((d, 3 * n) if config.sam_norm == "block" else 3 * n)
        self.transfer = nn.Linear(n * d, d)
        self.relate = nn.Linear(d * d, config.relation_size)
        self.combine = nn.Linear(n * config.relation_size, config.read_size)
        self.output_norm = nn.LayerNorm(config.read_size) if config.output_norm else nn.Identity()
        sizes = config.read_size, config.mlp_size, config.output_size
        self.mlp = nn.Sequential(
            nn.Linear(sizes[0], sizes[1]), nn.ReLU(), nn.Linear(sizes[1], sizes[1]), nn.ReLU(), nn.Linear(*sizes[1:])
        )
        scales = ("alpha1", "alpha2", "alpha3") if config.carried else ("alpha3",)
        self.alpha = nn.ParameterDict({name: torch.tensor(0.0) for name in scales if getattr(config, name) is None})
        if config.learn_initial:
            initial = {"item": torch.empty(d, d).uniform_(-1, 1) / math.sqrt(2 * d)}
            if config.carried:
                initial["relational"] = torch.empty(n, d, d).uniform_(-1, 1) / math.sqrt(2 * d + n)
            self.initial = nn.ParameterDict(initial)
        absent = () if config.gates else ("gate_input", "gate_forget")
        absent += () if config.carried else ("slot_weights", "relational_read", "alpha1", "alpha2")
        self.diagnostics = tuple(name for name in type(self).diagnostics if name not in absent)

    def initial_state(self, batch_size: int) -> State | ItemState:
        item, relational = self._initial()
        item = item.repeat(batch_size, 1, 1)
        return self.ItemState(item) if relational is None else self.State(item, relational.repeat(batch_size, 1, 1, 1))

    def step(
        self, x: Tensor, state: State | ItemState, report: tuple[str, ...] = (), donate: bool = False
    ) -> CoreOutput:
        config, (item, *rest) = self.config, state
        u = self.f1(x)
        w = None if self.f2 is None else self.f2(x)
        diagnosed, recalled = {}, 0.0
        if config.carried:
            (relational,) = rest
            decay, gain = self._scales()
            slot_weights = self.f3(x).softmax(1)
            read = torch.einsum("bs,be,bsef->bf", slot_weights, w, relational)
            recalled = self._alpha("alpha2") * read[:, :, None] * w[:, None, :]
            diagnosed = {"slot_weights": slot_weights, "relational_read": read}
        new = self._item(u, w)
        if config.gates:
            write, keep = self._gates(item, self._gate_input(u))
            item = write * new + keep * item  # Eq. 10
        else:
            item = item + new
        for _ in range(config.sam_steps):
            q, k, v = self._attend(item + recalled)
            associations = sam(q, k, v)
            relational = decay * relational + gain * associations if config.carried else associations
            source = associations if config.transfer_from == "sam" else relational
            transferred = self.transfer(source.flatten(1, 2).transpose(1, 2))  # [B, f, o']
            item = item + self._alpha("alpha3") * transferred
        ys = self._output(self.combine(self.relate(relational.flatten(2)).flatten(1)))
        state = self.State(item, relational) if config.carried else self.ItemState(item)
        if report:
            memories = torch.cat([item[:, None], relational], dim=1)
            diagnosed |= {
                "memory_norm": torch.linalg.matrix_norm(memories),
                "attention": bind(q, k).mean(-1).transpose(1, 2),
            }
            if config.gates:
                diagnosed |= {"gate_input": write.mean((1, 2)), "gate_forget": keep.mean((1, 2))}
            scales = {name for name in report if name.startswith("alpha")}
            diagnosed |= {name: self._alpha(name).expand(len(ys)) for name in scales}
        return CoreOutput(ys, state, {name: diagnosed[name].detach() for name in report})

    def sequence(
        self, xs: Tensor, state: State | ItemState, episode_starts: Tensor | None, report: tuple[str, ...], donate: bool
    ) -> CoreOutput:
        """The items one step after the other; what is linear in an association, from its factors.

        A step then never forms a relation: the transfer costs a d-th, the relational memory is brought up to date
        between chunks, and the output network runs on whole sequences. Diagnostics, several attentions in one step and
        transfers of the whole memory take the literal form.
        """
        config = self.config
        if report or config.sam_steps > 1 or config.transfer_from == "memory":
            return self.loop(xs, state, episode_starts, report, donate)
        starts = episode_starts
        if starts is None:
            starts = torch.zeros(xs.shape[:2], dtype=torch.bool, device=xs.device)
        u = self.f1(xs)
        # u also stands in for what this configuration does not have
        w = u if self.f2 is None else self.f2(xs)
        gate = self._gate_input(u) if config.gates else u
        slots = self.f3(xs).softmax(2) if config.carried else u
        reads, after = [], state
        for begin in range(0, len(xs), CHUNK):
            cut = slice(begin, begin + CHUNK)
            after, bound, v = self._chunk(after, starts[cut], u[cut], w[cut], gate[cut], slots[cut])
            if config.carried and len(xs) == 1:  # the memory is there, and read at once
                reads.append(self._read_off(after.relational)[None])
                continue
            relations = project(bound.flatten(0, 1), v.flatten(0, 1), self.relate.weight)
            reads.append(F.linear(relations.flatten(1), self.combine.weight).unflatten(0, bound.shape[:2]))
        read = torch.cat(reads)
        if config.carried and len(xs) > 1:
            read = self._accumulate(read, state.relational, starts)
        return CoreOutput(self._output(read + self.combine(self.relate.bias.repeat(config.slots))), after, {})

    def _chunk(self, state, starts, u, w, gate, slots) -> tuple[State | ItemState, Tensor, Tensor]:
        """The state after a few steps, and the factors of their associations, [C, B, n, n, d] and [C, B, n, d]."""
        config, item, alpha3 = self.config, state.item, self._alpha("alpha3")
        initial, initial_relational = self._initial()
        if config.carried:
            alpha2 = self._alpha("alpha2")
            addresses = (slots[..., :, None] * w[..., None, :]).flatten(2)
            relations = Relations(state.relational, initial_relational, starts, addresses, *self._scales())
        bounds, values = [], []
        # unbound, as the gradient of each index would be as large as the chunk
        for start, u_t, w_t, gate_t in zip(*(x.unbind() for x in (starts, u, w, gate)), strict=True):
            if may_be_any(start):
                item = torch.where(start[:, None, None], initial, item)
            new = self._item(u_t, w_t)
            if config.gates:
                write, keep = self._gates(item, gate_t)
                item = torch.addcmul(write * new, keep, item)
            else:
                item = item + new
            attended = item
            if config.carried:
                attended = torch.baddbmm(item, (alpha2 * relations.read())[:, :, None], w_t[:, None, :])
            q, k, v = self._attend(attended)
            bound = bind(q, k)
            if config.carried:
                relations.add(bound, v)
            transferred = v.transpose(1, 2) @ F.linear(bound.flatten(2), self.transfer.weight)
            item = item + alpha3 * (transferred + self.transfer.bias)
            bounds.append(bound)
            values.append(v)
        bound, v = torch.stack(bounds), torch.stack(values)
        after = self.State(item, relations.fold(bound, v)) if config.carried else self.ItemState(item)
        return after, bound, v

    def _accumulate(self, read: Tensor, relational: Tensor, starts: Tensor) -> Tensor:
        """Reads [T, B, o] of each step's associations -> of the relational memory, which is linear in them."""
        decay, gain = self._scales()
        initial, total, totals = self._read_off(self._initial()[1][None]), self._read_off(relational), []
        for new, start in zip(gain * read, starts, strict=True):
            if may_be_any(start):
                total = torch.where(start[:, None], initial, total)
            total = decay * total + new
            totals.append(total)
        return torch.stack(totals)

    def _read_off(self, relational: Tensor) -> Tensor:
        """[B, n, d, d] -> [B, o], without the biases."""
        return F.linear(F.linear(relational.flatten(2), self.relate.weight).flatten(1), self.combine.weight)

    def _initial(self) -> tuple[Tensor, Tensor | None]:
        """Both memories at an episode's start, [d, d] and [n, d, d]; none of what is not carried."""
        config, d = self.config, self.config.memory_size
        if config.learn_initial:
            return self.initial["item"], self.initial["relational"] if config.carried else None
        zeros = self.attend.weight.new_zeros(config.slots, d, d)
        return zeros[0], zeros if config.carried else None

    def _alpha(self, name: str) -> Tensor:
        """One of the scales, fixed or learned."""
        fixed = getattr(self.config, name)
        if fixed is not None:
            return self.attend.weight.new_tensor(fixed)
        if name == "alpha1" and self.config.alpha1_max is not None:
            return self.config.alpha1_max * self.alpha[name].tanh()
        return self.alpha[name]

    def _scales(self) -> tuple[Tensor, Tensor]:
        """decay and gain of M^r = decay M^r + gain SAM."""
        alpha1 = self._alpha("alpha1")
        one = torch.ones_like(alpha1)
        return (alpha1, one) if self.config.alpha1_on == "memory" else (one, alpha1)

    def _item(self, u: Tensor, w: Tensor | None) -> Tensor:
        """What a step writes to the item memory, [B, d, d]."""
        item = u[:, :, None] * (u if self.config.write == "f1f1" else w)[:, None, :]
        return item.tanh() if self.config.write == "f1f1" and self.config.gates else item

    def _gate_input(self, u: Tensor) -> Tensor:
        """The part of both gates that the items have no part in, [..., 2 d]."""
        bias = torch.stack([self.gate_bias["input"], self.gate_bias["forget"]])
        return self.gate_input(u) + self.gate_memory.bias + bias.repeat_interleave(self.config.memory_size)

    def _gates(self, item: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        """Input and forget gate, each [B, d, d], from the items and what `_gate_input` gave."""
        return (F.linear(item.tanh(), self.gate_memory.weight) + gate[:, None]).sigmoid().chunk(2, dim=-1)

    def _attend(self, item: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [B, n, d] (Eqs. 5 to 7)."""
        columns = self.attend_norm(self.attend(item)).transpose(1, 2).contiguous()
        return columns.split(self.config.slots, dim=1)

    def _output(self, read: Tensor) -> Tensor:
        return self.mlp(self.output_norm(read))
