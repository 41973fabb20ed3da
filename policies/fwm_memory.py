"""The tensor memory of FWM in three forms of one function: literal step, fused step on the CPU, dual sequence.

Shapes: keys and values have width d, an address (a pair of keys) has width a: d * d for the outer product, 2 d for the
concatenation. A memory is [B, d, a], so that reading it is the paper's F vec(k1 k2^T).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from engram.policies import fwm_kernel, rows
from engram.policies.core import may_be_any, once_differentiable
from engram.policies.fwm_kernel import LAYER_NORM_EPS

CHUNK = 32
"""steps that `sequence` runs in dual form before it folds their writes into the memory"""


class Entry(NamedTuple):
    """What a step writes: key1, key2, value [..., d], rate s * beta [...]."""

    key1: Tensor
    key2: Tensor
    value: Tensor
    rate: Tensor


class Query(NamedTuple):
    """What a step asks for: the first key n [..., C, d] of each chain, its partners e [..., C, N, d]."""

    n: Tensor
    e: Tensor


def address(key1: Tensor, key2: Tensor, key: str) -> Tensor:
    """[..., d] and [..., d] -> [..., a]; of the outer product, the first key is the slow index."""
    if key == "concat":
        return torch.cat([key1, key2], dim=-1)
    return (key1[..., :, None] * key2[..., None, :]).flatten(-2)


def normalise(reads: Tensor) -> Tensor:
    """The layer norm of what was read [..., d] (Eqs. 7 and 8)."""
    return F.layer_norm(reads, reads.shape[-1:], eps=LAYER_NORM_EPS)


def magnitude(reads: Tensor) -> Tensor:
    """Decimal logarithm of their root mean square [...], about -2.5 where nothing was found; `normalise` hides it."""
    return 0.5 * (reads.square().mean(-1) + LAYER_NORM_EPS).log10()


def step(
    memory: Tensor, entry: Entry, query: Query, key: str, donate: bool = False
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Write, then read (Eqs. 3 to 8).

    Args:    memory [B, d, a]; entry and query with leading [B]; key: how two keys address the memory;
             donate: the new memory may take the place of the old one.
    Returns: what each read of each chain found [B, C, N, d], before it is normalised; the new memory [B, d, a];
             diagnostics [B].
    """
    if key == "tensor" and rows.acts(memory, *entry, *query):
        memory = memory.contiguous() if donate else memory.clone(memory_format=torch.contiguous_format)
        return fwm_kernel.step(memory, entry, query)
    written = address(entry.key1, entry.key2, key)
    old = (memory @ written[..., None])[..., 0]
    change = entry.rate[:, None] * (entry.value - old)
    memory = memory + change[..., None] * written[:, None, :]  # Eq. 3
    square = memory.square().sum((1, 2))
    memory = memory * square.clamp(min=1).rsqrt()[:, None, None]  # Eq. 4; no division by zero in its gradient

    reads = []
    for e in query.e.unbind(2):
        n = normalise(reads[-1]) if reads else query.n
        reads.append(address(n, e, key) @ memory.transpose(1, 2))
    diagnosed = {"write_strength": entry.rate * written.square().sum(1), "memory_norm": square.sqrt()}
    return torch.stack(reads, 2), memory, diagnosed


