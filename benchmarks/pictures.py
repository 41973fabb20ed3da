"""Pictures of the environments for envs/README.md: `python -m benchmarks.pictures` redraws them.

Each shows one member after some steps of a reference policy.
"""

from pathlib import Path

import matplotlib.image
import numpy as np

from engram.envs import ENVS, make_vec, reference_policies

FOLDER = Path(__file__).resolve().parent.parent / "envs" / "pictures"
PLAYERS = {"graph-pomdp": "explorer", "maze": "explorer", "mini-pacman": "greedy", "boxworld": "explorer"}
STEPS = 12


def draw(name: str) -> Path:
    """Write envs/pictures/NAME.png."""
    envs = make_vec(name, 1, render_mode="rgb_array")
    policy = reference_policies(name)[PLAYERS[name]](envs, 0)
    observation, _ = envs.reset(seed=10)
    starts = np.ones(1, bool)
    for _ in range(STEPS):
        observation, *_ = envs.step(policy(observation, starts))
        starts = np.zeros(1, bool)
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.png"
    matplotlib.image.imsave(path, envs.render()[0])
    return path


if __name__ == "__main__":
    for name in ENVS:
        print(draw(name))
