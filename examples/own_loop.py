"""A learner of one's own, in the manner of CleanRL: Gymnasium, plain PyTorch and a GRU."""

import gymnasium
import torch
from torch import nn
from torch.distributions import Categorical


def main(total_steps: int = 1_000_000, num_envs: int = 128, T: int = 30) -> float:
    """Mean return of the last episodes."""
    torch.manual_seed(0)
    envs = gymnasium.make_vec("engram:engram/GraphPOMDP-v0", num_envs)  # every episode lasts T steps
    cell, head = nn.GRUCell(17, 64), nn.Linear(64, 3)
    optimizer = torch.optim.Adam([*cell.parameters(), *head.parameters()], lr=3e-3)
    discounts = (0.9 ** (torch.arange(T) - torch.arange(T)[:, None])).triu()  # [T, T]: of rewards now and later
    obs, _ = envs.reset(seed=0)
    for _ in range(0, total_steps, num_envs * T):
        hidden, steps = torch.zeros(num_envs, 64), []
        for _ in range(T):
            hidden = cell(torch.from_numpy(obs), hidden)
            policy = Categorical(logits=head(hidden))
            action = policy.sample()
            obs, reward, *_ = envs.step(action.numpy())
            steps.append((policy.log_prob(action), policy.entropy(), torch.tensor(reward, dtype=torch.float32)))
        obs, *_ = envs.step(action.numpy())  # NEXT_STEP autoreset: this step only starts the next episodes
        log_probs, entropies, rewards = (torch.stack(x) for x in zip(*steps, strict=True))
        returns = discounts @ rewards / 10
        optimizer.zero_grad()
        (-log_probs * (returns - returns.mean(1, keepdim=True)) - 0.04 * entropies).mean().backward()
        optimizer.step()
    return rewards.sum(0).mean().item()


if __name__ == "__main__":
    print(f"return on training graphs: {main():.1f}")
