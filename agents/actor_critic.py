"""What the losses of actor-critic agents share: costs, and their sum over a rollout."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from engram import ranks
from engram.agents.rollout import Rollout
from engram.flags import Flags
from engram.policies import Policy


class Targets(NamedTuple):
    """What the steps of a rollout teach, each [T, B] and without gradient."""

    returns: Tensor  # what the baseline should have said
    advantages: Tensor  # how much better the action was than expected
    mask: Tensor  # bool; the steps that teach


@dataclass(frozen=True)
class ActorCritic(Flags):
    """Costs of a loss over the steps of episodes in a rollout. Subclasses say what those steps teach."""

    section: ClassVar[str] = "agent"

    discount: float = 0.99
    """gamma"""
    baseline_cost: float = 0.5
    """weight of the squared error of the baseline: half of what it is in programs that halve the square"""
    entropy_cost: float = 0.01
    """weight of the policy's entropy, in nats"""
    aux_cost: float = 1.0
    """weight of the core's own losses, where it has any"""
    reward_clip: float | None = None
    """largest size of a reward in the loss, before it is scaled; None for no limit; scores stay as they are"""
    reward_scale: float = 1.0
    """factor of rewards in the loss, so that one set of costs fits games of any currency; scores stay unscaled"""
    trace_decay: float = 1.0
    """lambda of returns: below 1, more of the baseline and less of the rewards' noise"""
    reduction: Literal["mean", "sum"] = "mean"
    """of the loss, over steps; a sum grows with the rollout, and so does its gradient"""

    def __post_init__(self):
        for name in ("baseline_cost", "entropy_cost", "aux_cost", "reward_scale"):
            self.require(math.isfinite(getattr(self, name)), name, "finite")
        for name in ("discount", "trace_decay"):
            self.require(0 <= getattr(self, name) <= 1, name, "between 0 and 1")
        self.require(self.reward_clip is None or self.reward_clip > 0, "reward_clip", "above 0, or None")

    def targets(self, rollout: Rollout, rewards: Tensor, log_rhos: Tensor, baseline: Tensor) -> Targets:
        """What a rollout teaches.

        Args: rewards: those of the rollout, clamped and scaled, [T, B].
              log_rhos: log pi(a|x) - log mu(a|x), of the policy that learns and the one that played, [T, B].
              baseline: values of all observations, [T + 1, B].
        """
        raise NotImplementedError

    def discounts(self, rollout: Rollout) -> Tensor:
        """gamma, and 0 where the step terminated its episode, [T, B]."""
        return self.discount * ~rollout.terminated

    def loss(self, policy: Policy, rollout: Rollout) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a rollout that `policy`, or the same some updates ago, has played; and its parts by name.

        The parts are means over steps, whatever the reduction. Where there are several ranks, each returns its share of
        a sum, which is the loss, or the mean, over the steps of all.
        """
        aux_losses = policy.core.aux_losses
        output, _ = policy(rollout.inputs, rollout.initial_state, aux_losses)
        logits, baseline = output.policy_logits[:-1], output.baseline
        log_probs = policy.actions.log_prob(logits, rollout.action)
        with torch.no_grad():
            rewards = rollout.reward
            if self.reward_clip is not None:
                rewards = rewards.clamp(-self.reward_clip, self.reward_clip)
            log_rhos = log_probs - policy.actions.log_prob(rollout.behaviour_logits, rollout.action)
            returns, advantages, mask = self.targets(rollout, self.reward_scale * rewards, log_rhos, baseline)
        num_steps = ranks.total(mask.sum())
        weights = mask / num_steps.clamp(min=1)

        parts = {
            "policy_loss": -(weights * log_probs * advantages).sum(),
            "baseline_loss": (weights * (returns - baseline[:-1]).square()).sum(),
            "entropy": (weights * policy.actions.entropy(logits)).sum(),
        }
        parts |= {name: (weights * output.report[name][:-1]).sum() for name in aux_losses}
        loss = parts["policy_loss"] + self.baseline_cost * parts["baseline_loss"]
        loss = loss - self.entropy_cost * parts["entropy"] + self.aux_cost * sum(parts[name] for name in aux_losses)
        if self.reduction == "sum":
            loss = loss * num_steps
        return loss, {name: part.detach() for name, part in parts.items()}
