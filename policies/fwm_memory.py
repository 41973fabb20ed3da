"""The tensor memory of FWM in three forms of one function: literal step, fused step on the CPU, dual sequence.

Shapes: keys and values have width d, an address (a pair of keys) has width a: d * d for the outer product, 2 d for the
concatenation. A memory is [B, d, a], so that reading it is the paper's F vec(k1 k2^T).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from engram.policies import fwm_kernel
from engram.policies.core import may_be_any

CHUNK = 32
"""steps that `sequence` runs in dual form before it folds their writes into the memory"""

LAYER_NORM_EPS = 1e-5
"""not cosmetic: the first reads of an episode are far below its root, and stay small"""


class Entry(NamedTuple):
    """What a step writes: key1, key2, value [..., d], rate s * beta [...]."""

    key1: Tensor
    key2: Tensor
    value: Tensor
    rate: Tensor


class Query(NamedTuple):
    """What a step asks for: the first key n [..., d] of the chain, its partners e [..., N, d]."""

    n: Tensor
    e: Tensor


def address(key1: Tensor, key2: Tensor, key: str) -> Tensor:
    """[..., d] and [..., d] -> [..., a]; of the outer product, the first key is the slow index."""
    if key == "concat":
        return torch.cat([key1, key2], dim=-1)
    return (key1[..., :, None] * key2[..., None, :]).flatten(-2)


def step(
    memory: Tensor, entry: Entry, query: Query, key: str, donate: bool = False
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Write, then read (Eqs. 3 to 8).

    Args:    memory [B, d, a]; entry and query with leading [B]; key: how two keys address the memory;
             donate: the new memory may take the place of the old one.
    Returns: what was read [B, d], the new memory [B, d, a], diagnostics.
    """
    if fwm_kernel.supports(memory, entry, query, key):
        return fwm_kernel.step(memory if donate else memory.clone(), entry, query)
    written = address(entry.key1, entry.key2, key)
    old = (memory @ written[..., None])[..., 0]
    change = entry.rate[:, None] * (entry.value - old)
    memory = memory + change[..., None] * written[:, None, :]  # Eq. 3
    square = memory.square().sum((1, 2))
    memory = memory * square.clamp(min=1).rsqrt()[:, None, None]  # Eq. 4; no division by zero in its gradient

    n, asked = query.n, []
    for e in query.e.unbind(1):
        asked.append(n)
        n = (memory @ address(n, e, key)[..., None])[..., 0]
        n = F.layer_norm(n, n.shape[-1:], eps=LAYER_NORM_EPS)  # Eqs. 7 and 8
    diagnosed = _diagnose(torch.stack(asked, 1), query.e, entry.rate * written.square().sum(1), square)
    return n, memory, diagnosed


