"""What all fast weight programmers share: Transformer blocks with a fast net in the place of attention.

In each layer and head, slow weights read off the keys, values, queries and write strengths by which a fast weight
matrix is rewritten at every step (Schlag, Irie & Schmidhuber 2021; Irie, Schlag, Csordas & Schmidhuber 2021). A fast
net hears of other steps through its own state alone, so that a layer runs over the whole sequence before the next.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engram.policies.core import Core, CoreConfig, CoreOutput, may_be_any
from engram.policies.delta_rule import Write
from engram.policies.key_maps import Phi, phi


class Access(NamedTuple):
    """What a step did to one memory, for the reports; the memory is the one after the write."""

    write: Write
    query: Tensor
    memory: Tensor


class Layer(nn.Module):
    """One block; `fast` holds the slow parameters of the fast net, if it has any."""

    def __init__(self, config: "FastWeightProgrammer.Config", rows: int, fast: nn.Module):
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_heads
        self.scale = 1 if config.out_scale == "none" else 1 / math.sqrt(config.head_size)
        self.norm = nn.LayerNorm(width)
        self.slow = nn.Linear(width, config.num_heads * rows, bias=False)
        self.fast = fast
        self.out = nn.Linear(width, width, bias=False)
        self.ff_norm = nn.LayerNorm(width)
        self.ff_in = nn.Linear(width, config.ff_size)
        self.ff_out = nn.Linear(config.ff_size, width)

    def program(self, z: Tensor) -> Tensor:
        """z [..., W] -> what each head's fast net is told, [..., A, P]."""
        return self.slow(self.norm(z)).unflatten(-1, (self.num_heads, -1))

    def combine(self, z: Tensor, heads: Tensor) -> Tensor:
        """z [..., W] and the outputs of the fast nets [..., A, d] -> the next layer's z."""
        z = z + self.out(self.scale * heads.flatten(-2))
        return z + self.ff_out(self.ff_in(self.ff_norm(z)).relu())


