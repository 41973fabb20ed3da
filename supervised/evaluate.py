"""What a trained model is worth, on fixed sets drawn apart from training's, beside what takes no memory at all."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from engram.command_line import torch_device
from engram.run import RunError, fitting, load_checkpoint, read_config, read_metrics
from engram.supervised.config import Config, from_json
from engram.supervised.metrics import METRICS, Judged, answers, step_losses
from engram.supervised.model import ModelOutput, SequenceModel, map_state, to_tensors, unpack_state
from engram.supervised.tasks import Stream, Task, Tokens

FITTED_ON = 1_000
"""training examples from which `Constant` knows the frequencies of targets"""
TEMPERATURES = [round(0.8 + 0.02 * i, 2) for i in range(26)]
"""of the softmax, those tried for language models"""


class Score(NamedTuple):
    loss: float
    """mean over the steps with a target, as in training"""
    metrics: dict[str, float]
    standard_errors: dict[str, float]
    """of the metrics, over examples, which of a stream are the rows of its batches"""
    examples: int
    steps: int
    """with a target"""
    parts: dict[str, dict[str, float]]
    """metrics by part of the task"""


class Tally:
    """A metric over rows that come and go: counts, of how many, and the sums that their ratio's error takes."""

    def __init__(self, name: str):
        self.name, self.rows = name, 0
        self.sums = torch.zeros(2, dtype=torch.float64)
        self.products = torch.zeros(2, 2, dtype=torch.float64)

    def add(self, judged: Judged) -> None:
        rows = torch.stack(METRICS[self.name](judged), 1).double().cpu()
        self.rows += len(rows)
        self.sums += rows.sum(0)
        self.products += rows.T @ rows

    def value(self) -> float:
        ratio = float(self.sums[0] / self.sums[1])
        return math.exp(min(ratio, 700.0)) if self.name == "perplexity" else ratio

    def standard_error(self) -> float:
        """By the delta method, for a ratio of means, or the exponential of one."""
        contrast = torch.stack([torch.ones((), dtype=torch.float64), -self.sums[0] / self.sums[1]])
        squares = max(0.0, float(contrast @ self.products @ contrast))
        error = math.sqrt(squares * self.rows / max(1, self.rows - 1)) / float(self.sums[1])
        return error * self.value() if self.name == "perplexity" else error


def best_temperature(model: SequenceModel, task: Task, batch_size: int) -> float:
    """The temperature of the model with the lowest loss on the valid set, in one pass over it."""
    losses, state = torch.zeros(len(TEMPERATURES), dtype=torch.float64), None
    device = next(model.parameters()).device
    model.eval()
    with torch.no_grad():
        for batch in task.batches("valid", batch_size):
            batch = to_tensors(batch, device)
            output = model(batch.x, batch.mask, (), state if batch.continues else None)
            state, targets, last = output.state, batch.y[batch.mask], output.dropped[batch.mask]
            for i, temperature in enumerate(TEMPERATURES):
                losses[i] += step_losses(task, model.head(last / temperature), targets).sum().double().cpu()
    return TEMPERATURES[int(losses.argmin())]


class Constant(nn.Module):
    """Answers the same whatever it reads: with the frequencies of the targets in training."""

    def __init__(self, task: Task):
        super().__init__()
        batch = task.train_batch(0, FITTED_ON, seed=0)
        targets = batch.y[batch.mask if batch.part is None else batch.mask & (batch.part >= 0)]
        if isinstance(task.outputs, Tokens):
            logits = np.log((np.bincount(targets, minlength=task.outputs.size) + 1e-3) / len(targets))
        else:
            share = targets.mean(0).clip(1e-3, 1 - 1e-3)
            logits = np.log(share / (1 - share))
        self.logits = nn.Parameter(torch.tensor(logits, dtype=torch.float32))

    def forward(self, x: Tensor, mask: Tensor, report: tuple[str, ...] = (), state: tuple | None = None) -> ModelOutput:
        return ModelOutput(self.logits.expand(int(mask.sum()), -1), (), {}, x, x)


def evaluate(
    model: nn.Module,
    task: Task,
    split: str,
    batch_size: int,
    stopped: Callable[[], bool] = lambda: False,
    state: tuple | None = None,
) -> Score | None:
    """Score of a model on all examples of "valid" or "test"; None if stopped.

    Args: batch_size: examples at a time; the score does not depend on it.
          state: of one row, leaves [1, ...]; each row of a stream without a beginning goes on from a copy of it. None
              for the initial state.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return _score(model, task, split, batch_size, stopped, state)
    finally:
        model.train(was_training)


def _copies(rows: int, leaf: Tensor) -> Tensor:
    """A state's leaf [1, ...] for so many rows."""
    return leaf.expand(rows, *leaf.shape[1:])


