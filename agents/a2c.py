"""Advantage actor-critic, synchronous (Mnih et al. 2016)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from engram.agents.actor_critic import ActorCritic, Targets
from engram.agents.returns import monte_carlo_returns, n_step_returns
from engram.agents.rollout import Rollout


@dataclass(frozen=True)
class A2C(ActorCritic):
    """Learns from rollouts that the policy itself has just played."""

    returns: Literal["n-step", "monte-carlo"] = "n-step"
    """bootstrap where the rollout ends, or learn from episodes that terminate inside it alone"""

    def targets(self, rollout: Rollout, rewards: Tensor, log_rhos: Tensor, baseline: Tensor) -> Targets:
        mask, discounts = rollout.mask, self.discounts(rollout)
        if self.returns == "n-step":
            returns = n_step_returns(rewards, discounts, baseline, mask, self.trace_decay)
        else:
            returns, mask = monte_carlo_returns(rewards, discounts, rollout.terminated, mask)
        return Targets(returns, returns - baseline[:-1], mask)
