"""A whole sequence of RMC as one differentiable operation on the CPU.

The recurrence of `RMC.step` and its derivative written out: products with weights by torch, what lies between them by
`rmc_kernel`. The gradients of all weights are products over the whole sequence at once.
"""

import numpy as np
import torch
from torch import Tensor

from engram.policies import rmc_kernel
from engram.policies.core import once_differentiable
from engram.policies.rows import array


class Sequence(torch.autograd.Function):
    """RMC after the maps of its inputs.

    R rows go through a block: the N slots, and the n of the input where another block follows. Of the rows that come
    out of the last block, only the slots are made.
    """

    @staticmethod
    def forward(ctx, config, scale, starts, rows, projected, given, memory, initial, *parameters):
        """The memories [T, B, N, W].

        Args:    scale: of the scores; starts bool [T, B] or None; of the inputs rows [T, B, n, W], their queries, keys
                 and values in the first block [T, B, n, Q] and their part of the gates [T, B, 1, 2 G] or None; memory
                 [B, N, W] before the first step, initial [N, W] at episode starts; parameters: eight of each block,
                 qkv, its norm, the norms after attention and MLP; weight and bias of the MLP's layers and, where there
                 are gates, of what the memory says of them.
        """
        T, B, n, W = rows.shape
        N, P = config.num_slots, config.num_blocks
        new = rows.new_empty
        layers = list(zip(parameters[8 * P :: 2], parameters[8 * P + 1 :: 2], strict=True))
        mlp = layers[: config.mlp_layers]
        heads = config.num_heads, *config.head_sizes[1:], scale
        before, memories = new(T, B, N, W), new(T, B, N, W)
        blocks = []
        for p in range(P):
            come = before if P == 1 else new(T, B, N + n, W)
            asking = N if p == P - 1 else N + n
            blocks.append(_Block(parameters[8 * p : 8 * p + 8], come, n if p == 0 else 0, N + n, asking, config))
        if given is not None:
            weight_gate, bias_gate = layers[-1]
            bent, candidate, opened = new(T, B, N, W), new(T, B, N, W), new(T, B, N, len(bias_gate))

        for t in range(T):
            before[t] = memory
            if starts is not None:
                before[t, starts[t]] = initial
            if P > 1:
                blocks[0].come[t, :, :N], blocks[0].come[t, :, N:] = before[t], rows[t]
            for p, block in enumerate(blocks):
                hidden = block.mix(t, projected[t] if p == 0 else projected[t, :, :0], heads, mlp)
                out = blocks[p + 1].come[t] if p < P - 1 else memories[t] if given is None else candidate[t]
                block.normalise(t, hidden, out)
            memory = memories[t]
            if given is not None:
                torch.tanh(before[t], out=bent[t])
                torch.addmm(bias_gate, bent[t].view(-1, W), weight_gate.T, out=opened[t].view(B * N, len(bias_gate)))
                i, f = opened[t].add_(given[t]).sigmoid_().chunk(2, dim=-1)
                torch.mul(f, before[t], out=memory).addcmul_(i, candidate[t].tanh_())

        ctx.blocks, ctx.mlp, ctx.heads, ctx.before = blocks, mlp, heads, before
        ctx.gate = None if given is None else (weight_gate, bent, candidate, opened)
        ctx.save_for_backward(starts, *parameters)  # torch checks that nothing has changed them since
        return memories

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_memories):
        starts, *parameters = ctx.saved_tensors
        blocks, mlp, before = ctx.blocks, ctx.mlp, ctx.before
        T, B, N, W = before.shape
        last, n, Q = blocks[-1], blocks[0].extra, parameters[0].shape[0]
        grad_rows, grad_projected = before.new_zeros(T, B, n, W), before.new_empty(T, B, n, Q)
        grad_memory, grad_given = before.new_zeros(B, N, W), None
        if ctx.gate is not None:
            weight_gate, bent, candidate, opened = ctx.gate
            grad_given, grad_recalled = opened.new_zeros(T, B, 1, opened.shape[-1]), torch.empty_like(opened)

        for block in blocks:
            block.begin_backward()
        for t in reversed(range(T)):
            grad = grad_memory + grad_memories[t]
            grad_x, grad_memory = torch.empty_like(grad), torch.zeros_like(grad)
            if ctx.gate is None:
                last.normalise_backward(t, grad, grad_x)
            else:
                given = (x[t].numpy() for x in (before, candidate, opened))
                filled = grad_given[t].numpy(), grad_recalled[t].numpy(), grad_memory.numpy()
                normed = last.unit[t], last.spread[t], last.norms[2][0]
                rmc_kernel.gate_backward(grad.numpy(), *normed, *given, grad_x.numpy(), *last.grad_norms[2], *filled)
                slope = (grad_recalled[t].flatten(0, 1) @ weight_gate).view(B, N, W)
                grad_memory += torch.ops.aten.tanh_backward(slope, bent[t])
            for p in reversed(range(len(blocks))):
                block = blocks[p]
                grad_come, grad_extra = block.mix_backward(t, grad_x, ctx.heads, mlp)
                if p > 0:
                    grad_x = torch.empty_like(grad_come)
                    blocks[p - 1].normalise_backward(t, grad_come, grad_x)
                else:
                    grad_memory += grad_come[:, :N]
                    grad_projected[t] = grad_extra
                    if len(blocks) > 1:
                        grad_rows[t] = grad_come[:, N:]
            if starts is not None:
                grad_memory[starts[t]] = 0

        grads = [grad for block in blocks for grad in block.parameter_grads()]
        for l in range(len(mlp)):
            parts = [_products(block.grad_layers[l], block.acts[l]) for block in blocks]
            grads += [sum(grad) for grad in zip(*parts, strict=True)]
        if ctx.gate is not None:
            grads += _products(grad_recalled, bent)
        return None, None, None, grad_rows, grad_projected, grad_given, grad_memory, None, *grads


