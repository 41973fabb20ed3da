"""Recurrent network with plastic weights (Miconi, Clune & Stanley 2018; modulated: Miconi et al. 2019).

Each recurrent weight is a fixed part and a Hebbian trace of its own, in a proportion that is learned.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engram.policies import plastic_kernel, rows
from engram.policies.core import Core, CoreConfig, CoreOutput


class Plastic(Core):
    """y' = tanh(W_x x + b + (w + alpha * Hb) y); output size Y = hidden_size = n.

    Parameters, in order: weight_ih [n, D], bias [n], weight_hh [n, n], alpha ([n, n] or one number), eta (one number),
    modulator.weight [1, n] and bias. What a configuration has no use for it does not have: n (D + 1) + 2 n^2 + 1
    numbers by default.
    """

    @dataclass(frozen=True)
    class Config(CoreConfig):
        hidden_size: int = 100
        """units n; the state holds n + n * n numbers"""
        alpha: Literal["full", "scalar", "none"] = "full"
        """plasticity of each weight, one for all of them, or an ordinary recurrent network"""
        rule: Literal["hebb", "oja", "clip"] = "oja"
        """how the traces stay bounded: they decay, they decay with the output (Oja 2008), or they are cut off at +-1"""
        modulation: Literal["none", "rate", "trace"] = "none"
        """the rate eta is learned; or it is m = tanh(w_M y + b_M) at each step; or m gates what an eligibility trace of
        rate eta has collected (2019)"""

        def __post_init__(self):
            super().__post_init__()
            plastic = self.alpha != "none"
            self.require(plastic or self.modulation == "none", "modulation", "none where alpha='none'")
            self.require(self.modulation != "trace" or self.rule == "clip", "rule", "clip where modulation='trace'")

        def build(self, input_size: int) -> "Plastic":
            return Plastic(input_size, self)

    class State(NamedTuple):
        y: Tensor  # [B, n]
        trace: Tensor  # Hb, [B, n, n]: unit after, unit before

    class FixedState(NamedTuple):
        """without plasticity"""

        y: Tensor  # [B, n]

    class EligibilityState(NamedTuple):
        """with modulated eligibility traces"""

        y: Tensor  # [B, n]
        trace: Tensor  # Hb, [B, n, n]
        eligibility: Tensor  # E, [B, n, n]

    diagnostics = ("eta", "trace_size", "memory_norm", "modulator")
    """[T, B] each: the rate; mean of |Hb_ij|; |Hb|, or |y| without plasticity; with modulation tanh(w_M y + b_M)."""

    def __init__(self, input_size: int, config: Config):
        super().__init__()
        self.config = config
        n = self.output_size = config.hidden_size
        self.input_size, bound = input_size, 1 / math.sqrt(input_size)
        self.weight_ih = nn.Parameter(torch.empty(n, input_size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n).uniform_(-bound, bound))
        self.weight_hh = nn.Parameter(0.01 * torch.rand(n, n))
        if config.alpha != "none":
            self.alpha = nn.Parameter(0.01 * torch.rand((n, n) if config.alpha == "full" else ()))
            if config.modulation != "rate":
                self.eta = nn.Parameter(torch.tensor(0.01))
        if config.modulation != "none":
            self.modulator = nn.Linear(n, 1)
        absent = () if config.modulation != "none" else ("modulator",)
        absent += () if config.alpha != "none" else ("eta", "trace_size")
        self.diagnostics = tuple(name for name in type(self).diagnostics if name not in absent)

    def initial_state(self, batch_size: int) -> State | FixedState | EligibilityState:
        n = self.config.hidden_size
        y, trace = self.weight_hh.new_zeros(batch_size, n), self.weight_hh.new_zeros(batch_size, n, n)
        if self.config.alpha == "none":
            return self.FixedState(y)
        if self.config.modulation == "trace":
            return self.EligibilityState(y, trace, torch.zeros_like(trace))  # each is changed in place where donated
        return self.State(y, trace)

    def step(self, x: Tensor, state: tuple, report: tuple[str, ...] = (), donate: bool = False) -> CoreOutput:
        config, before, diagnosed = self.config, state.y, {}
        given = F.linear(x, self.weight_ih, self.bias)
        if config.alpha == "none":
            y = torch.tanh(given + F.linear(before, self.weight_hh))
            return CoreOutput(y, self.FixedState(y), {name: y.detach().norm(dim=1) for name in report})
        weights = self.weight_hh + self.alpha * state.trace
        y = torch.tanh(given + (weights @ before[:, :, None])[:, :, 0])
        after, product, trace = y[:, :, None], y[:, :, None] * before[:, None, :], state.trace
        if config.modulation != "none":
            diagnosed["modulator"] = torch.tanh(self.modulator(y))[:, 0]
        eta = diagnosed["modulator"][:, None, None] if config.modulation == "rate" else self.eta
        if config.modulation == "trace":
            trace = (trace + diagnosed["modulator"][:, None, None] * state.eligibility).clamp(-1, 1)
            after_state = self.EligibilityState(y, trace, (1 - eta) * state.eligibility + eta * product)
        else:
            if config.rule == "hebb":
                trace = (1 - eta) * trace + eta * product
            elif config.rule == "oja":
                trace = trace + eta * after * (before[:, None, :] - after * trace)
            else:
                trace = (trace + eta * product).clamp(-1, 1)
            after_state = self.State(y, trace)
        if report:
            diagnosed |= {"trace_size": trace.abs().mean((1, 2)), "memory_norm": torch.linalg.matrix_norm(trace)}
            diagnosed["eta"] = eta.expand(len(y), 1, 1)[:, 0, 0]
        return CoreOutput(y, after_state, {name: diagnosed[name].detach() for name in report})

    def sequence(
        self, xs: Tensor, state: tuple, episode_starts: Tensor | None, report: tuple[str, ...], donate: bool
    ) -> CoreOutput:
        """Inputs projected for all steps at once, and half as many passes over the traces as the literal step makes; on
        the CPU and without gradient a single one."""
        if report:
            return self.loop(xs, state, episode_starts, report, donate)
        config, ys = self.config, []
        given = F.linear(xs, self.weight_ih, self.bias).unbind()
        if config.alpha != "none" and rows.acts(*given, *state):
            return self._act(given, state, episode_starts, donate)
        for t, added in enumerate(given):
            if episode_starts is not None:
                state = self.reset(state, episode_starts[t])
            before = state.y
            if config.alpha == "none":
                state = self.FixedState(torch.addmm(added, before, self.weight_hh.T).tanh())
            else:
                weights = torch.addcmul(self.weight_hh, self.alpha, state.trace)
                y = torch.baddbmm(added[:, :, None], weights, before[:, :, None])[:, :, 0].tanh()
                state = self._plasticity(y, state)
            ys.append(state.y)
        return CoreOutput(torch.stack(ys), state, {})

    def _act(self, given: tuple[Tensor, ...], state: tuple, starts: Tensor | None, donate: bool) -> CoreOutput:
        """`forward` without gradient, in place: the compiled step for each of `given`."""
        config, n, ys = self.config, self.config.hidden_size, []
        y, *traces = (leaf.contiguous() for leaf in state)
        if not donate:
            traces = [leaf.clone() for leaf in traces]
        if starts is None:
            starts = y.new_zeros(len(given), len(y), dtype=torch.bool)
        modulator, eta = None, getattr(self, "eta", y.new_zeros(()))
        if config.modulation != "none":
            modulator = torch.cat([self.modulator.weight[0], self.modulator.bias])
        constants = self.weight_hh, self.alpha.expand(n, n).contiguous(), eta, modulator, config.rule
        trace, eligibility = traces if config.modulation == "trace" else (*traces, None)
        for added, start in zip(given, starts.unbind(), strict=True):
            y = plastic_kernel.step(added.contiguous(), y, start.contiguous(), *constants, trace, eligibility)
            ys.append(y)
        return CoreOutput(torch.stack(ys), type(state)(y, *traces), {})

    def _plasticity(self, y: Tensor, state: tuple) -> tuple:
        """The state after output y [B, n]: traces decay, and an outer product is added, in one pass each."""
        config, before = self.config, state.y[:, None, :]
        strength = torch.tanh(self.modulator(y)) if config.modulation != "none" else None  # [B, 1]
        if config.modulation == "trace":
            trace = torch.addcmul(state.trace, strength[:, :, None], state.eligibility).clamp(-1, 1)
            eligibility = torch.baddbmm((1 - self.eta) * state.eligibility, (self.eta * y)[:, :, None], before)
            return self.EligibilityState(y, trace, eligibility)
        eta = strength if config.modulation == "rate" else self.eta.expand(1, 1)
        kept = state.trace
        if config.rule != "clip":
            decay = eta if config.rule == "hebb" else eta * y.square()  # one, or one for each unit
            kept = (1 - decay)[:, :, None] * kept
        trace = torch.baddbmm(kept, (eta * y)[:, :, None], before)
        return self.State(y, trace.clamp(-1, 1) if config.rule == "clip" else trace)
