"""One optimisation step over a rollout."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from engram.agents.rollout import Rollout
from engram.policies import Policy


@dataclass(frozen=True)
class OptimConfig:
    optimizer: Literal["adam", "rmsprop"] = "adam"
    learning_rate: float = 7e-4
    """at the first update"""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """how the learning rate falls over the run; linear and cosine end at final_fraction"""
    final_fraction: float = 0.0
    """learning rate of the last update, as a fraction of the first"""
    epsilon: float = 1e-5
    """added to the root of the squared-gradient average"""
    minibatches: int = 1
    """parts of a rollout, by environments, that get an update each, one after the other"""
    max_grad_norm: float | None = None
    """norm to which the gradient of all parameters is clipped; None for no clipping"""

    def __post_init__(self):
        for name, valid, demand in (
            ("learning_rate", self.learning_rate > 0, "above 0"),
            ("final_fraction", 0 <= self.final_fraction <= 1, "between 0 and 1"),
            ("minibatches", self.minibatches >= 1, "at least 1"),
            ("max_grad_norm", self.max_grad_norm is None or self.max_grad_norm > 0, "above 0, or None"),
        ):
            if not valid:
                flag = f"--optim.{name.replace('_', '-')}"
                raise ValueError(f"{name}={getattr(self, name)}, but it must be {demand} ({flag})")

    def build(self, parameters) -> torch.optim.Optimizer:
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=self.learning_rate, eps=self.epsilon)
        return torch.optim.RMSprop(parameters, lr=self.learning_rate, eps=self.epsilon, alpha=0.99)

    def learning_rate_at(self, progress: float) -> float:
        """The learning rate after a fraction `progress` of the run."""
        left = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}
        fraction = self.final_fraction if self.schedule != "constant" else 0.0
        return self.learning_rate * (fraction + (1 - fraction) * left[self.schedule])


class Diverged(Exception):
    """The loss or its gradient is not finite."""


class Learner:
    """Holds the policy, the optimiser and the count of updates; `agent.loss` says what is learned."""

    def __init__(self, policy: Policy, agent, optim: OptimConfig):
        self.policy, self.agent, self.optim = policy, agent, optim
        self.optimizer = optim.build(policy.parameters())
        self.updates = 0

    def update(self, rollout: Rollout, progress: float = 0.0) -> dict[str, Tensor]:
        """One step down the gradient of the loss of each part of the rollout, after a fraction `progress` of the run.

        Returns: means over the parts of named scalars, still on the device.
        """
        learning_rate = self.optim.learning_rate_at(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        parts = rollout.split(self.optim.minibatches) if self.optim.minibatches > 1 else [rollout]
        results = [self._minimise(part) for part in parts]
        return {name: torch.stack([result[name] for result in results]).mean() for name in results[0]}

    def _minimise(self, rollout: Rollout) -> dict[str, Tensor]:
        loss, metrics = self.agent.loss(self.policy, rollout)
        self.optimizer.zero_grad()
        loss.backward()
        parameters = [p for p in self.policy.parameters() if p.grad is not None]
        grad_norm = nn.utils.get_total_norm([p.grad for p in parameters])
        if self.optim.max_grad_norm is not None:
            finite = grad_norm.nan_to_num(0.0, posinf=0.0)  # scaling by NaN would hide from `check` where it arose
            nn.utils.clip_grads_with_norm_(parameters, self.optim.max_grad_norm, finite)
        self.optimizer.step()
        self.updates += 1
        return {"loss": loss.detach(), **metrics, "grad_norm": grad_norm}

    def check(self, metrics: dict[str, Tensor]) -> None:
        """Raise Diverged, naming the parameters concerned, unless the last update was finite."""
        if math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"]):
            return
        gradients = {name: p.grad for name, p in self.policy.named_parameters() if p.grad is not None}
        broken = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
        where = "every parameter" if len(broken) == len(gradients) else ", ".join(broken) or "no parameter"
        raise Diverged(
            f"update {self.updates}: the loss is {float(metrics['loss'])}, the gradient is not finite in {where}; "
            "try a lower --optim.learning-rate or --optim.max-grad-norm"
        )

    def state_dict(self) -> dict:
        return {
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict) -> None:
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]
