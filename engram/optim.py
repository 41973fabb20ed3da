"""Gradient descent: the optimiser and its schedule, clipping, and the check that the numbers are still finite."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from engram import ranks
from engram.flags import Flags


class MuonAdamW:
    """Muon for matrices and AdamW for all other parameters, behind what is used here of a torch.optim.Optimizer.

    Muon (Jordan et al. 2024) moves a matrix by its momentum with all singular values set to about 1, so that what only
    few steps ask for is learned as fast as what most do; scaled as by Liu et al. 2025, it takes the learning rates of
    AdamW. Unlike there, heads and embeddings are among the matrices, and kernels of convolutions among the others.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        betas: tuple[float, float],
        epsilon: float,
        weight_decay: float,
    ):
        matrices, others = [], []
        for parameter in parameters:
            (matrices if parameter.dim() == 2 else others).append(parameter)
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            muon = torch.optim.Muon(matrices, learning_rate, weight_decay, adjust_lr_fn="match_rms_adamw")
            self._parts.append(muon)
        if others:
            self._parts.append(torch.optim.AdamW(others, learning_rate, betas, epsilon, weight_decay))

    @property
    def param_groups(self) -> list[dict]:
        return [group for part in self._parts for group in part.param_groups]

    def zero_grad(self) -> None:
        for part in self._parts:
            part.zero_grad()

    def step(self) -> None:
        for part in self._parts:
            part.step()

    def state_dict(self) -> list[dict]:
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, state: list[dict]) -> None:
        for part, saved in zip(self._parts, state, strict=True):
            part.load_state_dict(saved)


@dataclass(frozen=True)
class OptimConfig(Flags):
    section: ClassVar[str] = "optim"
    optimizer: Literal["adam", "muon", "rmsprop", "sgd"] = "adam"
    """muon: orthogonalised momentum for matrices, and AdamW for all other weights, at the same learning rate"""
    learning_rate: float = 7e-4
    """at the first update"""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """how the learning rate falls over the run; linear and cosine end at final_fraction"""
    final_fraction: float = 0.0
    """learning rate of the last update, as a fraction of the first"""
    epsilon: float = 1e-5
    """added to the root of the squared-gradient average, of Adam, RMSprop and the AdamW beside Muon"""
    beta2: float = 0.999
    """decay of the squared-gradient average of Adam, or of the AdamW beside Muon"""
    alpha: float = 0.99
    """decay of RMSprop's squared-gradient average"""
    momentum: float = 0.0
    """of RMSprop and SGD; Muon's is 0.95"""
    weight_decay: float = 0.0
    """times the weights, added to their gradient; with muon times the learning rate, taken from them"""
    max_grad_norm: float | None = None
    """norm to which the gradient of all parameters is clipped; None for no clipping"""
    max_grad_value: float | None = None
    """size to which each entry of the gradient is clipped; None for no clipping"""

    def __post_init__(self):
        self.require(0 < self.learning_rate < math.inf, "learning_rate", "above 0 and finite")
        self.require(self.epsilon >= 0, "epsilon", "at least 0")
        self.require(0 <= self.final_fraction <= 1, "final_fraction", "between 0 and 1")
        for name in ("beta2", "alpha", "momentum"):
            self.require(0 <= getattr(self, name) < 1, name, "at least 0 and below 1")
        self.require(self.weight_decay >= 0, "weight_decay", "at least 0")
        for name in ("max_grad_norm", "max_grad_value"):
            limit = getattr(self, name)
            self.require(limit is None or limit > 0, name, "above 0, or None")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer | MuonAdamW:
        rate, decay = self.learning_rate, self.weight_decay
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, rate, (0.9, self.beta2), self.epsilon, decay)
        if self.optimizer == "muon":
            return MuonAdamW(parameters, rate, (0.9, self.beta2), self.epsilon, decay)
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, rate, self.momentum, weight_decay=decay)
        return torch.optim.RMSprop(parameters, rate, self.alpha, self.epsilon, decay, self.momentum)

    def learning_rate_at(self, progress: float) -> float:
        """The learning rate after a fraction `progress` of the run."""
        left = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}
        fraction = self.final_fraction if self.schedule != "constant" else 0.0
        return self.learning_rate * (fraction + (1 - fraction) * left[self.schedule])


class Diverged(Exception):
    """The loss, its gradient or the weights are not finite."""


def descend(
    loss: Tensor,
    module: nn.Module,
    optimizer: torch.optim.Optimizer | MuonAdamW,
    config: OptimConfig,
    progress: float = 0.0,
    rate: float = 1.0,
) -> Tensor:
    """One step of `optimizer` down the gradient of `loss`, summed over ranks, after a fraction `progress` of the run.

    Args:    rate: factor of the learning rate, for this step alone.
    Returns: the norm of the gradient before it was clipped, on the device.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * config.learning_rate_at(progress)
    optimizer.zero_grad()
    loss.backward()
    parameters = [p for p in module.parameters() if p.grad is not None]
    ranks.add([p.grad for p in parameters])
    grad_norm = nn.utils.get_total_norm([p.grad for p in parameters])
    if config.max_grad_norm is not None:
        finite = grad_norm.nan_to_num(0.0, posinf=0.0)  # scaling by NaN would hide from `check_finite` where it arose
        nn.utils.clip_grads_with_norm_(parameters, config.max_grad_norm, finite)
    if config.max_grad_value is not None:
        nn.utils.clip_grad_value_(parameters, config.max_grad_value)
    optimizer.step()
    return grad_norm


def check_finite(update: int, loss: float, grad_norm: float, module: nn.Module) -> None:
    """Raise Diverged, naming the parameters concerned, unless loss, gradient and weights of this update are finite."""
    weights = dict(module.named_parameters())
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        gradients = {name: p.grad for name, p in weights.items() if p.grad is not None}
        found = f"the loss is {float(loss)}, the gradient is not finite in {_broken(gradients) or 'no parameter'}"
    elif where := _broken(weights):
        found = f"the weights are not finite any more in {where}"
    else:
        return
    raise Diverged(f"update {update}: {found}; try a lower --optim.learning-rate or --optim.max-grad-norm")


def _broken(tensors: dict[str, Tensor]) -> str:
    """Names of those that are not finite, "" if all are."""
    finite = torch.stack([x.detach().isfinite().all() for x in tensors.values()]).tolist()  # one wait for the device
    broken = [name for name, good in zip(tensors, finite, strict=True) if not good]
    return "every parameter" if len(broken) == len(tensors) else ", ".join(broken)
