"""An environment of Engram through Gymnasium alone: all members in one call, no torch."""

import gymnasium
import numpy as np
from gymnasium.wrappers.vector import RecordEpisodeStatistics


def main(total_steps: int = 100_000, num_envs: int = 64) -> float:
    """Mean return of random actions."""
    envs = gymnasium.make_vec("engram:engram/GraphPOMDP-v0", num_envs, split="test")
    envs = RecordEpisodeStatistics(envs, buffer_length=10_000)
    envs.reset(seed=0)
    envs.action_space.seed(0)
    for _ in range(0, total_steps, num_envs):
        envs.step(envs.action_space.sample())  # the step after an episode's last one starts the next
    return float(np.mean(envs.return_queue))


if __name__ == "__main__":
    print(f"return of random actions: {main():.1f}")
