"""Observations to features, chosen by the shape of the observation space."""

import math

from torch import Tensor, nn


class FlatEncoder(nn.Module):
    """Vectors and scalars as they are: [N, ...] -> float32 [N, E], E the number of entries."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.output_size = math.prod(shape)

    def forward(self, observation: Tensor) -> Tensor:
        return observation.reshape(len(observation), self.output_size).float()


def make_encoder(observation_space) -> nn.Module:
    """The encoder of a Gymnasium observation space; ValueError naming the space if there is none."""
    if type(observation_space).__name__ != "Box" or len(observation_space.shape) > 1:
        raise ValueError(f"there is no encoder for observations of {observation_space}; vectors (Box of one axis) work")
    return FlatEncoder(observation_space.shape)
