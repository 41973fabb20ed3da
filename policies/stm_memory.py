"""The relational memory of STM inside a chunk of steps, where it is not formed: old memory and factors of what came."""

import torch
from torch import Tensor

from engram.policies.sam import associate


class Relations:
    """M_t = decay M_{t-1} + gain S_t over C steps, read before each step t at an address [n d] of slots and keys.

    A read is linear in the memory. Those of the old memory are known at once; each S_t, a sum of n outer products, is
    read for all later steps when it comes, through its factors: n d numbers a step instead of n d * d.
    """

    def __init__(self, memory: Tensor, initial: Tensor, starts: Tensor, addresses: Tensor, decay: Tensor, gain: Tensor):
        """memory [B, n, d, d] before the chunk, initial [n, d, d] at the starts [C, B], addresses [C, B, n d]."""
        steps = torch.arange(len(starts), device=starts.device)
        episode = starts.cumsum(0)  # 0 as long as the old memory lives
        self.apart = episode[:, None] != episode[None]  # [t, s, B]
        age = steps[:, None] - (steps[:, None] * starts).cummax(0).values  # steps since the start or the old memory
        powers = decay ** torch.arange(len(starts) + 1, device=starts.device, dtype=decay.dtype)
        self.weights = gain * powers[(steps[:, None] - 1 - steps).clamp(min=0)]  # [t, s], of S_s in a read at t
        self.last_weights = gain * powers[:-1].flip(0)  # in the memory after the chunk
        gone = episode > 0
        oldest = torch.where(gone[-1][:, None, None, None], initial, memory)
        self.remains = powers[age[-1] + 1][:, None, None, None] * oldest
        self.addresses = addresses.transpose(0, 1)  # [B, C, n d]
        # selected, as a product would let the NaN of one episode into the next
        old_reads = torch.where(
            gone.T[..., None], self.addresses @ initial.flatten(0, 1), self.addresses @ memory.flatten(1, 2)
        )
        self.reads = powers[age].T[..., None] * old_reads  # [B, C - t, d]: of the steps still to come

    def read(self) -> Tensor:
        """What the next step reads, [B, d]."""
        return self.reads[:, 0]

    def add(self, bound: Tensor, v: Tensor) -> None:
        """The associations of this step by their factors: bound [B, n, n, d], v [B, n, d]."""
        t = len(self.apart) - self.reads.shape[1]
        found = self.addresses[:, t + 1 :] @ bound.flatten(2).transpose(1, 2) @ v
        found = (self.weights[t + 1 :, t, None] * found).masked_fill(self.apart[t + 1 :, t].T[..., None], 0)
        self.reads = self.reads[:, 1:] + found

    def fold(self, bound: Tensor, v: Tensor) -> Tensor:
        """The memory after the last step, [B, n, d, d], from what was added: [C, B, n, n, d] and [C, B, n, d]."""
        apart = self.apart[-1][..., None, None]  # [C, B, 1, 1]
        bound = bound.masked_fill(apart[..., None], 0)
        v = (self.last_weights[:, None, None, None] * v).masked_fill(apart, 0)
        return self.remains + associate(bound.transpose(0, 1).flatten(1, 2), v.transpose(0, 1).flatten(1, 2))
