"""Metalearned Neural Memory (Munkhdalai, Sordoni, Wang & Trischler, NeurIPS 2019).

An LSTM writes to and reads from a small feed-forward network, whose weights are the memory: a step binds keys to values
by changing the weights, by one step of gradient descent (MNM-g) or by a learned local rule (MNM-p). The LSTM sees what
was read one step before, so that nothing but its input projection can leave the order of time.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from engram.policies import mnm_kernel, mnm_sequence, rows
from engram.policies.core import Core, CoreConfig, CoreOutput
from engram.policies.lstm import LSTM


class MNM(Core):
    """LSTM with a neural memory; output size Y, hidden_size = m, memory_size = d, num_heads = H, num_layers = L.

    Parameters, in order: those of an LSTM that reads D + d numbers, then interaction.weight [(3H + 1) d, m] (rows read
    keys, write keys, values, rate) and bias, rate.weight [1, d] and bias, output.weight [Y, m + d] (columns h, v_r) and
    bias and, of the perceptron rule, feedback.l.weight [d, d] and bias for each layer of the memory. The buffer
    initial_memory [L, d, d] is drawn once and never trained: learning it overfits (Sec. 3.5).
    The state holds 2m + d + L d^2 numbers.
    """

    @dataclass(frozen=True)
    class Config(CoreConfig):
        hidden_size: int = 200
        """units m of the LSTM"""
        output_size: int = 200
        """width Y of the output"""
        memory_size: int = 100
        """width d of keys, values and all layers of the memory"""
        num_layers: int = 3
        """layers L of the memory, each [d, d] without bias for each sequence"""
        num_heads: int = 3
        """pairs H that a step writes, and keys that it reads with"""
        rule: Literal["perceptron", "gradient"] = "perceptron"
        """how a step writes: each layer towards a learned target (MNM-p, Eq. 4) or down the gradient (MNM-g, Eq. 3)"""
        write_scale: float | None = None
        """factor of the rate in every write; none for 2 / (H d), the gradient of a mean over heads and entries, which
        stays bounded; Eqs. 2 and 4, taken literally, are 2 / H and 1 and blow up"""
        memory_output: Literal["linear", "tanh"] = "linear"
        """last layer of the memory; the others are tanh"""
        rate: Literal["shared", "layers", "learned"] = "shared"
        """the LSTM sets one rate for all layers of the memory or one for each, or each is a learned constant"""
        feedback: Literal["linear", "tanh"] = "linear"
        """targets that the perceptron rule has for hidden layers; those of the last layer are linear"""
        stop_target: bool = False
        """the meta loss does not move the values, only what is recalled of them"""
        recall_steps: int = 1
        """steps whose pairs the meta loss recalls: the last one and those before it in the episode (T + 1 in Eq. 5);
        more than 1 takes the slow way through a sequence, a step after the other"""
        recall_decay: float = 1.0
        """lambda_tau = recall_decay ** tau in the meta loss (Eq. 5)"""
        forget_bias: float = 0.0
        """constant added inside the forget gate of the LSTM"""
        two_biases: bool = True
        """the LSTM has a bias for the input and one for the recurrent projection; otherwise one"""

        def __post_init__(self):
            super().__post_init__()
            self.require(self.write_scale is None or self.write_scale > 0, "write_scale", "above 0 or none")
            self.require(self.recall_decay >= 0, "recall_decay", "at least 0")

        @property
        def scale(self) -> float:
            """s, of which the rate is the share that a step uses."""
            return 2 / (self.num_heads * self.memory_size) if self.write_scale is None else self.write_scale

        def build(self, input_size: int) -> "MNM":
            return MNM(input_size, self)

    class State(NamedTuple):
        h: Tensor  # [B, m]
        c: Tensor  # [B, m]
        read: Tensor  # v_r, [B, d]
        recent: Tensor  # write keys and values of the recall_steps - 1 steps before, [B, recall_steps - 1, 2, H, d]
        memory: Tensor  # [B, L, d, d], rows are outputs

    aux_losses = ("meta_loss",)
    """squared error of recalling what was just written, a mean over heads and entries, summed over steps recalled"""
    diagnostics = ("read_keys", "write_keys", "values", "read", "rate", "memory_norm")
    """[T, B, H, d] thrice, v_r [T, B, d], [T, B, L], and norms of the layers after the write [T, B, L]. Cosines of read
    or values or write_keys (means over heads) with earlier values or write_keys are the maps of Fig. 5."""

    def __init__(self, input_size: int, config: Config):
        super().__init__()
        self.config = config
        self.input_size, self.output_size = input_size, config.output_size
        m, d, L, H = config.hidden_size, config.memory_size, config.num_layers, config.num_heads
        from_lstm = config.rate != "learned"
        self.lstm = LSTM(input_size + d, LSTM.Config(m, config.forget_bias, config.two_biases))
        self.interaction = nn.Linear(m, 3 * H * d + from_lstm * d)
        if from_lstm:
            self.rate = nn.Linear(d, L if config.rate == "layers" else 1)
        else:
            self.rate = nn.ParameterDict({"bias": torch.zeros(L)})
        self.output = nn.Linear(m + d, config.output_size)
        if config.rule == "perceptron":
            self.feedback = nn.ModuleList(nn.Linear(d, d) for _ in range(L))
        self.register_buffer("initial_memory", torch.empty(L, d, d).uniform_(-1 / math.sqrt(d), 1 / math.sqrt(d)))

    def initial_state(self, batch_size: int) -> State:
        config, memory = self.config, self.initial_memory
        lstm = self.lstm.initial_state(batch_size)
        recent = memory.new_zeros(batch_size, config.recall_steps - 1, 2, config.num_heads, config.memory_size)
        read = memory.new_zeros(batch_size, config.memory_size)
        return self.State(*lstm, read, recent, memory.repeat(batch_size, 1, 1, 1))

    def step(self, x: Tensor, state: State, report: tuple[str, ...] = (), donate: bool = False) -> CoreOutput:
        hidden, (h, c), _ = self.lstm.step(torch.cat([x, state.read], dim=1), LSTM.State(state.h, state.c))
        read_keys, write_keys, values, rates = self._interact(hidden)
        if rows.acts(state.memory, values):
            memory = state.memory if donate else state.memory.clone()
            memory, config = memory.contiguous(), self.config
            targets = self._targets(values) if config.rule == "perceptron" else None
            bends = config.memory_output == "tanh"
            read = mnm_kernel.step(memory, read_keys, write_keys, values, config.scale * rates, targets, bends)
        else:
            memory = self.write(state.memory, write_keys, values, rates)
            read = self.activations(memory, read_keys)[-1].mean(1)
        pairs = torch.cat([torch.stack([write_keys, values], dim=1)[:, None], state.recent], dim=1)

        reports = {}
        if "meta_loss" in report:
            reports["meta_loss"] = self._recall_error(memory, pairs)
        if set(report) - reports.keys():
            norms = torch.linalg.vector_norm(memory.detach(), dim=(2, 3))
            reports |= self._diagnose(read_keys, write_keys, values, rates, read, norms)
        state = self.State(h, c, read, pairs[:, :-1], memory)
        return CoreOutput(self.output(torch.cat([h, read], dim=1)), state, {name: reports[name] for name in report})

    def sequence(
        self, xs: Tensor, state: State, episode_starts: Tensor | None, report: tuple[str, ...], donate: bool
    ) -> CoreOutput:
        config = self.config
        if len(xs) == 1 or config.recall_steps > 1:
            return self.loop(xs, state, episode_starts, report, donate)
        if episode_starts is not None:
            state = self.reset(state, episode_starts[0])
        weight_x, weight_read = self.lstm.weight_ih.split([self.input_size, config.memory_size], dim=1)
        inputs = xs @ weight_x.T + sum(self.lstm._biases())
        weight_rate = self.rate.weight if config.rate != "learned" else None
        weight_back, bias_back = None, None
        if config.rule == "perceptron":
            weight_back = torch.stack([module.weight for module in self.feedback])
            bias_back = torch.stack([module.bias for module in self.feedback])
        h, c, read, _, memory = state
        hs, reads, meta_loss, c, memory, norms = mnm_sequence.Sequence.apply(
            config, episode_starts, "meta_loss" in report, "memory_norm" in report,
            inputs, torch.cat([weight_read, self.lstm.weight_hh], dim=1),
            self.interaction.weight, self.interaction.bias, weight_rate, self.rate.bias, weight_back, bias_back,
            h, c, read, memory, self.initial_memory,
        )  # fmt: skip
        reports = {"meta_loss": meta_loss}
        if set(report) - reports.keys():
            with torch.no_grad():
                reports |= self._diagnose(*self._interact(hs), reads, norms)
        ys = self.output(torch.cat([hs, reads], dim=2))
        # copies, as views would hold all of them
        state = self.State(hs[-1].clone(), c, reads[-1].clone(), state.recent, memory)
        return CoreOutput(ys, state, {name: reports[name] for name in report})

    def _interact(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the hidden states [..., m] read with, write, and how fast: [..., H, d] thrice and [..., L]."""
        config = self.config
        H, d = config.num_heads, config.memory_size
        vectors = self.interaction(hidden).tanh()  # Eq. 1
        keys_and_values = vectors[..., : 3 * H * d].unflatten(-1, (3, H, d)).unbind(-3)
        if config.rate == "learned":
            rates = self.rate.bias.sigmoid().expand(*hidden.shape[:-1], -1)
        else:
            rates = self.rate(vectors[..., 3 * H * d :]).sigmoid().expand(*hidden.shape[:-1], config.num_layers)
        return *keys_and_values, rates

    def activations(self, memory: Tensor, keys: Tensor) -> list[Tensor]:
        """z_0 = keys, z_1, .., z_L: each [B, H, d]."""
        layers = [keys]
        for l, weights in enumerate(memory.unbind(1), 1):
            z = layers[-1] @ weights.transpose(1, 2)
            layers.append(z.tanh() if l < self.config.num_layers or self.config.memory_output == "tanh" else z)
        return layers

    def write(self, memory: Tensor, keys: Tensor, values: Tensor, rates: Tensor) -> Tensor:
        """The memory after the step that binds keys to values."""
        layers = self.activations(memory, keys)
        if self.config.rule == "perceptron":
            errors = torch.stack(layers[1:], dim=1) - self._targets(values)  # Eq. 4
        else:
            errors = torch.stack(self._slopes(memory, layers, values), dim=1)
        change = errors.transpose(2, 3) @ torch.stack(layers[:-1], dim=1)  # summed over the heads
        return memory - self.config.scale * rates[..., None, None] * change

    def _targets(self, values: Tensor) -> Tensor:
        """What the perceptron rule wants each layer to be, [B, L, H, d]."""
        targets = [module(values) for module in self.feedback]
        if self.config.feedback == "tanh":
            targets = [*(target.tanh() for target in targets[:-1]), targets[-1]]
        return torch.stack(targets, dim=1)

    def _slopes(self, memory: Tensor, layers: list[Tensor], values: Tensor) -> list[Tensor]:
        """Half the gradient of the squared error (Eq. 2) for what goes into each layer's activation function.

        Written out, so that learning through it needs first derivatives alone.
        """
        slope = layers[-1] - values
        if self.config.memory_output == "tanh":
            slope = slope * (1 - layers[-1].square())
        slopes = [slope]
        for weights, z in zip(reversed(memory.unbind(1)[1:]), reversed(layers[1:-1]), strict=True):
            slopes.insert(0, (slopes[0] @ weights) * (1 - z.square()))
        return slopes

    def _recall_error(self, memory: Tensor, pairs: Tensor) -> Tensor:
        """Eq. 5 for one step: pairs [B, recall_steps, 2, H, d], latest first -> [B]. The pairs that no step has written
        yet are zero, for which every memory is right."""
        keys, values = pairs.unbind(2)
        values = values.detach() if self.config.stop_target else values
        found = self.activations(memory, keys.flatten(1, 2))[-1].view_as(values)
        decay = self.config.recall_decay ** torch.arange(pairs.shape[1], dtype=pairs.dtype, device=pairs.device)
        return (found - values).square().mean((2, 3)) @ decay

    def _diagnose(self, read_keys, write_keys, values, rates, read, norms) -> dict[str, Tensor]:
        found = (read_keys, write_keys, values, read, rates, norms)
        return {name: x.detach() for name, x in zip(self.diagnostics, found, strict=True)}
