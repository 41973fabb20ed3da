"""Self-attentive associative memory: the operator of Le, Tran & Venkatesh 2020 (Eqs. 1 to 8).

Attention that keeps an outer product of what it matched and what it found, where dot-product attention keeps a number
and a vector: each query becomes a matrix. That matrix is a sum over few key-value pairs, so that its factors say all.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from engram.policies.core import once_differentiable

ROWS = 64
"""associations that `project` forms at once; each is n_q * d_k * d_v numbers"""


def bind(q: Tensor, k: Tensor, activation: Callable[[Tensor], Tensor] = torch.tanh) -> Tensor:
    """Every query with every key: q [..., n_q, d], k [..., n_kv, d] -> F(q_s * k_j) as [..., n_kv, n_q, d]."""
    return activation(k[..., :, None, :] * q[..., None, :, :])


def associate(bound: Tensor, v: Tensor) -> Tensor:
    """bound [..., n_kv, n_q, d_k], v [..., n_kv, d_v] -> sum over j of F(q_s * k_j) v_j^T, [..., n_q, d_k, d_v]."""
    return (bound.flatten(-2).transpose(-1, -2) @ v).unflatten(-2, bound.shape[-2:])


def sam(q: Tensor, k: Tensor, v: Tensor, activation: Callable[[Tensor], Tensor] = torch.tanh) -> Tensor:
    """The operator, S[s] = sum_j F(q_s * k_j) v_j^T.

    Args:    q [..., n_q, d_k], k [..., n_kv, d_k], v [..., n_kv, d_v]; activation: F, elementwise.
    Returns: [..., n_q, d_k, d_v]. Nothing with five axes is formed on the way.
    """
    return associate(bind(q, k, activation), v)


def project(bound: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    """A linear map of each association, without keeping the associations for the backward pass.

    Args:    bound [M, n_kv, n_q, d_k], v [M, n_kv, d_v], weight [r, d_k * d_v].
    Returns: weight vec(S[s]), [M, n_q, r].
    """
    return _Project.apply(bound, v, weight)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx, bound, v, weight):
        ctx.save_for_backward(bound, v, weight)
        parts = zip(bound.split(ROWS), v.split(ROWS), strict=True)
        return torch.cat([associate(b, u).flatten(-2) @ weight.T for b, u in parts])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        bound, v, weight = ctx.saved_tensors
        grad_bound, grad_v, grad_weight = [], [], torch.zeros_like(weight)
        for b, u, g in zip(bound.split(ROWS), v.split(ROWS), grad.split(ROWS), strict=True):
            formed, flat = associate(b, u).flatten(0, 1).flatten(1), g.flatten(0, 1)
            grad_weight.addmm_(flat.T, formed)
            of_formed = (flat @ weight).view(len(b), -1, u.shape[-1])  # [M, n_q d_k, d_v]
            grad_bound.append((u @ of_formed.transpose(1, 2)).view_as(b))
            grad_v.append(b.flatten(2) @ of_formed)
        return torch.cat(grad_bound), torch.cat(grad_v), grad_weight