def sequence(
    memory: Tensor, entry: Entry, query: Query, starts: Tensor | None, key: str
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The same function over a sequence, the memory being empty at episode starts.

    Args:    memory [B, d, a] before the first step; entry and query with leading [T, B]; starts bool [T, B] or None.
    Returns: what each read of each chain found [T, B, C, N, d], before it is normalised; the last memory [B, d, a];
             diagnostics [T, B].
    """
    if starts is None:
        starts = torch.zeros_like(entry.rate, dtype=torch.bool)
    chunks = []
    for t in range(0, len(starts), CHUNK):
        cut = slice(t, t + CHUNK)
        reads, memory, diagnosed = _dual(
            memory, Entry(*(x[cut] for x in entry)), Query(*(x[cut] for x in query)), starts[cut], key
        )
        chunks.append((reads, diagnosed))
    if len(chunks) == 1:
        return reads, memory, diagnosed
    parts, reports = zip(*chunks, strict=True)
    return torch.cat(parts), memory, {name: torch.cat([r[name] for r in reports]) for name in diagnosed}


def _dual(memory, entry, query, starts, key):
    """One chunk without forming the memory inside it.

    Bounding divides the memory by m_t = max(1, |F'_t|) at every step. With L_t the sum of log m over the episode, it is
    F_t = exp(-L_t) F_0 + sum_{s <= t} exp(L_{s-1} - L_t) U_s k_s^T, where U_s = s beta_s (v_s - F_{s-1} k_s): writing
    and reading need only inner products of addresses.
    """
    key1, key2, value, rate = (x.transpose(0, 1) for x in entry)  # [B, T, ...] from here on
    episode = starts.T.cumsum(1)  # [B, T], 0 as long as the carried memory lives
    gone = episode[..., None] > 0
    reaches_back = may_be_any(~gone)  # else every row starts an episode here, and F_0 is never read
    apart = ~(episode[:, :, None] == episode[:, None, :]).tril()  # unless s <= t in one episode

    def products(k1, k2):
        """<address(k1, k2)_r, written address_s>, [B, R, T]."""
        scores = k1 @ key1.transpose(1, 2), k2 @ key2.transpose(1, 2)
        return scores[0] * scores[1] if key == "tensor" else scores[0] + scores[1]

    def carried_read(k1, k2):
        """F_0 address(k1, k2), [B, R, d]."""
        return address(k1, k2, key) @ memory.transpose(1, 2)

    # masks select, as products would let the NaN of one episode into the next
    gram = products(key1, key2).masked_fill(apart, 0)
    retained = carried_read(key1, key2).masked_fill(gone, 0) if reaches_back else torch.zeros_like(value)
    norm2 = memory.square().sum((1, 2)) if reaches_back else torch.zeros_like(rate[:, 0])
    written, log_scale, square = _Writes.apply(gram, retained, value, rate, norm2, starts.T)

    log_before = F.pad(log_scale[:, :-1], (1, 0)).masked_fill(starts.T, 0)
    surviving = torch.exp((log_before[:, None, :] - log_scale[:, :, None]).masked_fill(apart, -torch.inf))  # [B, t, s]
    chains = query.n.shape[2], query.n.shape[0]
    reads = []  # [B, C T, d] each
    for partner in query.e.permute(3, 1, 2, 0, 4).flatten(2, 3):
        n = normalise(reads[-1]) if reads else query.n.permute(1, 2, 0, 3).flatten(1, 2)
        scores = products(n, partner).unflatten(1, chains) * surviving[:, None]
        read = scores.masked_fill(apart[:, None], 0).flatten(1, 2) @ written
        if reaches_back:
            carried = torch.exp(-log_scale)[:, None, :, None] * carried_read(n, partner).unflatten(1, chains)
            read = read + carried.masked_fill(gone[:, None], 0).flatten(1, 2)
        reads.append(read)

    first = int((~apart[:, -1]).any(0).int().argmax()) if apart.device.type == "cpu" else 0  # earlier writes are gone
    left = (surviving[:, -1, :, None] * written)[:, first:]
    addresses = address(key1[:, first:], key2[:, first:], key).masked_fill(apart[:, -1, first:, None], 0)
    new = left.transpose(1, 2) @ addresses
    if reaches_back:
        new = new + (torch.exp(-log_scale[:, -1])[:, None, None] * memory).masked_fill(gone[:, -1, None], 0)
    square = square.clamp(min=0)  # of an erased memory, rounding may leave it below
    diagnosed = {"write_strength": (rate * gram.diagonal(dim1=1, dim2=2)).T, "memory_norm": square.sqrt().T}
    return torch.stack(reads, 2).unflatten(1, chains).permute(2, 0, 1, 3, 4), new, diagnosed


class _Writes(torch.autograd.Function):
    """The recurrence of the writes, the only part of the dual form that is sequential, on vectors of width d.

    Per step, with x_t = F_{t-1} k_t, u_t = v_t - x_t and c_t = s beta_t:
        U_t = c_t u_t,    |F'_t|^2 = |F_{t-1}|^2 + 2 c_t <u_t, x_t> + c_t^2 |k_t|^2 |u_t|^2,
        L_t = L_{t-1} + log max(1, |F'_t|),    |F_t| = min(1, |F'_t|).
    The backward pass is written out, as autograd would keep every intermediate of every step. Both passes are compiled
    for the CPU (`fwm_kernel.py`), where a step is too small to be worth some twenty tensor operations.
    """

    @staticmethod
    def forward(ctx, gram, retained, value, rate, norm2, starts):
        """gram [B, T, T], zero across episodes and for s > t; retained F_0 k_t and value [B, T, d]; rate [B, T];
        norm2 |F_0|^2 [B]; starts [B, T] -> U [B, T, d], L [B, T], |F'|^2 [B, T] (without gradient)."""
        inputs = [x.contiguous() for x in (gram, retained, value, rate, norm2, starts)]
        gram, _, value, rate, _, starts = inputs
        written, old = torch.empty_like(value), torch.empty_like(value)
        logs, befores, squares = (torch.empty_like(rate) for _ in range(3))
        decay, faded = torch.zeros_like(gram), torch.zeros_like(gram)  # exp(L_{s-1} - L_{t-1}), times gram; s < t
        run = fwm_kernel.scan if rows.compiles(gram) else _scan
        run(*inputs, written, old, logs, befores, squares, decay, faded)
        ctx.save_for_backward(gram, value, rate, starts, written, old, befores, squares, decay, faded)
        ctx.mark_non_differentiable(squares)
        return written, logs, squares

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_written, grad_logs, _):
        gram, value, rate, starts, written, old, befores, squares, decay, faded = ctx.saved_tensors
        grad_value, grad_old = torch.empty_like(value), torch.empty_like(value)
        grad_rate, grad_diagonal, grad_norm2 = torch.empty_like(rate), torch.empty_like(rate), rate.new_zeros(len(rate))
        run = fwm_kernel.scan_backward if rows.compiles(gram) else _scan_backward
        inputs = gram, value, rate, starts, old, squares, faded, grad_written.contiguous(), grad_logs.contiguous()
        run(*inputs, grad_value, grad_old, grad_rate, grad_diagonal, grad_norm2)
        grad_gram = decay * (grad_old @ written.transpose(1, 2)) + torch.diag_embed(grad_diagonal)
        grad_retained = torch.exp(-befores)[..., None] * grad_old
        return grad_gram, grad_retained, grad_value, grad_rate, grad_norm2, None


def _scan(gram, retained, value, rate, norm2, starts, written, old, logs, befores, squares, decay, faded):
    """The forward pass of `_Writes` on any device; fills written, old (x), logs, befores (L_{t-1}), ..., faded."""
    diagonal, log = gram.diagonal(dim1=1, dim2=2), torch.zeros_like(norm2)
    for t in range(value.shape[1]):
        norm2, log = norm2.masked_fill(starts[:, t], 0), log.masked_fill(starts[:, t], 0)
        befores[:, t] = log
        was = retained[:, t] * torch.exp(-log)[:, None]
        if t:
            decay[:, t, :t] = torch.exp((befores[:, :t] - log[:, None]).clamp_(max=0)).nan_to_num_()
            torch.mul(gram[:, t, :t], decay[:, t, :t], out=faded[:, t, :t])
            was = torch.baddbmm(was[:, None], faded[:, t : t + 1, :t], written[:, :t])[:, 0]
        c, u = rate[:, t], value[:, t] - was
        square = norm2 + 2 * c * (u * was).sum(1) + c.square() * diagonal[:, t] * u.square().sum(1)
        bounded = square.clamp(min=1)
        log = log + 0.5 * bounded.log()
        norm2 = square / bounded
        # a NaN lives on in the log; among the writes it would outlive its episode, as 0 * NaN
        written[:, t], old[:, t], logs[:, t], squares[:, t] = (c[:, None] * u).nan_to_num_(), was, log, square


def _scan_backward(
    gram, value, rate, starts, old, squares, faded, grad_written, grad_logs,
    grad_value, grad_old, grad_rate, grad_diagonal, grad_norm2,
):  # fmt: skip
    """The backward pass of `_Writes` on any device; fills grad_value, ..., grad_norm2, the last of |F_0|^2."""
    diagonal, T, grad_log = gram.diagonal(dim1=1, dim2=2), value.shape[1], torch.zeros_like(grad_norm2)
    for t in reversed(range(T)):
        c, was, square = rate[:, t], old[:, t], squares[:, t]
        u = value[:, t] - was
        grad_log = grad_log + grad_logs[:, t]
        grad_square = torch.where(square > 1, 0.5 * grad_log / square, grad_norm2)
        later = torch.zeros_like(u)  # of U_t, from what later steps find
        if t + 1 < T:
            later = torch.bmm(faded[:, t + 1 :, t, None].transpose(1, 2), grad_old[:, t + 1 :])[:, 0]
        grad_u = grad_written[:, t] + later
        u_u, u_grad, c2 = u.square().sum(1), (u * grad_u).sum(1), 2 * c * grad_square
        grad_value[:, t] = c[:, None] * grad_u + c2[:, None] * was + (c * c2 * diagonal[:, t])[:, None] * u
        grad_old[:, t] = c2[:, None] * u - grad_value[:, t]
        grad_rate[:, t] = u_grad + 2 * grad_square * ((u * was).sum(1) + c * diagonal[:, t] * u_u)
        grad_diagonal[:, t] = c.square() * u_u * grad_square
        grad_log = grad_log + c * (u * later).sum(1) - (grad_old[:, t] * was).sum(1)
        grad_log = grad_log.masked_fill(starts[:, t], 0)
        grad_norm2.copy_(grad_square.masked_fill(starts[:, t], 0))
