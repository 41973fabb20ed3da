"""Returns over a rollout whose steps may only reset an environment. All arguments and results are [T, B]."""

import torch
from torch import Tensor


def n_step_returns(
    rewards: Tensor, discounts: Tensor, values: Tensor, mask: Tensor, trace_decay: float = 1.0
) -> Tensor:
    """Discounted sums of rewards to the end of the rollout or episode, then the value there; or their lambda-returns.

    Args:    discounts: gamma, and 0 where the step terminated its episode.
             values: [T + 1, B]; the last row values the state after the rollout.
             mask: whether the step is one of an episode. Where it is not, values[t] belongs to the last observation
             of an episode: what a truncated one is still worth.
             trace_decay: lambda, the weight of what follows against the value of the next state (Schulman et al.
             2016); 1 uses rewards alone.
    Returns: R_t = r_t + discount_t ((1 - lambda) values_{t+1} + lambda R_{t+1}), without gradient; meaningless where
             mask is false.
    """
    values = values.detach()
    returns, following = torch.empty_like(rewards), values[-1]
    for t in reversed(range(len(rewards))):
        following = torch.lerp(values[t + 1], following, trace_decay)
        following = torch.where(mask[t], rewards[t] + discounts[t] * following, values[t])
        returns[t] = following
    return returns


def monte_carlo_returns(rewards: Tensor, discounts: Tensor, terminated: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Discounted sums of rewards to the end of the episode, without any value.

    Returns: the returns, and whether they are whole: the episode terminated within the rollout.
    """
    returns, whole = torch.empty_like(rewards), torch.empty_like(mask)
    following, ends = torch.zeros_like(rewards[0]), torch.zeros_like(mask[0])
    for t in reversed(range(len(rewards))):
        following = rewards[t] + discounts[t] * following
        ends = mask[t] & (terminated[t] | ends)
        returns[t], whole[t] = following, ends
    return returns, whole
