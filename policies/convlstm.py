"""Convolutional LSTM (Shi et al. 2015) without peepholes, a baseline of Santoro et al. 2018 (App. A.3)."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engram.policies.core import Core, CoreConfig, CoreOutput


class ConvLSTM(Core):
    """Maps of C = channels; an input is M maps [M, h, w] in one row; output size Y = C h w.

    Behind its maps an input may have K < h w more numbers, such as the previous action: each is spread over a map of
    its own. D = M h w + K, Cin = M + K.

    Parameters, in order: kernel_x [4C, Cin, k, k], kernel_h [4C, C, k, k], bias [4C]; gate rows i, j, f, o. Together
    4C ((Cin + C) k^2 + 1) numbers.
    """

    @dataclass(frozen=True)
    class Config(CoreConfig):
        channels: int = 64
        """maps C of the output and of the cell; the state holds 2 C h w numbers"""
        height: int = 1
        """rows h of a map; 5 in the paper"""
        width: int = 1
        """columns w of a map; 5 in the paper"""
        kernel_size: int = 2
        """rows and columns k of a kernel; a map is padded to keep its size, at the bottom and at the right first"""
        forget_bias: float = 1.0
        """constant added inside the forget gate"""

        @property
        def map_shape(self) -> tuple[int, int] | None:
            return None if self.height * self.width == 1 else (self.height, self.width)

        def build(self, input_size: int) -> "ConvLSTM":
            for field in ("height", "width"):
                most = input_size if field == "height" else input_size // self.height
                demand = f"at most {most}, as inputs have {input_size} numbers"
                self.require(getattr(self, field) <= most, field, demand)
            return ConvLSTM(input_size, self)

    class State(NamedTuple):
        h: Tensor  # [B, C, h, w]
        c: Tensor  # [B, C, h, w]

    diagnostics = ("memory_norm",)
    """|c| [T, B]"""

    def __init__(self, input_size: int, config: Config):
        super().__init__()
        self.config = config
        C, k, positions = config.channels, config.kernel_size, config.height * config.width
        self.input_size, self.output_size = input_size, C * positions
        self.num_spread = input_size % positions

        def kernel(inputs: int) -> nn.Parameter:
            std = 1 / math.sqrt(inputs * k * k)
            return nn.Parameter(nn.init.trunc_normal_(torch.empty(4 * C, inputs, k, k), std=std, a=-2 * std, b=2 * std))

        self.kernel_x = kernel(input_size // positions + self.num_spread)
        self.kernel_h = kernel(C)
        self.bias = nn.Parameter(torch.zeros(4 * C))

    def initial_state(self, batch_size: int) -> State:
        config = self.config
        zeros = self.bias.new_zeros(2, batch_size, config.channels, config.height, config.width)
        return self.State(*zeros)

    def step(self, x: Tensor, state: State, report: tuple[str, ...] = (), donate: bool = False) -> CoreOutput:
        y, state, _ = self._advance(self._read(x), state)
        # a donated state's maps are changed in place, and the outputs would be the same numbers
        return CoreOutput(y.clone(), state, {name: state.c.detach().flatten(1).norm(dim=1) for name in report})

    def sequence(
        self, xs: Tensor, state: State, episode_starts: Tensor | None, report: tuple[str, ...], donate: bool
    ) -> CoreOutput:
        """The inputs of all steps in one convolution."""
        if report:
            return self.loop(xs, state, episode_starts, report, donate)
        ys = []
        for t, given in enumerate(self._read(xs.flatten(0, 1)).unflatten(0, xs.shape[:2]).unbind()):
            if episode_starts is not None:
                state = self.reset(state, episode_starts[t], donate and t == 0)
            y, state, _ = self._advance(given, state)
            ys.append(y)
        return CoreOutput(torch.stack(ys), state, {})

    def _read(self, x: Tensor) -> Tensor:
        """What inputs [N, D] add to the gates, [N, 4 C, h, w]."""
        size = self.config.height, self.config.width
        maps = x[:, : x.shape[1] - self.num_spread].unflatten(1, (-1, *size))
        if self.num_spread:
            maps = torch.cat([maps, x[:, -self.num_spread :, None, None].expand(-1, -1, *size)], 1)
        return F.conv2d(self._pad(maps), self.kernel_x, self.bias)

    def _advance(self, given: Tensor, state: State) -> CoreOutput:
        i, j, f, o = (given + F.conv2d(self._pad(state.h), self.kernel_h)).chunk(4, dim=1)
        c = torch.sigmoid(f + self.config.forget_bias) * state.c + torch.sigmoid(i) * torch.tanh(j)
        h = torch.tanh(c) * torch.sigmoid(o)
        return CoreOutput(h.flatten(1), self.State(h, c), {})

    def _pad(self, maps: Tensor) -> Tensor:
        before = (self.config.kernel_size - 1) // 2
        after = self.config.kernel_size - 1 - before
        return F.pad(maps, (before, after, before, after))
