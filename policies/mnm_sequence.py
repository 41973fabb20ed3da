"""A whole sequence of MNM as one differentiable operation, on any device.

The recurrence of `MNM.step` with hardly an allocation inside a step, and its derivative written out. A write is a sum
of few outer products: the backward pass has their vectors and undoes the writes one by one, where autograd would keep
the memory of every step. The gradients of all weights are products over the whole sequence at once.
"""

import torch
from torch import Tensor

from engram.policies.core import once_differentiable


class Sequence(torch.autograd.Function):
    """MNM after the input projection and before the output.

    Layers lead here: activations z_0 .. z_L are [L + 1, B, H, d] and the memory is [L, B, d, d], so that what is done
    to all layers alike is one batched product, and what is done to one of them needs no copy.
    """

    @staticmethod
    def forward(
        ctx, config, starts, with_loss, with_norms, inputs, weight_rec, weight_int, bias_int, weight_rate, bias_rate,
        weight_back, bias_back, h, c, read, memory, initial_memory,
    ):  # fmt: skip
        """Returns hs [T, B, m], reads [T, B, d], meta_loss [T, B] (zero unless with_loss), the last c and memory, and
        norms [T, B, L] of the memory's layers (zero unless with_norms).

        Args:    inputs [T, B, 4m] to the gates; weight_rec [4m, d + m] for read and h; weight_rate [1 or L, d] or None;
                 weight_back [L, d, d] and bias_back [L, d], both None without feedback; the rest as in `MNM`. The state
                 before the first step is h, c, read, memory: starts[0] is not looked at.
        """
        T, B, _ = inputs.shape
        L, d, _ = initial_memory.shape
        m, H = h.shape[1], config.num_heads
        new = inputs.new_empty
        gates, vectors = inputs.clone(), new(T, B, len(weight_int))
        recurrent, before, cells, hs = new(T, B, d + m), new(T, B, m), new(T, B, m), new(T, B, m)
        rates, reads = new(T, len(bias_rate), B, 1, 1), new(T, B, d)
        written, errors = new(T, L + 1, B, H, d), new(T, L, B, H, d)
        asked = new(T, L + 1, B, 2 * H if with_loss else H, d)
        losses, norms = inputs.new_zeros(T, B), inputs.new_zeros(T, B, L)
        aside = new(T, L, B, H, d)  # targets of the perceptron rule, or what reaches each layer on the way back
        memory, begins, gone = memory.transpose(0, 1).clone(memory_format=torch.contiguous_format), _rows(starts, T), {}
        initial_memory = initial_memory[:, None]

        for t in range(T):
            recurrent[t, :, :d], recurrent[t, :, d:], before[t] = read, h, c
            if len(begins[t]):
                rows = begins[t]
                gone[t] = memory[:, rows]
                recurrent[t, rows], before[t, rows], memory[:, rows] = 0, 0, initial_memory

            gates[t].addmm_(recurrent[t], weight_rec.T)
            gates[t, :, : 2 * m].sigmoid_(), gates[t, :, 2 * m : 3 * m].tanh_(), gates[t, :, 3 * m :].sigmoid_()
            i, f, g, o = gates[t].chunk(4, dim=1)
            c = torch.mul(f, before[t]).addcmul_(i, g)
            h = torch.mul(o, torch.tanh(c, out=cells[t]), out=hs[t])

            torch.addmm(bias_int, h, weight_int.T, out=vectors[t]).tanh_()
            read_keys, write_keys, values, beta = _parts(vectors[t], H, d)
            rates[t, ..., 0, 0] = _logits(beta, weight_rate, bias_rate).sigmoid_().T
            written[t, 0] = write_keys
            _run(config, memory, written[t])
            if config.rule == "perceptron":
                _misses(config, written[t], values, weight_back, bias_back, errors[t], aside[t])
            else:
                _slopes(config, memory, written[t], values, errors[t], aside[t])
            _add_outer(memory, -config.scale * rates[t] * errors[t], written[t, :-1])

            asked[t, 0, :, :H] = read_keys
            if with_loss:
                asked[t, 0, :, H:] = write_keys
            _run(config, memory, asked[t])
            read = torch.mean(asked[t, L, :, :H], dim=1, out=reads[t])
            if with_loss:
                losses[t] = (asked[t, L, :, H:] - values).square().mean((1, 2))
            if with_norms:
                norms[t] = torch.linalg.vector_norm(memory, dim=(2, 3)).T

        ctx.config, ctx.begins, ctx.gone, ctx.with_loss = config, begins, gone, with_loss
        weights = weight_rec, weight_int, weight_rate, weight_back
        memory = memory.transpose(0, 1)
        kept = gates, recurrent, before, cells, hs, vectors, rates, written, errors, aside, asked, memory
        ctx.save_for_backward(*weights, *kept)
        ctx.mark_non_differentiable(norms)
        return hs, reads, losses, c, memory, norms

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_hs, grad_reads, grad_losses, grad_c, grad_memory, _):
        weight_rec, weight_int, weight_rate, weight_back, *kept = ctx.saved_tensors
        gates, recurrent, before, cells, hs, vectors, rates, written, errors, aside, asked, memory = kept
        config, with_loss = ctx.config, ctx.with_loss
        T, L, _, H, d = errors.shape
        m = hs.shape[2]
        grad_gates, grad_vectors = torch.empty_like(gates), torch.empty_like(vectors)
        grad_logits, grad_targets = torch.empty_like(rates), None if weight_back is None else torch.empty_like(aside)
        memory, grad_memory = (
            x.transpose(0, 1).clone(memory_format=torch.contiguous_format) for x in (memory, grad_memory)
        )
        grad_h, grad_read = torch.zeros_like(grad_hs[0]), torch.zeros_like(grad_reads[0])

        for t in reversed(range(T)):
            values = _parts(vectors[t], H, d)[2]
            grad_read_keys, grad_write_keys, grad_values, grad_beta = _parts(grad_vectors[t], H, d)

            grad = torch.empty_like(asked[t, 0])
            grad[:, :H] = (grad_reads[t] + grad_read)[:, None] / H
            if with_loss:
                torch.sub(asked[t, L, :, H:], values, out=grad[:, H:])
                grad[:, H:] *= (2 / (H * d) * grad_losses[t])[:, None, None]
            if with_loss and not config.stop_target:
                torch.neg(grad[:, H:], out=grad_values)
            else:
                grad_values.zero_()
            for l in reversed(range(L)):
                if _bends(config, l):
                    grad = _through_tanh(grad, asked[t, l + 1])
                _add_outer(grad_memory[l], grad, asked[t, l])
                grad = grad @ memory[l]
            grad_read_keys.copy_(grad[:, :H])

            change = config.scale * rates[t] * errors[t]
            _add_outer(memory, change, written[t, :-1])  # undoes the write
            slope = written[t, :-1] @ grad_memory.transpose(2, 3)
            grad_rates = -config.scale * (errors[t] * slope).sum((2, 3))  # [L, B]
            grad_errors = slope.mul_(-config.scale * rates[t])
            grads = torch.empty_like(written[t])
            torch.matmul(change.neg_(), grad_memory, out=grads[:-1])
            grads[L] = 0
            if config.rule == "perceptron":
                grads[1:] += grad_errors
                _misses_backward(config, grad_errors, aside[t], weight_back, grad_targets[t], grad_values)
            else:
                _slopes_backward(
                    config, memory, written[t], errors[t], aside[t], grad_errors, grads, grad_memory, grad_values
                )
            for l in reversed(range(L)):
                grad_z = _through_tanh(grads[l + 1], written[t, l + 1]) if _bends(config, l) else grads[l + 1]
                _add_outer(grad_memory[l], grad_z, written[t, l])
                grads[l] += grad_z @ memory[l]
            grad_write_keys.copy_(grads[0])
            if with_loss:
                grad_write_keys += grad[:, H:]

            if len(rates[t]) == 1:
                grad_rates = grad_rates.sum(0, keepdim=True)
            rate = rates[t, ..., 0, 0]
            grad_logits[t, ..., 0, 0] = grad_rates * rate * (1 - rate)
            if weight_rate is not None:
                torch.mm(grad_logits[t, ..., 0, 0].T, weight_rate, out=grad_beta)
            grad_vectors[t] *= 1 - vectors[t].square()
            grad_h = (grad_hs[t] + grad_h).addmm_(grad_vectors[t], weight_int)

            i, f, g, o = gates[t].chunk(4, dim=1)
            grad_c = grad_c + grad_h * o * (1 - cells[t].square())
            grad_i, grad_f, grad_g, grad_o = grad_gates[t].chunk(4, dim=1)
            torch.mul(grad_c * g, i * (1 - i), out=grad_i)
            torch.mul(grad_c * before[t], f * (1 - f), out=grad_f)
            torch.mul(grad_c * i, 1 - g.square(), out=grad_g)
            torch.mul(grad_h * cells[t], o * (1 - o), out=grad_o)
            grad_c = grad_c * f
            grad_read, grad_h = (grad_gates[t] @ weight_rec).split([d, m], dim=1)
            if t in ctx.gone:
                rows = ctx.begins[t]
                grad_read[rows], grad_h[rows], grad_c[rows], grad_memory[:, rows] = 0, 0, 0, 0
                memory[:, rows] = ctx.gone[t]

        logits = grad_logits[..., 0, 0].transpose(1, 2).flatten(0, 1)  # [T B, 1 or L]
        return (
            None, None, None, None,
            grad_gates, grad_gates.flatten(0, 1).T @ recurrent.flatten(0, 1),
            grad_vectors.flatten(0, 1).T @ hs.flatten(0, 1), grad_vectors.sum((0, 1)),
            None if weight_rate is None else logits.T @ _parts(vectors, H, d)[3].flatten(0, 1), logits.sum(0),
            None if weight_back is None else torch.einsum("tlbhi,tbhj->lij", grad_targets, _parts(vectors, H, d)[2]),
            None if weight_back is None else grad_targets.sum((0, 2, 3)),
            grad_h, grad_c, grad_read, grad_memory.transpose(0, 1), None,
        )  # fmt: skip


