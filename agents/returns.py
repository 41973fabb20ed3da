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


def vtrace(
    log_rhos: Tensor,
    rewards: Tensor,
    discounts: Tensor,
    values: Tensor,
    mask: Tensor,
    trace_decay: float = 1.0,
    rho_bar: float | None = 1.0,
    c_bar: float | None = 1.0,
    pg_rho_bar: float | None = 1.0,
) -> tuple[Tensor, Tensor]:
    """V-trace: n-step returns for steps that another policy played (Espeholt et al. 2018, Eq. 1 and Section 4.2).

    Args:    log_rhos: log pi(a|x) - log mu(a|x), of the policy that learns and the one that played; 0 gives
             n_step_returns, and the other arguments are as there.
             rho_bar, c_bar: bounds of the ratios pi / mu that weigh a step's own error and pass on those after it.
             pg_rho_bar: bound of the ratio that weighs an advantage. Each may be None: no bound.
    Returns: vs, the targets of the baseline, and pg_advantages rho_t (r_t + discount_t ((1 - lambda) values_{t+1} +
             lambda vs_{t+1}) - values_t), without gradient; the latter meaningless where mask is false.
    """
    values, rhos = values.detach(), log_rhos.detach().exp()
    errors = rhos.clamp(0, rho_bar) * (rewards + discounts * values[1:] - values[:-1])
    errors = torch.where(mask, errors, 0)
    passed_on = torch.where(mask, trace_decay * discounts * rhos.clamp(0, c_bar), 0)
    vs, correction = values.clone(), torch.zeros_like(values[0])
    for t in reversed(range(len(rewards))):
        correction = errors[t] + passed_on[t] * correction
        vs[t] += correction
    following = torch.lerp(values[1:], vs[1:], trace_decay)
    pg_advantages = rhos.clamp(0, pg_rho_bar) * (rewards + discounts * following - values[:-1])
    return vs[:-1], pg_advantages


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
