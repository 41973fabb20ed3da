"""Advantage actor-critic, synchronous (Mnih et al. 2016)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from engram.agents.returns import monte_carlo_returns, n_step_returns
from engram.agents.rollout import Rollout
from engram.policies import Policy
from engram.policies.policy import entropy, log_prob


@dataclass(frozen=True)
class A2C:
    """Costs of the loss, which is a mean over the steps of episodes in a rollout."""

    discount: float = 0.99
    """gamma"""
    baseline_cost: float = 0.5
    """weight of the squared error of the baseline"""
    entropy_cost: float = 0.01
    """weight of the policy's entropy, in nats"""
    reward_scale: float = 1.0
    """factor of rewards in the loss, so that one set of costs fits games of any currency; scores stay unscaled"""
    returns: Literal["n-step", "monte-carlo"] = "n-step"
    """bootstrap where the rollout ends, or learn from episodes that terminate inside it alone"""
    trace_decay: float = 1.0
    """lambda of n-step returns: below 1, more of the baseline and less of the rewards' noise"""
    aux_cost: float = 1.0
    """weight of the core's own losses, where it has any"""

    def __post_init__(self):
        for name in ("discount", "trace_decay"):
            if not 0 <= getattr(self, name) <= 1:
                flag = f"--agent.{name.replace('_', '-')}"
                raise ValueError(f"{name}={getattr(self, name)}, but it must be between 0 and 1 ({flag})")

    def loss(self, policy: Policy, rollout: Rollout) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a rollout that `policy`, or the same some updates ago, has played; and its parts by name."""
        aux_losses = policy.core.aux_losses
        output, _ = policy(rollout.inputs, rollout.initial_state, aux_losses)
        logits, baseline = output.policy_logits[:-1], output.baseline
        rewards = self.reward_scale * rollout.reward
        mask, discounts = rollout.mask, self.discount * ~rollout.terminated
        if self.returns == "n-step":
            returns = n_step_returns(rewards, discounts, baseline, mask, self.trace_decay)
        else:
            returns, mask = monte_carlo_returns(rewards, discounts, rollout.terminated, mask)
        weights = mask / mask.sum().clamp(min=1)

        advantages = returns - baseline[:-1]
        parts = {
            "policy_loss": -(weights * log_prob(logits, rollout.action) * advantages.detach()).sum(),
            "baseline_loss": (weights * advantages.square()).sum(),
            "entropy": (weights * entropy(logits)).sum(),
        }
        parts |= {name: (weights * output.report[name][:-1]).sum() for name in aux_losses}
        loss = parts["policy_loss"] + self.baseline_cost * parts["baseline_loss"]
        loss = loss - self.entropy_cost * parts["entropy"] + self.aux_cost * sum(parts[name] for name in aux_losses)
        return loss, {name: part.detach() for name, part in parts.items()}
