"""Maps phi of the keys and queries of fast weight programmers."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Phi = Literal["elu1-sum", "softmax", "l2"]
PHIS = get_args(Phi)
SUM_EPS = 1e-5
"""added to the sum by which "elu1-sum" divides"""
LEAST_NORM = 1e-12
"""the least by which "l2" divides"""


def phi(x: Tensor, name: Phi) -> Tensor:
    """Keys and queries [..., d] out of projections: positive with sum 1, or of Euclidean length 1."""
    if name == "softmax":
        return x.softmax(-1)
    if name == "l2":
        return F.normalize(F.silu(x), dim=-1, eps=LEAST_NORM)
    x = torch.where(x > 0, x + 1, x.clamp(max=0).exp())  # ELU + 1, which would round to 0 what is small
    return x / (x.sum(-1, keepdim=True) + SUM_EPS)
