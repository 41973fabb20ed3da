"""Optimisation steps over a rollout."""

import torch
from torch import Tensor

from engram import ranks
from engram.agents.actor_critic import ActorCritic
from engram.agents.rollout import Rollout
from engram.optim import OptimConfig, check_finite, descend
from engram.policies import Policy
from engram.policies.tree import tree_map


class Learner:
    """Holds the policy, the optimiser and the count of updates; `agent.loss` says what is learned.

    Args: minibatches: parts of a rollout, by environments, that get an update each, one after the other.
    """

    def __init__(self, policy: Policy, agent: ActorCritic, optim: OptimConfig, minibatches: int = 1):
        self.policy, self.agent, self.optim, self.minibatches = policy, agent, optim, minibatches
        self.optimizer = optim.build(policy.parameters())
        self.updates = 0

    def update(self, rollout: Rollout, progress: float = 0.0) -> dict[str, Tensor]:
        """One step down the gradient of the loss of each part of the rollout, after a fraction `progress` of the run.

        Returns: means over the parts of named scalars, still on the device and the same in every rank.
        """
        parts = rollout.split(self.minibatches) if self.minibatches > 1 else [rollout]
        results = [self._minimise(part, progress) for part in parts]
        # only now: what was played by the old statistics is learned by them
        self.policy.observe(tree_map(lambda leaf: leaf[:-1], rollout.inputs), ranks.total)
        means = {name: torch.stack([result[name] for result in results]).mean() for name in results[0]}
        grad_norm = means.pop("grad_norm")  # of the gradients summed over ranks already
        sums = ranks.total(torch.stack(list(means.values())))
        return dict(zip(means, sums, strict=True)) | {"grad_norm": grad_norm}

    def _minimise(self, rollout: Rollout, progress: float) -> dict[str, Tensor]:
        loss, metrics = self.agent.loss(self.policy, rollout)
        grad_norm = descend(loss, self.policy, self.optimizer, self.optim, progress)
        self.updates += 1
        return {"loss": loss.detach(), **metrics, "grad_norm": grad_norm}

    def check(self, metrics: dict[str, Tensor]) -> None:
        """Raise Diverged, naming the parameters concerned, unless the last update was finite."""
        check_finite(self.updates, metrics["loss"], metrics["grad_norm"], self.policy)

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
