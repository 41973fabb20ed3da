"""The model of every task: tokens or vectors -> memory core -> head."""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from engram.policies import CoreConfig
from engram.supervised.tasks import Batch, Tokens, Vectors


@dataclass(frozen=True)
class ModelConfig:
    embedding_size: int = 64
    """width of the embedding of tokens; vectors go into the core as they are"""
    head_layers: int = 0
    """hidden layers between the core and the linear map to the outputs, with ReLU"""
    head_size: int = 256
    """units of each hidden layer"""
    dropout: float = 0.0
    """share of the embedding's and the core's outputs that is zeroed in training"""

    def __post_init__(self):
        self.require(self.embedding_size > 0, "embedding_size", "at least 1")
        self.require(self.head_layers >= 0, "head_layers", "at least 0")
        self.require(self.head_size > 0, "head_size", "at least 1")
        self.require(0 <= self.dropout < 1, "dropout", "at least 0 and below 1")

    def require(self, valid: bool, field: str, demand: str) -> None:
        """Raise a ValueError that names the field, its value, what it has to be and its flag."""
        if not valid:
            flag = f"--model.{field.replace('_', '-')}"
            raise ValueError(f"{field}={getattr(self, field)}, but it must be {demand} ({flag})")


class TensorBatch(NamedTuple):
    """A `Batch` on the device of a model."""

    x: Tensor
    y: Tensor
    mask: Tensor
    lengths: Tensor


def to_tensors(batch: Batch, device: torch.device) -> TensorBatch:
    return TensorBatch(*(torch.from_numpy(leaf).to(device) for leaf in batch))


class SequenceModel(nn.Module):
    """Reads sequences from their first step, each row from the core's initial state.

    Args: inputs, outputs: of the task.
          core: the memory.
          config: everything around it.
    """

    def __init__(self, inputs: Tokens | Vectors, outputs: Tokens | Vectors, core: CoreConfig, config: ModelConfig):
        super().__init__()
        if isinstance(inputs, Tokens):
            self.encoder = nn.Embedding(inputs.size, config.embedding_size, padding_idx=inputs.blank)
            self.core = core.build(config.embedding_size)
        else:
            self.encoder = nn.Identity()
            self.core = core.build(inputs.size)
        sizes = [self.core.output_size] + [config.head_size] * config.head_layers
        hidden = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.head = nn.Sequential(*hidden, nn.Linear(sizes[-1], outputs.size))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor, report: tuple[str, ...] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """What the model says at the steps that count.

        Padding behind a row's last step reaches no output before it, and no state outlives the call.

        Args:    x: tokens int64 [T, B] or vectors [T, B, D].
                 mask: bool [T, B], M of them true.
                 report: that of `Core.forward`.
        Returns: logits of the masked steps, in the order of `mask.nonzero()`, [M, classes or bits], and the reports,
                 [T, B, ...].
        """
        ys, _, reports = self.core(self.dropout(self.encoder(x)), self.core.initial_state(x.shape[1]), None, report)
        return self.head(self.dropout(ys[mask])), reports
