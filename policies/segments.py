"""Sequences with episode starts inside, for fused kernels that know no resets."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Kernel = Callable[[Tensor, Sequence[Tensor]], Sequence[Tensor]]
"""xs [L, R, D + 1] and state leaves [R, ...] before them -> outputs [L, R, Y] and, in order, the last values of any
leaves [R, ...]. Where the added input is 1, a step is padding, in which those leaves must not change."""


def run(kernel: Kernel, xs: Tensor, state: Sequence[Tensor], initial: Callable, starts: Tensor) -> list[Tensor]:
    """Rows cut at their episode starts, and segments of similar length run as one batch, the shorter ones padded.

    Args:    kernel: runs a sequence without resets.
             xs: inputs, [T, B, D].
             state: leaves [B, ...] before xs[0], of the initial state where starts[0] is true.
             initial: the state at an episode start, by batch size.
             starts: bool [T, B].
    Returns: what the kernel does, for the whole sequence: outputs [T, B, Y] and last leaves [B, ...].
    """
    T, B, _ = xs.shape
    cut = starts.clone()
    cut[0] = True  # the first segment of each row continues from the state
    b, t = cut.T.nonzero().unbind(1)  # by row, then by time
    end = torch.where(b.roll(-1) == b, t.roll(-1), T)
    end[-1] = T
    length = end - t
    carried = [leaf[b] for leaf in state], initial(len(b))
    opening = [torch.where((t == 0)[:, None], old, new) for old, new in zip(*carried, strict=True)]

    sizes = length.log2().long()  # lengths of a batch differ by less than a factor of two
    outputs, lasts, order, total = [], [], [], 0
    source = t.new_empty(T * B)  # of each output, among those of all batches
    for size in sizes.unique():
        rows = (sizes == size).nonzero()[:, 0]
        steps = torch.arange(int(length[rows].max()), device=xs.device)[:, None]
        padding = steps >= length[rows]
        place = (t[rows] + steps).clamp(max=T - 1) * B + b[rows]
        padded = xs.flatten(0, 1)[place].masked_fill(padding[..., None], 0)
        padded = torch.cat([padded, padding[..., None].to(xs.dtype)], dim=2)
        ys, *last = kernel(padded, [leaf[rows] for leaf in opening])
        source[place[~padding]] = total + (~padding).flatten().nonzero()[:, 0]
        total += place.numel()
        outputs.append(ys.flatten(0, 1))
        lasts.append(last)
        order.append(rows)
    ys = torch.cat(outputs).index_select(0, source).view(T, B, -1)
    by_row = torch.cat(order).argsort()[end == T]
    return [ys, *(torch.cat(leaves)[by_row] for leaves in zip(*lasts, strict=True))]