def _rows(starts: Tensor | None, T: int) -> list[Tensor]:
    """For each step, the rows whose episodes start there; none at the first step."""
    if starts is None:
        return [()] * T
    later = starts[1:]
    return [(), *later.nonzero()[:, 1].split(later.sum(1).tolist())]


def _parts(vectors: Tensor, H: int, d: int) -> tuple[Tensor, ...]:
    """Views of read keys, write keys, values, each [..., H, d], and what the rate is made of."""
    return *vectors[..., : 3 * H * d].unflatten(-1, (3, H, d)).unbind(-3), vectors[..., 3 * H * d :]


def _logits(beta: Tensor, weight: Tensor | None, bias: Tensor) -> Tensor:
    return bias.expand(len(beta), -1).clone() if weight is None else torch.addmm(bias, beta, weight.T)


def _bends(config, l: int) -> bool:
    """Whether layer l, counted from 0, ends in tanh."""
    return l < config.num_layers - 1 or config.memory_output == "tanh"


def _through_tanh(grad: Tensor, z: Tensor) -> Tensor:
    return grad * (1 - z.square())


def _add_outer(memory: Tensor, left: Tensor, right: Tensor) -> None:
    """memory [..., B, d, d] += left^T right, both [..., B, H, d]."""
    *_, H, d = right.shape
    memory.view(-1, d, d).baddbmm_(left.reshape(-1, H, d).transpose(1, 2), right.reshape(-1, H, d))


