"""Batched environments with one member, as Gymnasium's single environments."""

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from engram.envs.batched import BatchedEnv


class SingleEnv(gymnasium.Env):
    """One member of a batched environment as a `gymnasium.Env`.

    Takes the options of its `vector_class` except `num_envs`, `autoreset_mode` and `copy`.
    """

    metadata = BatchedEnv.metadata
    vector_class: ClassVar[type[BatchedEnv]]

    def __init__(self, **options: Any):
        self.batch = self.vector_class(1, autoreset_mode=AutoresetMode.DISABLED, copy=True, **options)
        self.observation_space, self.action_space = self.batch.single_observation_space, self.batch.single_action_space
        self.render_mode = self.batch.render_mode
        self.metadata = self.metadata | {"needs_last_action": self.batch.metadata["needs_last_action"]}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Start a new episode.

        Args:
            seed: seeds the episode's stream; None continues it.
            options: `level_id` plays this level, `split` takes it from another split.

        Returns:
            observation and info of scalars.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        wrong = options.keys() - {"level_id", "split"}
        if wrong:
            raise ValueError(f"reset takes the options level_id, split; got {', '.join(sorted(wrong))}")
        if "level_id" in options:
            options["level_ids"] = [options.pop("level_id")]
        observations, info = self.batch.reset(seed=seed, options=options)
        return observations[0], _first(info)

    def step(self, action: int):
        """Play one step; see `BatchedEnv.step`."""
        observations, rewards, terminated, truncated, info = self.batch.step([action])
        return observations[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), _first(info)

    def render(self) -> np.ndarray | str | None:
        """What `render_mode` asks for; None without a render mode."""
        frames = self.batch.render()
        return None if frames is None else frames[0]


def _first(info: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: array[0].item() for name, array in info.items() if not name.startswith("_")}