def sequence(
    memory: Tensor, entry: Entry, query: Query, starts: Tensor | None, key: str
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The same function over a sequence, the memory being empty at episode starts.

    Args:    memory [B, d, a] before the first step; entry and query with leading [T, B]; starts bool [T, B] or None.
    Returns: what was read [T, B, d], the last memory [B, d, a], diagnostics [T, B, ...].
    """
    if starts is None:
        starts = torch.zeros_like(entry.rate, dtype=torch.bool)
    chunks = []
    for t in range(0, len(starts), CHUNK):
        cut = slice(t, t + CHUNK)
        read, memory, diagnosed = _dual(
            memory, Entry(*(x[cut] for x in entry)), Query(*(x[cut] for x in query)), starts[cut], key
        )
        chunks.append((read, diagnosed))
    if len(chunks) == 1:
        return read, memory, diagnosed
    reads, reports = zip(*chunks)
    return torch.cat(reads), memory, {name: torch.cat([r[name] for r in reports]) for name in diagnosed}


def _dual(memory, entry, query, starts, key):
    """One chunk without forming the memory inside it.

    With m_t = max(1, |F'_t|) and P_t the product of m up to t since the episode's start, the memory is
    F_t = (F_0 + sum_{s <= t} U_s k_s^T) / P_t: reads and writes need only inner products of addresses.
    """
    key1, key2, value, rate = (x.transpose(0, 1) for x in entry)  # [B, T, ...] from here on
    episode = starts.T.cumsum(1)  # [B, T], 0 as long as the carried memory lives
    reaches_back = may_be_any(episode == 0)  # else every row starts an episode here, and F_0 is never read
    apart = ~(episode[:, :, None] == episode[:, None, :]).tril()  # unless s <= t in one episode

    def products(k1, k2):
        """<address(k1, k2)_t, written address_s>, [B, T, T], zero where s is not in the past of t."""
        scores = k1 @ key1.transpose(1, 2), k2 @ key2.transpose(1, 2)
        return (scores[0] * scores[1] if key == "tensor" else scores[0] + scores[1]).masked_fill(apart, 0)

    def carried_read(k1, k2):
        """F_0 address(k1, k2), [B, T, d], zero where F_0 is gone."""
        return (address(k1, k2, key) @ memory.transpose(1, 2)).masked_fill(episode[..., None] > 0, 0)

    gram = products(key1, key2)
    retained = carried_read(key1, key2) if reaches_back else torch.zeros_like(value)
    written, scale, square = _Writes.apply(
        gram, retained, value, rate, memory.square().sum((1, 2)) if reaches_back else None, starts.T
    )

    n, e, asked = query.n.transpose(0, 1), query.e.transpose(0, 1), []
    for partner in e.unbind(2):
        asked.append(n)
        read = products(n, partner) @ written
        if reaches_back:
            read = read + carried_read(n, partner)
        n = F.layer_norm(read / scale[..., None], value.shape[-1:], eps=LAYER_NORM_EPS)

    memory = _fold(memory if reaches_back else None, entry, written, scale, starts, key)
    strength = rate * gram.diagonal(dim1=1, dim2=2)
    diagnosed = _diagnose(torch.stack(asked, 2), e, strength, square)
    return n.transpose(0, 1), memory, {name: x.transpose(0, 1) for name, x in diagnosed.items()}


def _fold(memory, entry, written, scale, starts, key):
    """The memory after a chunk, (F_0 + sum_s U_s k_s^T) / P_T over the writes of each row's last episode."""
    episode = starts.cumsum(0)
    alive = episode == episode[-1]  # [T, B]
    first = int(alive.any(1).int().argmax()) if alive.device.type == "cpu" else 0  # earlier writes are gone in all rows
    addresses = address(entry.key1[first:], entry.key2[first:], key).masked_fill(~alive[first:, :, None], 0)
    new = written[:, first:].transpose(1, 2) @ addresses.transpose(0, 1)
    if memory is not None:
        new = new + memory.masked_fill(episode[-1, :, None, None] > 0, 0)
    return new / scale[:, -1, None, None]


class _Writes(torch.autograd.Function):
    """The recurrence of the writes, the only part of the dual form that is sequential, on vectors of width d.

    Per step, with X_t = P_{t-1} F_{t-1} k_t, u_t = v_t - X_t / P_{t-1} and c_t = s beta_t:
        U_t = P_{t-1} c_t u_t,    |F'_t|^2 = |F_{t-1}|^2 + 2 c_t <u_t, X_t / P_{t-1}> + c_t^2 |k_t|^2 |u_t|^2.
    The backward pass is written out, as autograd would keep every intermediate of every step.
    """

    @staticmethod
    def forward(ctx, gram, retained, value, rate, square0, starts):
        """gram [B, T, T] lower triangular, retained F_0 k_t and value [B, T, d], rate [B, T], square0 |F_0|^2 [B]
        or None, starts [B, T] -> U [B, T, d], P [B, T], |F'|^2 [B, T] (without gradient)."""
        B, T, _ = value.shape
        written, old = torch.empty_like(value), torch.empty_like(value)
        scales, squares, befores = (torch.empty_like(rate) for _ in range(3))
        scale = torch.ones_like(rate[:, 0])
        norm2 = torch.zeros_like(scale) if square0 is None else square0
        diagonal = gram.diagonal(dim1=1, dim2=2)
        for t in range(T):
            scale = scale.masked_fill(starts[:, t], 1)
            norm2 = norm2.masked_fill(starts[:, t], 0)
            befores[:, t] = scale
            x = retained[:, t]
            if t:
                x = torch.baddbmm(x[:, None], gram[:, t : t + 1, :t], written[:, :t])[:, 0]
            was = x / scale[:, None]
            u = value[:, t] - was
            c = rate[:, t]
            # a NaN lives on in the scale; here it would outlive its episode, as 0 * NaN in the products over steps
            written[:, t] = torch.nan_to_num((scale * c)[:, None] * u)
            old[:, t] = was
            square = norm2 + 2 * c * (u * was).sum(1) + c.square() * diagonal[:, t] * u.square().sum(1)
            m2 = square.clamp(min=1)
            scale = scale * m2.sqrt()
            norm2 = square / m2
            squares[:, t] = square
            scales[:, t] = scale
        ctx.save_for_backward(gram, value, rate, written, old, befores, squares, starts)
        ctx.has_memory = square0 is not None
        ctx.mark_non_differentiable(squares)
        return written, scales, squares

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_written, grad_scales, _):
        gram, value, rate, written, old, befores, squares, starts = ctx.saved_tensors
        T = value.shape[1]
        diagonal = gram.diagonal(dim1=1, dim2=2)
        grad_x, grad_value = torch.empty_like(value), torch.empty_like(value)
        grad_rate, grad_diagonal = torch.empty_like(rate), torch.empty_like(rate)
        grad_scale = torch.zeros_like(rate[:, 0])  # of P_t, from later steps
        grad_norm2 = torch.zeros_like(grad_scale)  # of |F_t|^2, from later steps
        for t in reversed(range(T)):
            was, c, scale, square = old[:, t], rate[:, t], befores[:, t], squares[:, t]
            u = value[:, t] - was
            gu = grad_written[:, t]
            if t + 1 < T:
                gu = torch.baddbmm(gu[:, None], gram[:, t + 1 :, t, None].transpose(1, 2), grad_x[:, t + 1 :])[:, 0]
            grad_scale = grad_scale + grad_scales[:, t]
            m = square.clamp(min=1).sqrt()
            grad_square = torch.where(square > 1, grad_scale * scale * (0.5 / m), grad_norm2)
            uu, u_gu = u.square().sum(1), (u * gu).sum(1)
            c2 = 2 * c * grad_square
            g_u = (scale * c)[:, None] * gu + c2[:, None] * was + (c * c2 * diagonal[:, t])[:, None] * u
            g_was = c2[:, None] * u - g_u
            grad_value[:, t] = g_u
            grad_x[:, t] = g_was / scale[:, None]
            grad_rate[:, t] = 2 * grad_square * ((u * was).sum(1) + c * diagonal[:, t] * uu) + scale * u_gu
            grad_diagonal[:, t] = c.square() * uu * grad_square
            grad_scale = grad_scale * m + c * u_gu - (g_was * was).sum(1) / scale
            grad_scale = grad_scale.masked_fill(starts[:, t], 0)
            grad_norm2 = grad_square.masked_fill(starts[:, t], 0)
        grad_gram = (grad_x @ written.transpose(1, 2)).tril(-1) + torch.diag_embed(grad_diagonal)
        return grad_gram, grad_x, grad_value, grad_rate, grad_norm2 if ctx.has_memory else None, None


def _diagnose(asked, e, strength, square):
    return {"read_n": asked, "read_e": e, "write_strength": strength, "memory_norm": square.sqrt()}