class _Block:
    """A block, and what its passes keep of each step: arrays that lead with T, B.

    Args: parameters: its eight; come [T, B, ., W]: the rows that come in; extra: rows of which queries, keys and values
          are given; total: rows that are attended to; asking: the first of them, which ask.
    """

    def __init__(self, parameters, come: Tensor, extra: int, total: int, asking: int, config):
        (self.weight, self.bias, *norms), (T, B, _, W) = parameters, come.shape
        Q, A = len(self.bias), config.num_heads
        self.come, self.extra, self.mapped, self.asking = come, extra, total - extra, asking
        norms = [x.detach().numpy() for x in norms]
        self.norms = list(zip(norms[::2], norms[1::2], strict=True))  # of qkv, after attention, after the MLP
        self.acts = [come.new_empty(T, B, asking, W) for _ in range(config.mlp_layers)]  # what its layers read
        shapes = (self.mapped, Q), (self.mapped,), (total, Q), (A, asking, total), (asking, W), (asking,)
        self.attention = [np.empty((T, B, *shape), come.numpy().dtype) for shape in shapes]
        self.unit, self.spread = (np.empty_like(x) for x in self.attention[-2:])

    def mix(self, t: int, projected: Tensor, heads: tuple, mlp: list) -> Tensor:
        """What attention and the MLP make of the rows that ask, [B, asking, W]."""
        come, mixed = self.come[t], self.acts[0][t]
        mapped = torch.addmm(self.bias, come[:, : self.mapped].flatten(0, 1), self.weight.T)
        arrays = mapped.view(len(come), self.mapped, len(self.bias)), projected, come[:, : self.asking]
        kept = (x[t] for x in self.attention)
        rmc_kernel.attend(*map(array, arrays), *self.norms[0], *self.norms[1], *heads, *kept, mixed.numpy())
        hidden = mixed
        for l, (weight, bias) in enumerate(mlp):
            if l > 0:
                hidden = torch.clamp(hidden.view_as(mixed), min=0, out=self.acts[l][t])
            hidden = torch.addmm(bias, hidden.flatten(0, 1), weight.T)
        return hidden.view_as(mixed)

    def normalise(self, t: int, hidden: Tensor, out: Tensor) -> None:
        """out = LN(hidden + what the MLP read)."""
        mixed = self.acts[0][t].numpy()
        rmc_kernel.norm(hidden.numpy(), mixed, *self.norms[2], self.unit[t], self.spread[t], out.numpy())

    def begin_backward(self) -> None:
        """Make room for what comes together step by step."""
        self.grad_norms = [tuple(map(np.zeros_like, norm)) for norm in self.norms]
        self.grad_layers = [torch.empty_like(act) for act in self.acts]
        self.grad_mapped = self.come.new_empty(*self.come.shape[:2], self.mapped, len(self.bias))

    def normalise_backward(self, t: int, grad: Tensor, grad_x: Tensor) -> None:
        """Fills grad_x, that of both terms."""
        kept = self.unit[t], self.spread[t], self.norms[2][0]
        rmc_kernel.norm_backward(grad.numpy(), *kept, grad_x.numpy(), *self.grad_norms[2])

    def mix_backward(self, t: int, grad: Tensor, heads: tuple, mlp: list) -> tuple[Tensor, Tensor]:
        """`grad` of what was normalised -> that of the rows that came, [B, ., W], and of `projected`."""
        slope = grad
        for l in reversed(range(len(mlp))):
            self.grad_layers[l][t] = slope
            slope = (slope.flatten(0, 1) @ mlp[l][0]).view_as(grad)
            if l > 0:
                slope *= self.acts[l][t] > 0
        grad_qkv, grad_asking = np.zeros_like(self.attention[2][t]), torch.empty_like(grad)
        filled = grad_qkv, self.grad_mapped[t].numpy(), grad_asking.numpy()
        given = (grad + slope).numpy(), *(x[t] for x in self.attention), self.norms[0][0], self.norms[1][0]
        rmc_kernel.attend_backward(*given, *heads, *filled, *self.grad_norms[0], *self.grad_norms[1])
        grad_come = torch.zeros_like(self.come[t])
        mapped = self.grad_mapped[t].flatten(0, 1) @ self.weight
        grad_come[:, : self.mapped] = mapped.view(len(grad), self.mapped, grad.shape[-1])
        grad_come[:, : self.asking] += grad_asking
        return grad_come, torch.from_numpy(grad_qkv[:, self.mapped :])

    def parameter_grads(self) -> list[Tensor]:
        qkv = _products(self.grad_mapped, self.come[:, :, : self.mapped])
        return [*qkv, *(torch.from_numpy(x) for norm in self.grad_norms for x in norm)]


def _products(grad: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias of a linear map that read `read` [..., W] and received `grad` [..., V]."""
    grad = grad.flatten(0, -2)
    return grad.T @ read.flatten(0, -2), grad.sum(0)
