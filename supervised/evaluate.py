"""What a trained model is worth, on fixed sets of examples it has never seen, beside what takes no memory at all."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from engram.command_line import torch_device
from engram.run import fitting, load_checkpoint, read_config
from engram.supervised.config import from_json
from engram.supervised.metrics import METRICS, answers, task_loss
from engram.supervised.model import SequenceModel, to_tensors
from engram.supervised.tasks import Task, Tokens

FITTED_ON = 1_000
"""training examples from which `Constant` knows the frequencies of targets"""


class Score(NamedTuple):
    loss: float
    metrics: dict[str, float]
    standard_errors: dict[str, float]
    """of the metrics, over examples"""
    examples: int


class Constant(nn.Module):
    """Answers the same whatever it reads: with the frequencies of the targets in training."""

    def __init__(self, task: Task):
        super().__init__()
        batch = task.train_batch(0, FITTED_ON, seed=0)
        targets = batch.y[batch.mask]
        if isinstance(task.outputs, Tokens):
            logits = np.log((np.bincount(targets, minlength=task.outputs.size) + 1e-3) / len(targets))
        else:
            share = targets.mean(0).clip(1e-3, 1 - 1e-3)
            logits = np.log(share / (1 - share))
        self.logits = nn.Parameter(torch.tensor(logits, dtype=torch.float32))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.logits.expand(int(mask.sum()), -1), {}


def evaluate(
    model: nn.Module, task: Task, split: str, batch_size: int, stopped: Callable[[], bool] = lambda: False
) -> Score | None:
    """Score of a model on all examples of "valid" or "test"; None if stopped.

    Args: batch_size: examples at a time; the score does not depend on it.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return _score(model, task, split, batch_size, stopped)
    finally:
        model.train(was_training)


def _score(model: nn.Module, task: Task, split: str, batch_size: int, stopped: Callable[[], bool]) -> Score | None:
    size = task.valid_size if split == "valid" else task.test_size
    device = next(model.parameters()).device
    loss, steps = 0.0, 0
    tallies = {name: [] for name in task.metrics}
    for start in range(0, size, batch_size):
        if stopped():
            return None
        indices = np.arange(start, min(start + batch_size, size), dtype=np.uint64)
        batch = to_tensors(task.batch(split, indices), device)
        logits, _ = model(batch.x, batch.mask)
        targets, answered = batch.y[batch.mask], answers(task, logits)
        loss += float(task_loss(task, logits, targets)) * len(targets)
        steps += len(targets)
        for name, rows in tallies.items():
            rows.append(METRICS[name](answered, targets, batch.mask))
    metrics, errors = {}, {}
    for name, rows in tallies.items():
        counted, among = (torch.cat(parts).double().cpu() for parts in zip(*rows, strict=True))
        metrics[name] = float(counted.sum() / among.sum())
        residuals = counted - metrics[name] * among  # the delta method, for a ratio of means
        errors[name] = math.sqrt(float(residuals.square().sum()) * size / max(1, size - 1)) / float(among.sum())
    return Score(loss / steps, metrics, errors, size)


def judge(folder: str) -> dict[str, Any]:
    """The score of a run on the test set, with the weights that were best on the valid set; for JSON.

    Raises: RunError, ConfigError.
    """
    config = from_json(read_config(folder))
    task = config.task
    _, state = load_checkpoint(folder)
    model = SequenceModel(task.inputs, task.outputs, config.core, config.model).to(torch_device("auto"))
    best = state["best"] or state
    with fitting(folder):
        model.load_state_dict(best["model"])
    score, constant = (evaluate(judged, task, "test", config.batch_size) for judged in (model, Constant(task)))
    logged = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return {
        "run": str(folder),
        "task": config.task_name,
        "options": vars(task),
        "data": "generated",
        "core": config.core_name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seed": config.seed,
        "best_updates": best["updates"],
        "updates": state["updates"],
        "examples_seen": state["updates"] * config.batch_size,
        "steps_seen": state["steps_seen"],
        "seconds": json.loads(logged[-1])["wall_time"] if logged else 0.0,
        "device": state["device"],
        "test_examples": score.examples,
        "test_loss": score.loss,
        **score.metrics,
        "standard_errors": score.standard_errors,
        "constant": constant.metrics,
        "floors": task.floors(),
    }