class FastWeightProgrammer(Core):
    """A stack of such layers; output size Y = hidden_size = W, heads A of size d = W / A.

    Subclasses define `State`, whose leaves are [B, n, A, ...] and zero at the start of an episode, and the fast net by
    the methods `widths`, `shapes`, `fast_parameters`, `fast_step` and `fast_sequence`.

    Parameters, in order: input.weight [W, D] and bias; per layer norm (gain, offset), slow.weight [A P, W] with the P
    rows of a head together, those of the fast net, out.weight [W, W], ff_norm, ff_in.weight [ff, W] and bias,
    ff_out.weight [W, ff] and bias. A layer has W A P + W^2 + 4 W + 2 W ff + ff + W numbers and those of its fast net.
    """

    @dataclass(frozen=True)
    class Config(CoreConfig):
        hidden_size: int = 128
        """width W of the layers and of the output"""
        num_layers: int = 2
        """layers n"""
        num_heads: int = 4
        """heads A of each layer, each with fast weights of its own for W / A units"""
        ff_size: int = 512
        """hidden units of the feed-forward part of a layer"""
        phi: Phi = "elu1-sum"
        """map of keys and queries: elu + 1 divided by its sum, softmax, or SiLU divided by its Euclidean length"""
        bptt: Literal["full", "step"] = "full"
        """gradients through all steps, or none from a step to those before it, as in the authors' Atari agents"""
        out_scale: Literal["none", "rsqrt"] = "none"
        """scale the outputs of the fast nets by 1 / sqrt(d), as the authors' language models do"""

        def __post_init__(self):
            super().__post_init__()
            multiple = f"a multiple of num_heads={self.num_heads}"
            self.require(self.hidden_size % self.num_heads == 0, "hidden_size", multiple)

        @property
        def head_size(self) -> int:
            return self.hidden_size // self.num_heads

    State: ClassVar[type[tuple]]

    diagnostics = ("query", "key", "beta", "write_strength", "memory_norm")
    """[T, B, n, A, m, d] twice, then [T, B, n, A, m] thrice, for the m memories of a fast net: beta, beta |k|^2, |M|.
    Of memories with keys of unlike width, the narrower are followed by zeros."""

    def __init__(self, input_size: int, config: Config):
        super().__init__()
        self.config = config
        self.input_size, self.output_size = input_size, config.hidden_size
        self.input = nn.Linear(input_size, config.hidden_size)
        rows = sum(self.widths())
        self.layers = nn.ModuleList(Layer(config, rows, self.fast_parameters()) for _ in range(config.num_layers))

    def widths(self) -> list[int]:
        """Sizes of the parts of a program, P in sum."""
        raise NotImplementedError

    def shapes(self) -> list[tuple[int, ...]]:
        """Of the leaves of the state, for one head."""
        raise NotImplementedError

    def fast_parameters(self) -> nn.Module:
        """Slow parameters of one layer's fast nets."""
        return nn.Module()

    def fast_step(self, fast: nn.Module, program: Tensor, state: tuple) -> tuple[Tensor, tuple, list[Access]]:
        """One step of a layer: program [B, A, P], leaves [B, A, ...] -> outputs [B, A, d], new leaves, what was done.

        Without gradients the leaves may be overwritten.
        """
        raise NotImplementedError

    def fast_sequence(
        self, fast: nn.Module, program: Tensor, state: tuple, starts: Tensor | None
    ) -> tuple[Tensor, tuple]:
        """`fast_step` over program [T, B, A, P] -> outputs [T, B, A, d], the last leaves."""
        return self.scan(fast, program, state, starts)

    def scan(self, fast: nn.Module, program: Tensor, state: tuple, starts: Tensor | None) -> tuple[Tensor, tuple]:
        """The literal form of `fast_sequence`."""
        if not torch.is_grad_enabled():
            state = self.State(*(leaf.clone() for leaf in state))
        resets = starts is not None and may_be_any(starts)
        outputs = []
        for t, told in enumerate(program.unbind(0)):
            if resets:
                state = self.State(*(leaf.masked_fill(_as(starts[t], leaf), 0) for leaf in state))
            output, state, _ = self.fast_step(fast, told, self._cut(state))
            outputs.append(output)
        return torch.stack(outputs), state

    def initial_state(self, batch_size: int) -> tuple:
        leading = batch_size, self.config.num_layers, self.config.num_heads
        return self.State(*(self.input.weight.new_zeros(*leading, *shape) for shape in self.shapes()))

    def step(self, x: Tensor, state: tuple, report: tuple[str, ...] = (), donate: bool = False) -> CoreOutput:
        if not torch.is_grad_enabled():
            state = self.State(*(leaf.contiguous() if donate else leaf.clone() for leaf in state))
        z, states, diagnosed = self.input(x), [], []
        for layer, old in zip(self.layers, self._by_layer(state), strict=True):
            output, new, accesses = self.fast_step(layer.fast, layer.program(z), self._cut(old))
            z = layer.combine(z, output)
            states.append(new)
            diagnosed.append({name: torch.stack(_diagnose(name, accesses), 2) for name in report})
        leaves = zip(state, zip(*states, strict=True), strict=True)
        state = self.State(*(restack(leaf, parts, 1) for leaf, parts in leaves))
        return CoreOutput(z, state, {name: torch.stack([d[name] for d in diagnosed], 1) for name in report})

    def sequence(
        self, xs: Tensor, state: tuple, episode_starts: Tensor | None, report: tuple[str, ...], donate: bool
    ) -> CoreOutput:
        if report or len(xs) == 1:
            return self.loop(xs, state, episode_starts, report, donate)
        run = self.scan if self.config.bptt == "step" and torch.is_grad_enabled() else self.fast_sequence
        z, states = self.input(xs), []
        for layer, old in zip(self.layers, self._by_layer(state), strict=True):
            outputs, new = run(layer.fast, layer.program(z), old, episode_starts)
            z = layer.combine(z, outputs)
            states.append(new)
        return CoreOutput(z, self.State(*(torch.stack(leaves, 1) for leaves in zip(*states, strict=True))), {})

    def _by_layer(self, state: tuple) -> list[tuple]:
        return [self.State(*leaves) for leaves in zip(*(leaf.unbind(1) for leaf in state), strict=True)]

    def _cut(self, state: tuple) -> tuple:
        if self.config.bptt == "full":
            return state
        return self.State(*(leaf.detach() for leaf in state))

    def _phi(self, x: Tensor) -> Tensor:
        return phi(x, self.config.phi)


def restack(leaf: Tensor, parts: tuple[Tensor, ...], dim: int) -> Tensor:
    """`parts` along dim; without gradients in the place of `leaf`, of which some may be overwritten views already."""
    if torch.is_grad_enabled():
        return torch.stack(parts, dim)
    for old, new in zip(leaf.unbind(dim), parts, strict=True):
        if new.data_ptr() != old.data_ptr():
            old.copy_(new)
    return leaf


def _as(starts: Tensor, leaf: Tensor) -> Tensor:
    return starts.view(-1, *[1] * (leaf.dim() - 1))


def _diagnose(name: str, accesses: list[Access]) -> list[Tensor]:
    """One report, without gradient, of each memory."""
    found = {
        "query": lambda a: a.query,
        "key": lambda a: a.write.key,
        "beta": lambda a: a.write.rate,
        "write_strength": lambda a: _rate(a.write) * a.write.key.square().sum(-1),
        "memory_norm": lambda a: torch.linalg.matrix_norm(a.memory),
    }
    reports = [found[name](access).detach() for access in accesses]
    width = max(x.shape[-1] for x in reports)
    return [F.pad(x, (0, width - x.shape[-1])) for x in reports]


def _rate(write: Write) -> Tensor | float:
    return 1.0 if write.rate is None else write.rate
