"""No memory: what is left of an agent when its core forgets everything, the baseline that memory has to beat."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from engram.policies.core import Core, CoreConfig, CoreOutput


class MLP(Core):
    """Layers with ReLU, each step by itself; output size Y = hidden_size = h. The state is empty.

    Parameters, in order: of each layer, weight [h, D or h] and bias. Together h (D + 1) + (num_layers - 1) h (h + 1)
    numbers.
    """

    @dataclass(frozen=True)
    class Config(CoreConfig):
        hidden_size: int = 256
        """units h of every layer"""
        num_layers: int = 1
        """layers, with a ReLU after each"""

        def build(self, input_size: int) -> "MLP":
            return MLP(input_size, self)

    class State(NamedTuple):
        pass

    def __init__(self, input_size: int, config: Config):
        super().__init__()
        self.config = config
        self.input_size, self.output_size = input_size, config.hidden_size
        widths = [input_size] + [config.hidden_size] * config.num_layers
        self.layers = nn.ModuleList(nn.Linear(*widths[i : i + 2]) for i in range(config.num_layers))

    def initial_state(self, batch_size: int) -> State:
        return self.State()

    def step(self, x: Tensor, state: State, report: tuple[str, ...] = (), donate: bool = False) -> CoreOutput:
        for layer in self.layers:
            x = layer(x).relu()
        return CoreOutput(x, state, {})

    def sequence(
        self, xs: Tensor, state: State, episode_starts: Tensor | None, report: tuple[str, ...], donate: bool
    ) -> CoreOutput:
        return self.step(xs, state)
