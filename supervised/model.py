"""The model of every task: tokens or vectors -> LSTM layers, if any -> memory core -> head."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from engram.flags import Flags
from engram.policies import LSTM, CoreConfig
from engram.policies.tree import tree_map
from engram.supervised.awd import AWDConfig, locked_dropout, run_with_weight_dropout, word_dropout
from engram.supervised.tasks import Batch, Tokens, Vectors


@dataclass(frozen=True)
class ModelConfig(Flags):
    section: ClassVar[str] = "model"
    embedding_size: int = 64
    """width of the embedding of tokens; vectors go into the core as they are"""
    head_layers: int = 0
    """hidden layers between the core and the linear map to the outputs, with ReLU"""
    head_size: int = 256
    """units of each hidden layer"""
    dropout: float = 0.0
    """share of the embedding's and the core's outputs that is zeroed in training"""
    lstm_layers: int = 0
    """LSTM layers below the core"""
    lstm_size: int = 256
    """units of each of them"""
    residual: bool = False
    """add its input to the output of a layer, or of the core, where both are of one width"""
    tied: bool = False
    """the linear map to the outputs has the weights of the embedding"""

    def __post_init__(self):
        self.require(self.embedding_size > 0, "embedding_size", "at least 1")
        self.require(self.head_layers >= 0, "head_layers", "at least 0")
        self.require(self.head_size > 0, "head_size", "at least 1")
        self.require(self.lstm_layers >= 0, "lstm_layers", "at least 0")
        self.require(self.lstm_size > 0, "lstm_size", "at least 1")
        self.require(0 <= self.dropout < 1, "dropout", "at least 0 and below 1")


class TensorBatch(NamedTuple):
    """A `Batch` on the device of a model."""

    x: Tensor
    y: Tensor
    mask: Tensor
    lengths: Tensor
    continues: bool
    part: Tensor | None
    rate: float


def to_tensors(batch: Batch, device: torch.device) -> TensorBatch:
    return TensorBatch(*(torch.from_numpy(leaf).to(device) if isinstance(leaf, np.ndarray) else leaf for leaf in batch))


class ModelOutput(NamedTuple):
    logits: Tensor
    """of the masked steps, in the order of `mask.nonzero()`, [M, classes or bits]"""
    state: tuple
    """of each layer after the last step"""
    reports: dict[str, Tensor]
    """those of the core, [T, B, ...]"""
    hidden: Tensor
    """outputs of the core, [T, B, Y]"""
    dropped: Tensor
    """the same after locked dropout"""


def pack_state(state: tuple | None) -> list[tuple[Tensor, ...]] | None:
    """The state of a model in types that a checkpoint takes."""
    return None if state is None else [tuple(layer) for layer in state]


def unpack_state(model: "SequenceModel", packed: list[tuple[Tensor, ...]] | None) -> tuple | None:
    """The state that `pack_state` was given, on the device of the model."""
    if packed is None:
        return None
    like = model.initial_state(1)
    device = next(model.parameters()).device
    return tuple(type(layer)(*(leaf.to(device) for leaf in leaves)) for layer, leaves in zip(like, packed, strict=True))


def map_state(function: Callable[[Tensor], Tensor], state: tuple | None) -> tuple | None:
    """The state with `function` of every leaf, those of all layers being [B, ...]; None stays None."""
    return None if state is None else tuple(tree_map(function, layer) for layer in state)


class SequenceModel(nn.Module):
    """Reads sequences: encoder -> LSTM layers, if any -> core -> head.

    Args: inputs, outputs: of the task.
          core: the memory.
          config: everything around it.
          awd: regularisation.
    Raises: ValueError if the weights cannot be tied.
    """

    def __init__(
        self,
        inputs: Tokens | Vectors,
        outputs: Tokens | Vectors,
        core: CoreConfig,
        config: ModelConfig,
        awd: AWDConfig = AWDConfig(),  # noqa: B008 -- frozen
    ):
        super().__init__()
        self.awd, self.residual = awd, config.residual
        if isinstance(inputs, Tokens):
            self.encoder = nn.Embedding(inputs.size, config.embedding_size, padding_idx=inputs.blank)
            widths = [config.embedding_size] + [config.lstm_size] * config.lstm_layers
        else:
            self.encoder = nn.Identity()
            widths = [inputs.size] + [config.lstm_size] * config.lstm_layers
        self.layers = nn.ModuleList(LSTM(width, LSTM.Config(config.lstm_size)) for width in widths[:-1])
        self.core = core.build(widths[-1])
        sizes = [self.core.output_size] + [config.head_size] * config.head_layers
        hidden = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.head = nn.Sequential(*hidden, nn.Linear(sizes[-1], outputs.size))
        self.dropout = nn.Dropout(config.dropout)
        self.temperature = 1.0  # by which the last outputs are divided before they are mapped to logits
        if config.tied:
            config.require(
                isinstance(inputs, Tokens) and inputs == outputs and sizes[-1] == config.embedding_size,
                "tied",
                f"False: {inputs.size} inputs have {config.embedding_size} units, {outputs.size} outputs {sizes[-1]}",
            )
            # Schlag et al. 2021, App. H: this range is crucial for FWM language models
            nn.init.uniform_(self.encoder.weight, -0.25, 0.25)
            nn.init.zeros_(self.head[-1].bias)
            self.head[-1].weight = self.encoder.weight

    def initial_state(self, batch_size: int) -> tuple:
        """The state of each layer before the first step, leaves [batch_size, ...]."""
        return tuple(layer.initial_state(batch_size) for layer in (*self.layers, self.core))

    def forward(self, x: Tensor, mask: Tensor, report: tuple[str, ...] = (), state: tuple | None = None) -> ModelOutput:
        """What the model says at the steps that count.

        Padding behind a row's last step reaches no output before it.

        Args: x: tokens int64 [T, B] or vectors [T, B, D].
              mask: bool [T, B], M of them true.
              report: that of `Core.forward`.
              state: of each layer before the first step; None for the initial state.
        """
        awd, training = self.awd, self.training
        if state is None:
            state = self.initial_state(x.shape[1])
        ys = self.encoder(x)
        if isinstance(self.encoder, nn.Embedding):
            ys = word_dropout(ys, x, self.encoder.num_embeddings, awd.word_dropout, training)
        ys = locked_dropout(self.dropout(ys), awd.input_dropout, training)
        last = []
        for layer, before in zip((*self.layers, self.core), state, strict=True):
            if last:
                ys = locked_dropout(ys, awd.layer_dropout, training)
            asked = report if layer is self.core else ()
            said, after, reports = run_with_weight_dropout(layer, awd.weight_dropout, ys, before, None, asked)
            ys = ys + said if self.residual and ys.shape == said.shape else said
            last.append(after)
        dropped = locked_dropout(ys, awd.output_dropout, training)
        return ModelOutput(self.head(self.dropout(dropped[mask]) / self.temperature), tuple(last), reports, ys, dropped)
