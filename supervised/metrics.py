"""The papers' metrics: how right a model's answers are."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from engram.supervised.tasks import Task, Tokens
from engram.supervised.tasks.geometry import COORDINATES
from engram.supervised.tasks.naming import END, LAST, NAME_SIZE


class Judged(NamedTuple):
    """What a model said at the M masked steps of a batch, and what it was asked."""

    answers: Tensor
    """tokens int64 [M] or bits bool [M, W]"""
    losses: Tensor
    """cross-entropies, [M]"""
    targets: Tensor
    """tokens int64 [M] or bits [M, W]"""
    mask: Tensor
    """bool [T, B], M of them true"""
    x: Tensor
    """inputs: tokens int64 [T, B] or vectors [T, B, D]"""


def task_loss(task: Task, logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the masked steps, or of their bits: logits [M, C] with tokens [M] or bits [M, C]."""
    return step_losses(task, logits, targets).mean()


def step_losses(task: Task, logits: Tensor, targets: Tensor) -> Tensor:
    """The same for each step, [M]."""
    if isinstance(task.outputs, Tokens):
        return functional.cross_entropy(logits, targets, reduction="none")
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


def answers(task: Task, logits: Tensor) -> Tensor:
    """The likeliest tokens [M], or bits [M, W]."""
    return logits.argmax(1) if isinstance(task.outputs, Tokens) else logits > 0


def accuracy(judged: Judged) -> tuple[Tensor, Tensor]:
    """Share of steps with the right answer."""
    return _per_row(judged, _right(judged)), judged.mask.sum(0)


def sequence_accuracy(judged: Judged) -> tuple[Tensor, Tensor]:
    """Share of examples with the right answer at every step."""
    right = _per_row(judged, _right(judged)) == judged.mask.sum(0)
    return right, torch.ones_like(right)


def output_accuracy(judged: Judged) -> tuple[Tensor, Tensor]:
    """Share of right answers among the steps that have an output, which are those whose target is not 0."""
    output = judged.targets != 0
    return _per_row(judged, _right(judged) & output), _per_row(judged, output)


def no_output_accuracy(judged: Judged) -> tuple[Tensor, Tensor]:
    """Share of right answers among the steps without an output, whose target is 0."""
    silent = judged.targets == 0
    return _per_row(judged, _right(judged) & silent), _per_row(judged, silent)


def bit_error(judged: Judged) -> tuple[Tensor, Tensor]:
    """Wrong bits of an example."""
    wrong = judged.answers != (judged.targets > 0.5)
    return _per_row(judged, wrong.sum(1)), torch.ones_like(judged.mask[0])


def perplexity(judged: Judged) -> tuple[Tensor, Tensor]:
    """Exponential of the mean cross-entropy; counts sums of losses."""
    return _per_row(judged, judged.losses), judged.mask.sum(0)


def valid_tours(judged: Judged) -> tuple[Tensor, Tensor]:
    """Share of tours that visit each point once."""
    tour, visits = _tours(judged)
    visited = (functional.one_hot(tour, NAME_SIZE) * visits[..., None]).sum(0)
    valid = (visited == _shown(judged)).all(1)
    return valid, torch.ones_like(valid)


def tour_length(judged: Judged) -> tuple[Tensor, Tensor]:
    """Length of the closed tour through the points said; what names none counts as the point shown first."""
    tour, visits = _tours(judged)
    points, one_hots = judged.x.split((COORDINATES, NAME_SIZE), dim=2)
    places = torch.einsum("tbc,tbn->bnc", points, one_hots)
    places = torch.where(_shown(judged)[..., None], places, points[0, :, None])
    rows = torch.arange(tour.shape[1], device=tour.device)
    way = places[rows, tour]
    start = way[visits.long().argmax(0), rows]
    following = torch.where((visits & ~visits.roll(-1, 0))[..., None], start, way.roll(-1, 0))
    lengths = ((way - following).norm(dim=2) * visits).sum(0)
    return lengths, torch.ones_like(lengths)


METRICS = {
    metric.__name__: metric
    for metric in (
        accuracy,
        sequence_accuracy,
        output_accuracy,
        no_output_accuracy,
        bit_error,
        perplexity,
        valid_tours,
        tour_length,
    )
}
"""name -> function of what is judged: what is counted, and of how many, for each example [B]; the metric is the ratio
of the sums, or the exponential of the ratio in perplexity"""

LOWER_IS_BETTER = {"bit_error", "perplexity"}


def _right(judged: Judged) -> Tensor:
    answers, targets = judged.answers, judged.targets
    return answers == targets if answers.dim() == 1 else (answers == (targets > 0.5)).all(1)


def _per_row(judged: Judged, counts: Tensor) -> Tensor:
    """Sums [B] of counts [M] at the masked steps."""
    counts = counts if counts.is_floating_point() else counts.long()
    return counts.new_zeros(judged.mask.shape[1]).index_add_(0, judged.mask.nonzero()[:, 1], counts)


def _tours(judged: Judged) -> tuple[Tensor, Tensor]:
    """The names said, [T, B], and at which steps they are to be of points."""
    tour = torch.zeros_like(judged.mask, dtype=torch.long)
    visits = torch.zeros_like(judged.mask)
    tour[judged.mask], visits[judged.mask] = judged.answers, judged.targets != END
    return tour, visits


def _shown(judged: Judged) -> Tensor:
    """Which names the points have, bool [B, NAME_SIZE]."""
    shown = judged.x[..., COORDINATES:].any(0)
    shown[:, LAST] = False
    return shown