def _run(config, memory: Tensor, layers: Tensor) -> None:
    """Fills layers[1:] with the activations that follow from layers[0]."""
    for l, weights in enumerate(memory):
        torch.bmm(layers[l], weights.transpose(1, 2), out=layers[l + 1])
        if _bends(config, l):
            layers[l + 1].tanh_()


def _misses(config, layers, values, weight_back, bias_back, errors, targets):
    """The perceptron rule: fills errors and targets."""
    L, *_, d = targets.shape
    torch.matmul(values.reshape(-1, d), weight_back.transpose(1, 2), out=targets.view(L, -1, d))
    targets += bias_back[:, None, None]
    if config.feedback == "tanh":
        targets[:-1].tanh_()
    torch.sub(layers[1:], targets, out=errors)


def _misses_backward(config, grad_errors, targets, weight_back, grad_targets, grad_values):
    """Fills grad_targets, of the feedback's linear part, and adds to grad_values."""
    torch.neg(grad_errors, out=grad_targets)
    if config.feedback == "tanh":
        grad_targets[:-1] *= 1 - targets[:-1].square()
    grad_values += torch.matmul(grad_targets.flatten(1, 2), weight_back).sum(0).view_as(grad_values)


def _slopes(config, memory, layers, values, errors, reaching):
    """The gradient rule: fills errors and what reaches each layer, before the derivative of its tanh."""
    torch.sub(layers[-1], values, out=reaching[-1])
    for l in reversed(range(len(memory))):
        if l < len(memory) - 1:
            torch.bmm(errors[l + 1], memory[l + 1], out=reaching[l])
        errors[l] = _through_tanh(reaching[l], layers[l + 1]) if _bends(config, l) else reaching[l]


def _slopes_backward(config, memory, layers, errors, reaching, grad_errors, grads, grad_memory, grad_values):
    """Adds to grads (of the layers), grad_memory and grad_values; changes grad_errors on its way up."""
    for l in range(len(memory)):
        grad = grad_errors[l]
        if _bends(config, l):
            grads[l + 1] -= 2 * layers[l + 1] * reaching[l] * grad
            grad = _through_tanh(grad, layers[l + 1])
        if l < len(memory) - 1:
            grad_errors[l + 1].baddbmm_(grad, memory[l + 1].transpose(1, 2))
            _add_outer(grad_memory[l + 1], errors[l + 1], grad)
    grads[-1] += grad
    grad_values -= grad
