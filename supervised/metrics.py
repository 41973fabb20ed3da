"""The papers' metrics: how right a model's answers are."""

import torch
from torch import Tensor
from torch.nn import functional

from engram.supervised.tasks import Task, Tokens

Answers = Tensor
"""tokens int64 [M] or bits bool [M, W] at the M masked steps of a batch"""


def task_loss(task: Task, logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the masked steps, or of their bits: logits [M, C] with tokens [M] or bits [M, C]."""
    if isinstance(task.outputs, Tokens):
        return functional.cross_entropy(logits, targets)
    return functional.binary_cross_entropy_with_logits(logits, targets)


def answers(task: Task, logits: Tensor) -> Answers:
    """The likeliest tokens [M], or bits [M, W]."""
    return logits.argmax(1) if isinstance(task.outputs, Tokens) else logits > 0


def accuracy(answers: Answers, targets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Share of steps with the right answer."""
    return _per_row(_right(answers, targets), mask), mask.sum(0)


def sequence_accuracy(answers: Answers, targets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Share of examples with the right answer at every step."""
    right = _per_row(_right(answers, targets), mask) == mask.sum(0)
    return right, torch.ones_like(right)


def output_accuracy(answers: Answers, targets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Share of right answers among the steps that have an output, which are those whose target is not 0."""
    output = targets != 0
    return _per_row(_right(answers, targets) & output, mask), _per_row(output, mask)


def no_output_accuracy(answers: Answers, targets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Share of right answers among the steps without an output, whose target is 0."""
    silent = targets == 0
    return _per_row(_right(answers, targets) & silent, mask), _per_row(silent, mask)


def bit_error(answers: Answers, targets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Wrong bits of an example."""
    return _per_row((answers != (targets > 0.5)).sum(1), mask), torch.ones_like(mask[0])


METRICS = {
    metric.__name__: metric for metric in (accuracy, sequence_accuracy, output_accuracy, no_output_accuracy, bit_error)
}
"""name -> function of answers and targets at the masked steps, and the mask [T, B]: what is counted, and of how many,
for each example [B]; the metric is the ratio of the sums"""

LOWER_IS_BETTER = {"bit_error"}


def _right(answers: Answers, targets: Tensor) -> Tensor:
    return answers == targets if answers.dim() == 1 else (answers == (targets > 0.5)).all(1)


def _per_row(counts: Tensor, mask: Tensor) -> Tensor:
    """Sums [B] of counts [M] at the masked steps."""
    row = mask.nonzero()[:, 1]
    return torch.zeros(mask.shape[1], dtype=torch.long, device=mask.device).index_add_(0, row, counts.long())
