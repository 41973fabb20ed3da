"""What a trained model reads, answers and looks back at in one sentence, step by step: a page, and its numbers."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engram.policies.recollection import recollect
from engram.report import learning_curves, write_page
from engram.report.curves import Quantity, flat, run_name
from engram.report.page import check_page
from engram.supervised.config import to_json
from engram.supervised.evaluate import Trained
from engram.supervised.metrics import LOWER_IS_BETTER
from engram.supervised.model import to_tensors
from engram.supervised.tasks import Batch, Task, Tokens, Vectors
from engram.supervised.tasks.task import UNKNOWN

MAX_STEPS = 400
"""steps of a sentence that are drawn, at most: the last ones"""
PAGE = "inspect.html"
"""the page in a run folder"""


def inspect(folder: str, chosen: str, page: str | None) -> dict[str, Any]:
    """Draw a test example of a run, or a sentence, on a page.

    Args:    chosen: number of the example, or the words of the sentence.
             page: where; None for PAGE in the folder.
    Returns: what the model answered, for JSON.
    Raises:  RunError, ConfigError, ValueError, OSError.
    """
    path = Path(folder, PAGE) if page is None else Path(page)
    trained = Trained.load(folder)
    check_page(path)
    config, task = trained.config, trained.config.task
    number = int(chosen) if re.fullmatch(r"\s*-?\d+\s*", chosen) else None
    batch = task.read(chosen) if number is None else task.example(number)
    about = {"run": folder, "task": config.task_name, "core": config.core_name, "updates": trained.best_updates}
    about |= {"example": number, "part": _part(task, batch)}
    reading = read(trained, batch)
    settings = to_json(config)
    curves, without_curve = learning_curves({folder: settings}, quantities(task))
    run = {"folder": folder, "name": run_name(folder, [folder]), "env": config.task_name, "core": config.core_name}
    data = {
        "kind": "models",
        "runs": [run],
        "curves": curves,
        "scores": [],
        "differences": {},
        "configs": [flat(settings)],
        "memories": [about | reading],
        "missing": {"curves": without_curve},
    }
    write_page(path, data)
    return about | {name: reading[name] for name in ("words", "answers")} | {"page": str(path)}


@torch.no_grad()
def read(trained: Trained, batch: Batch) -> dict[str, Any]:
    """What the model did with a batch of one row, step by step, as a report draws it."""
    model, task, core = trained.model, trained.config.task, trained.model.core
    model.eval()
    tensors = to_tensors(batch, next(model.parameters()).device)
    output = model(tensors.x, tensors.mask, core.diagnostics, trained.carried if batch.continues else None)
    words = task.captions(batch.x[:, 0])
    left_out = max(0, len(words) - MAX_STEPS)
    answered = zip(np.flatnonzero(batch.mask[:, 0]), batch.y[batch.mask], output.logits.double().cpu(), strict=True)
    return {
        "steps": len(words) - left_out,
        "left_out": left_out,
        "words": words[left_out:],
        "answers": [
            {"step": int(step) - left_out} | answer(task.outputs, target, logits)
            for step, target, logits in answered
            if step >= left_out
        ],
        **recollect(core, output.reports).last(MAX_STEPS).as_data(),
    }


def answer(outputs: Tokens | Vectors, target: np.ndarray, logits: Tensor) -> dict[str, Any]:
    """The likeliest answer and the right one, None if nobody knows it, with their probabilities.

    Args: outputs: of the task; target: a token or bits [W]; logits: of tokens or bits.
    """
    if isinstance(outputs, Tokens):
        chances, said = logits.softmax(0), int(logits.argmax())
        known = None if target == UNKNOWN else int(target)
        likely, names = (lambda token: float(chances[token])), outputs.name
    else:
        ones, said, known = logits.sigmoid(), logits > 0, torch.from_numpy(target > 0.5)
        likely, names = (lambda bits: float(torch.where(bits, ones, 1 - ones).prod())), _bits
    return {
        "said": names(said),
        "probability": likely(said),
        "right": None if known is None else names(known),
        "right_probability": None if known is None else likely(known),
    }


def _bits(bits: Tensor) -> str:
    return "".join("1" if bit else "0" for bit in bits)


def _part(task: Task, batch: Batch) -> str | None:
    """The name of the part of the task that the batch is of, where it has parts."""
    parts = [] if batch.part is None else batch.part[batch.part >= 0]
    return task.parts[int(parts[0])] if len(parts) else None


def quantities(task: Task) -> tuple[Quantity, ...]:
    """What is drawn over a run."""
    metrics = (
        Quantity(name.replace("_", " "), None, f"valid_{name}", name in LOWER_IS_BETTER) for name in task.metrics
    )
    return *metrics, Quantity("cross-entropy, nats", "loss", "valid_loss", True)
