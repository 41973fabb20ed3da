"""What AWD-LSTM adds to a recurrent language model (Merity, Keskar & Socher 2018): dropout of weights, of words and of
units for a whole window, costs on activations, and SGD with averaged weights at the end. All of it is off by default.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import dropout

from engram.flags import Flags
from engram.optim import OptimConfig


@dataclass(frozen=True)
class AWDConfig(Flags):
    section: ClassVar[str] = "awd"
    weight_dropout: float = 0.0
    """share of the hidden-to-hidden weights of LSTMs that is zeroed, for a whole window"""
    word_dropout: float = 0.0
    """share of the vocabulary's words that are read as the zero vector, for a whole window"""
    input_dropout: float = 0.0
    """share of the units of embedded words that is zeroed, the same units at all steps of a row"""
    layer_dropout: float = 0.0
    """the same between layers"""
    output_dropout: float = 0.0
    """the same of the last layer's outputs"""
    activation_cost: float = 0.0
    """AR: weight of the mean square of the last layer's outputs, after dropout"""
    slowness_cost: float = 0.0
    """TAR: weight of the mean square of the change of the last layer's outputs from step to step, before dropout"""
    average_patience: int | None = None
    """evaluations on the valid set without an improvement after which SGD with averaged weights takes over; None: it
    does so at average_start alone"""
    average_start: int | None = None
    """updates after which it takes over in any case"""
    average_learning_rate: float = 30.0
    """of that SGD"""

    def __post_init__(self):
        for field in ("weight_dropout", "word_dropout", "input_dropout", "layer_dropout", "output_dropout"):
            self.require(0 <= getattr(self, field) < 1, field, "at least 0 and below 1")
        for field in ("activation_cost", "slowness_cost"):
            self.require(getattr(self, field) >= 0, field, "at least 0")
        for field in ("average_patience", "average_start"):
            count = getattr(self, field)
            self.require(count is None or count > 0, field, "at least 1, or None")
        self.require(self.average_learning_rate > 0, "average_learning_rate", "above 0")

    def average_due(self, updates: int, losses: list[float]) -> bool:
        """Whether the averaging of weights starts (NT-ASGD, Algorithm 1).

        Args: losses: of the evaluations on the valid set so far.
        """
        if self.average_start is not None and updates >= self.average_start:
            return True
        n, before = self.average_patience, losses[:-1]
        return n is not None and len(before) > n and losses[-1] > min(before[:-n])

    def averaging(self, optim: OptimConfig) -> OptimConfig:
        """How the weights that are averaged descend, after `optim`."""
        return dataclasses.replace(optim, optimizer="sgd", learning_rate=self.average_learning_rate, momentum=0.0)


def locked_dropout(xs: Tensor, rate: float, training: bool) -> Tensor:
    """xs [T, B, D] with the same units zeroed at all steps of a row."""
    if not training or not rate:
        return xs
    return xs * dropout(torch.ones_like(xs[0]), rate)


def word_dropout(embedded: Tensor, x: Tensor, words: int, rate: float, training: bool) -> Tensor:
    """Embedded tokens [T, B, D] with some words zeroed wherever they occur; x: tokens [T, B] out of `words`."""
    if not training or not rate:
        return embedded
    return embedded * dropout(embedded.new_ones(words, 1), rate)[x]


def run_with_weight_dropout(layer: nn.Module, rate: float, *inputs):
    """layer(*inputs), its hidden-to-hidden weights dropped out where it is in training."""
    if not layer.training or not rate:
        return layer(*inputs)
    recurrent = {name: dropout(p, rate) for name, p in layer.named_parameters() if name.endswith("weight_hh")}
    return functional_call(layer, recurrent, inputs)


def activation_penalty(config: AWDConfig, hidden: Tensor, dropped: Tensor, real: Tensor) -> Tensor:
    """What AR and TAR add to the loss.

    Args: hidden, dropped: the last outputs [T, B, Y] before and after dropout.
          real: bool [T, B], false where a row has ended.
    """
    penalty = config.activation_cost * dropped[real].square().mean()
    changes = (hidden[1:] - hidden[:-1])[real[1:]]
    if len(changes):
        penalty = penalty + config.slowness_cost * changes.square().mean()
    return penalty