def _score(
    model: nn.Module,
    task: Task,
    split: str,
    batch_size: int,
    stopped: Callable[[], bool],
    state: tuple | None,
) -> Score | None:
    device = next(model.parameters()).device
    loss, steps, examples, first = 0.0, 0, 0, True
    tallies = {part: {name: Tally(name) for name in task.metrics} for part in (None, *range(len(task.parts)))}
    for batch in task.batches(split, batch_size):
        if stopped():
            return None
        batch = to_tensors(batch, device)
        if first:
            state = map_state(partial(_copies, len(batch.lengths)), state)
        output = model(batch.x, batch.mask, (), state if batch.continues else None)
        state, first = output.state, False
        targets, answered = batch.y[batch.mask], answers(task, output.logits)
        losses = step_losses(task, output.logits, targets)
        scopes = {None: batch.mask}
        if batch.part is not None:
            scopes = {None: batch.mask & (batch.part >= 0)}
            scopes |= {part: batch.mask & (batch.part == part) for part in batch.part[scopes[None]].unique().tolist()}
        for part, scope in scopes.items():
            here = scope[batch.mask]
            rows = scope.any(0) if part is not None else slice(None)
            judged = Judged(answered[here], losses[here], targets[here], scope[:, rows], batch.x[:, rows])
            for tally in tallies[part].values():
                tally.add(judged)
        loss, steps, examples = loss + float(losses.sum()), steps + len(losses), examples + len(batch.lengths)
    whole = tallies.pop(None)
    return Score(
        loss / steps,
        {name: tally.value() for name, tally in whole.items()},
        {name: tally.standard_error() for name, tally in whole.items()},
        examples,
        steps,
        {
            task.parts[part]: {name: tally.value() for name, tally in by_name.items()}
            for part, by_name in tallies.items()
            if any(tally.rows for tally in by_name.values())
        },
    )


def check_vocabulary(task: Task, vocabulary: list[str]) -> None:
    """Raise a RunError unless the data has the words that a run was trained on."""
    words = task.vocabulary
    if list(words) != vocabulary:
        strange = next((word for word in words if word not in set(vocabulary)), None)
        raise RunError(
            f"the data has another vocabulary than that of the run: {len(words)} words, not {len(vocabulary)}"
            + (f", {strange!r} among them" if strange is not None else "")
            + "; put the files back that the run was trained on"
        )


class Trained(NamedTuple):
    """The weights of a run that were best on the valid set, or the newest before there were any."""

    config: Config
    model: SequenceModel
    carried: tuple | None
    """of a stream: the state, of one row, from which evaluations go on"""
    best_updates: int
    """after which the weights were these"""
    state: dict[str, Any]
    """of the newest checkpoint"""

    @classmethod
    def load(cls, folder: str) -> Self:
        """Raises: RunError, ConfigError."""
        config = from_json(read_config(folder))
        task = config.task
        _, state = load_checkpoint(folder)
        model = SequenceModel(task.inputs, task.outputs, config.core, config.model).to(torch_device("auto"))
        with fitting(folder):
            check_vocabulary(task, state["vocabulary"])
            best = state["best"] or state
            model.load_state_dict(best["model"])
            carried = map_state(lambda leaf: leaf[:1], unpack_state(model, best["state"]))
        return cls(config, model, carried, best["updates"], state)


def judge(folder: str) -> dict[str, Any]:
    """The score of a run on the test set, with the weights that were best on the valid set; for JSON.

    Raises: RunError, ConfigError.
    """
    config, model, carried, best_updates, state = Trained.load(folder)
    task, tuned = config.task, {}
    if task.metrics[0] == "perplexity":
        tuned["temperature"] = model.temperature = best_temperature(model, task, config.batch_size)
    score = evaluate(model, task, "test", config.batch_size, state=carried)
    constant = evaluate(Constant(task), task, "test", config.batch_size)
    logged = read_metrics(folder)
    counted = {"examples_seen": state["updates"] * config.batch_size, "test_examples": score.examples}
    return {
        "run": str(folder),
        "task": config.task_name,
        "options": vars(task),
        **task.data(),
        "core": config.core_name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seed": config.seed,
        "best_updates": best_updates,
        "updates": state["updates"],
        "steps_seen": state["steps_seen"],
        "seconds": logged[-1]["wall_time"] if logged else 0.0,
        "device": state["device"],
        **({} if isinstance(task, Stream) else counted),  # rows of a stream are no examples
        "test_steps": score.steps,
        "test_loss": score.loss,
        **score.metrics,
        "standard_errors": score.standard_errors,
        **tuned,
        "parts": score.parts,
        "constant": constant.metrics,
        "floors": task.floors(),
    }
