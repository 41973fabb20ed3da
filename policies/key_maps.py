"""Maps phi of the keys and queries of fast weight programmers."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

SUM_EPS = 1e-5
"""added to the sum by which "elu1-sum" divides"""

Phi = Literal["elu1-sum", "softmax", "l2"]
PHIS = ("elu1-sum", "softmax", "l2")


def phi(x: Tensor, name: Phi) -> Tensor:
    """Keys and queries [..., d] out of projections: positive with sum 1, or of Euclidean length 1."""
    if name == "softmax":
        return x.softmax(-1)
    if name == "l2":
        return F.normalize(F.silu(x), dim=-1)
    x = F.elu(x) + 1
    return x / (x.sum(-1, keepdim=True) + SUM_EPS)
