"""IMPALA's learner: an actor-critic whose rollouts may come from an older policy (Espeholt et al. 2018)."""

from dataclasses import dataclass

from torch import Tensor

from engram.agents.actor_critic import ActorCritic, Targets
from engram.agents.returns import vtrace
from engram.agents.rollout import Rollout


@dataclass(frozen=True)
class IMPALA(ActorCritic):
    """Corrects for the policy's lag behind the learner by V-trace; without lag this is A2C."""

    rho_bar: float | None = 1.0
    """bound of the importance ratio that weighs a step's own error; None for no bound"""
    c_bar: float | None = 1.0
    """bound of the importance ratio that passes on the errors of later steps; None for no bound"""
    pg_rho_bar: float | None = 1.0
    """bound of the importance ratio that weighs an advantage; None for no bound"""

    def __post_init__(self):
        super().__post_init__()
        for name in ("rho_bar", "c_bar", "pg_rho_bar"):
            bound = getattr(self, name)
            self.require(bound is None or bound > 0, name, "above 0, or None")

    def targets(self, rollout: Rollout, rewards: Tensor, log_rhos: Tensor, baseline: Tensor) -> Targets:
        bounds = self.rho_bar, self.c_bar, self.pg_rho_bar
        discounts, mask = self.discounts(rollout), rollout.mask
        vs, pg_advantages = vtrace(log_rhos, rewards, discounts, baseline, mask, self.trace_decay, *bounds)
        return Targets(vs, pg_advantages, mask)
