"""Fast weight matrices written by outer products: the delta rule (Schlag, Irie & Schmidhuber 2021) in three forms.

`step` is the rule for one time step. `sequence` is the same over time: compiled on the CPU, and elsewhere without
forming the matrix at every step, as the writes within a chunk solve a triangular system of inner products of keys.
`recurrent` is for reads whose query is known only when the read before is done, compiled on the CPU too. A memory is
[..., K, V], key index first; reading it with q is the row q M.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from engram.policies import fwp_kernel, fwp_recurrent_kernel, rows
from engram.policies.core import may_be_any

CHUNK = 32
"""steps between which `sequence` forms the memory"""

TABLE = 16
"""the same of `recurrent`, where a step reads all associations of its chunk"""


class Write(NamedTuple):
    """M <- M + rate k (v - k M)^T, and without a rate M <- M + k v^T: key [..., K], value [..., V], rate [...]."""

    key: Tensor
    value: Tensor
    rate: Tensor | None


def step(memory: Tensor, write: Write, query: Tensor) -> tuple[Tensor, Tensor]:
    """Write, then read.

    Args:    memory [..., K, V], which without gradients may be overwritten; write and query [..., K] with its leading
             shape.
    Returns: what was read [..., V], the new memory.
    """
    if fwp_kernel.supports(memory, write, query):
        return fwp_kernel.step(memory, write, query), memory
    change = write.value
    if write.rate is not None:
        change = write.rate[..., None] * (change - read(memory, write.key))
    memory = memory + write.key[..., :, None] * change[..., None, :]
    return read(memory, query), memory


def read(memory: Tensor, query: Tensor) -> Tensor:
    """[..., K, V] and [..., K] -> [..., V]."""
    return (query[..., None, :] @ memory)[..., 0, :]


def sequence(memory: Tensor, write: Write, query: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor]:
    """`step` over a sequence, the memory being zero at episode starts.

    Args:    memory [B, ..., K, V] before the first step; write and query with leading [T, B, ...]; starts bool [T, B].
    Returns: what was read [T, B, ..., V], the last memory.
    """
    if rows.compiles(memory, *write, query):
        return fwp_kernel.Sequence.apply(memory, *write, query, start_mask(starts, query))
    reads = []
    for chunk, asked in zip(_chunks(write, starts, CHUNK), query.split(CHUNK), strict=True):
        chunk.begin(memory)
        asked = asked.movedim(0, -2)
        scores = (asked @ chunk.key.mT).masked_fill(chunk.apart, 0)
        found = scores @ chunk.written + (asked @ chunk.memory).masked_fill(chunk.gone, 0)
        reads.append(chunk.mark(found).movedim(-2, 0))
        memory = chunk.end()
    return torch.cat(reads), memory


class Cell(NamedTuple):
    """What a read whose query depends on the read before does with it."""

    name: str
    """the same in `fwp_recurrent_kernel.CELLS`"""
    query: Callable[[Tensor], Tensor]
    """last output [B, A, d] -> query [B, A, d]"""
    advance: Callable[[Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
    """what others read and what was read, each [B, A, G, d], and the carry -> the new carry, the output first"""


def recurrent(
    memory: Tensor,
    write: Write,
    found: Tensor,
    carry: tuple[Tensor, ...],
    starts: Tensor | None,
    cell: Cell,
) -> tuple[tuple[Tensor, ...], Tensor, tuple[Tensor, ...]]:
    """Reads whose queries depend on what was read before; the writes do not.

    Where it is not compiled, the memory within a chunk is a table of associations: its rows at the beginning under unit
    keys, then the writes.

    Args:    memory [B, A, G, d, d], G matrices that share their queries; write with leading [T, B, A, G];
             found [T, B, A, G, d]: what others read; carry: [B, A, d] each, zero at episode starts; starts bool [T, B].
    Returns: the carries [T, B, A, d], the last memory, the last carry.
    """
    if rows.compiles(memory, *write, found, *carry):
        kernel = fwp_recurrent_kernel.Recurrent.apply
        carries, memory = kernel(memory, *write, found, torch.stack(carry, 2), start_mask(starts, found), cell.name)
        return carries.unbind(3), memory, carries[-1].unbind(2)
    carries, found = [], found.unbind()  # once: the gradient of an index fills a whole sequence
    for chunk in _chunks(write, starts, TABLE):
        chunk.begin(memory)
        d = memory.shape[-2]
        units = torch.eye(d, dtype=memory.dtype, device=memory.device).expand(*memory.shape[:-2], d, d)
        keys = torch.cat([units, chunk.key], -2).flatten(2, 3)  # of all G at once, as they share their query
        table = torch.cat([chunk.memory, chunk.written], -2)
        hidden = torch.cat([chunk.gone.expand(*chunk.gone.shape[:-1], d), chunk.apart], -1)
        resets = may_be_any(chunk.starts)
        for i, now in enumerate(chunk.starts):
            if resets:
                carry = tuple(leaf.masked_fill(now[:, None, None], 0) for leaf in carry)
            scores = (cell.query(carry[0])[..., None, :] @ keys.mT).view(*table.shape[:-1])
            scores = scores.masked_fill(hidden[..., i, :], 0)
            recalled = chunk.mark(scores[..., None, :] @ table, slice(i, i + 1))[..., 0, :]
            carry = cell.advance(found[len(carries)], recalled, carry)
            carries.append(carry)
        memory = chunk.end()
    return tuple(torch.stack(leaves) for leaves in zip(*carries, strict=True)), memory, carry


def start_mask(starts: Tensor | None, like: Tensor) -> Tensor:
    """Episode starts bool [T, B] of a sequence [T, B, ...], where None says that there are none."""
    return like.new_zeros(like.shape[:2], dtype=torch.bool) if starts is None else starts


class _Chunk:
    """The writes of some steps, time on the axis before the last: key [B, ..., C, K], written [B, ..., C, V].

    M_t = M_0 + sum_{s <= t} k_s u_s^T. Each u_s = rate_s (v_s - k_s M_{s-1}) is linear in those before it, so that all
    of them solve (I + L) U = rate (V - K M_0), where L is the strictly lower part of rate K K^T.
    """

    def __init__(self, starts: Tensor, key: Tensor, value: Tensor, rate: Tensor | None):
        self.starts = starts
        self.key, self.value = key.movedim(0, -2), value.movedim(0, -2)
        self.rate = None if rate is None else rate.movedim(0, -1)[..., None]
        episode = starts.T.cumsum(1)  # [B, C], 0 as long as the memory before the chunk lives
        episode = episode.view(len(episode), *[1] * (self.key.dim() - 3), -1)
        self.gone = (episode > 0)[..., None]
        self.apart = ~(episode[..., :, None] == episode[..., None, :]).tril()  # unless s <= t in one episode

    def begin(self, memory: Tensor) -> None:
        """Finds the writes that follow `memory`."""
        self.memory = memory
        self._quarantine()
        self.written = self.value
        if self.rate is not None:
            old = (self.key @ self.memory).masked_fill(self.gone, 0)
            gram = ((self.rate * self.key) @ self.key.mT).masked_fill(self.apart, 0)
            errors = self.rate * (self.value - old)
            exact = torch.promote_types(gram.dtype, torch.float32)  # there is no solver in half precision
            written = torch.linalg.solve_triangular(gram.to(exact), errors.to(exact), upper=False, unitriangular=True)
            self.written = written.to(gram.dtype)

    def end(self) -> Tensor:
        """The memory after the last step."""
        kept = self.key.masked_fill(self.apart[..., -1, :, None], 0).mT @ self.written
        kept = kept + self.memory.masked_fill(self.gone[..., -1:, :], 0)
        return self.mark(kept, slice(-1, None))

    def mark(self, found: Tensor, steps: slice = slice(None)) -> Tensor:
        """`found` [B, ..., C or 1, V] of these steps, not a number where the memory is not."""
        return found if self.sick is None else found.masked_fill(self.sick[..., steps, :], torch.nan)

    def _quarantine(self) -> None:
        """Takes out what is not finite: times the zero of another episode, it would get into that episode."""
        total = self.key.detach().sum(-1) + self.value.detach().sum(-1)
        if self.rate is not None:
            total = total + self.rate.detach()[..., 0]
        bad, lost = ~total.isfinite(), ~self.memory.detach().sum((-2, -1)).isfinite()
        self.sick = None
        if may_be_any(bad) or may_be_any(lost):
            reached = (bad[..., None, :] & ~self.apart).any(-1) | (lost[..., None] & ~self.gone[..., 0])
            self.sick = reached[..., None]
            self.key, self.value = (x.masked_fill(bad[..., None], 0) for x in (self.key, self.value))
            if self.rate is not None:
                self.rate = self.rate.masked_fill(bad[..., None], 0)
            self.memory = self.memory.masked_fill(lost[..., None, None], 0)


def _chunks(write: Write, starts: Tensor | None, length: int) -> list[_Chunk]:
    key, value, rate = write
    # split, as the gradient of a slice would fill a whole sequence for each chunk
    parts = [x.split(length) for x in (start_mask(starts, key), key, value)]
    parts.append(len(parts[0]) * [None] if rate is None else rate.split(length))
    return [_Chunk(*part) for part in zip(*parts, strict=True)]
