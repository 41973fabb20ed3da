"""Train a core on a task: python -m engram.supervised.train --task nth-farthest --core rmc (--help shows every choice).

--resume RUN continues a run; --eval RUN judges it on the test set, with the weights that were best on the valid set;
--eval RUN --inspect "..." draws what its memory looks back at in a sentence.
"""

import dataclasses
import json
import shlex
import sys
import time
from collections import defaultdict

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from engram.checkpoint import random_state, set_random_state
from engram.command_line import ConfigError, Resumed, exit_status, torch_device
from engram.optim import Diverged, check_finite, descend
from engram.progress import Progress
from engram.run import Run, RunError, fitting
from engram.stop import StopRequest
from engram.supervised.awd import activation_penalty
from engram.supervised.config import Config, from_json, parse, parse_inspection, to_json
from engram.supervised.evaluate import check_vocabulary, evaluate, judge
from engram.supervised.metrics import LOWER_IS_BETTER, task_loss
from engram.supervised.model import (
    ModelOutput,
    SequenceModel,
    TensorBatch,
    map_state,
    pack_state,
    to_tensors,
    unpack_state,
)
from engram.supervised.tasks import Stream


class Training:
    """All that changes during a run, and that a checkpoint holds."""

    def __init__(self, config: Config):
        self.config, self.device = config, torch_device(config.device)
        torch.manual_seed(config.seed)
        task = config.task
        self.model = SequenceModel(task.inputs, task.outputs, config.core, config.model, config.awd).to(self.device)
        self.optim = config.optim
        self.optimizer = self.optim.build(self.model.parameters())
        self.averaged = None  # the mean of the weights, once averaging has started
        self.valid_losses = []
        self.state = None  # of a stream: where each row's next chunk goes on
        self.updates = self.steps_seen = 0
        self.evaluation_due = False
        self.window = defaultdict(list)  # metrics since the last line of metrics.jsonl
        self.best = None  # what the valid set said of the best weights so far, and they
        task.train_batch(0, config.batch_size, config.seed)  # what cannot be had is said before there is a run folder

    def update(self) -> None:
        """Learn from the next batch."""
        config, core = self.config, self.model.core
        batch = to_tensors(config.task.train_batch(self.updates, config.batch_size, config.seed), self.device)
        output = self.model(batch.x, batch.mask, core.aux_losses, self.state if batch.continues else None)
        if isinstance(config.task, Stream):
            self.state = map_state(Tensor.detach, output.state)
        metrics = self._learn(batch, output) if batch.mask.any() else {}
        self.updates += 1
        self.steps_seen += int(batch.lengths.sum())
        for name, value in metrics.items():
            self.window[name].append(float(value))
        self.evaluation_due = self.updates % config.eval_interval == 0 or self.updates == config.total_updates

    def _learn(self, batch: TensorBatch, output: ModelOutput) -> dict[str, Tensor]:
        """One step down the gradient of the loss; returns what to log."""
        config = self.config
        loss = task_loss(config.task, output.logits, batch.y[batch.mask])
        metrics = {"loss": loss.detach()}
        real = torch.arange(len(batch.x), device=self.device)[:, None] < batch.lengths
        for name, values in output.reports.items():
            aux_loss = values[real].mean()
            metrics[name] = aux_loss.detach()
            loss = loss + config.aux_cost * aux_loss
        if config.awd.activation_cost or config.awd.slowness_cost:
            loss = loss + activation_penalty(config.awd, output.hidden, output.dropped, real)
        progress = self.updates / config.total_updates
        metrics["grad_norm"] = descend(loss, self.model, self.optimizer, self.optim, progress, batch.rate)
        check_finite(self.updates + 1, loss.detach(), metrics["grad_norm"], self.model)
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        return metrics

    def _average(self) -> None:
        """From now on, descend by SGD and judge the mean of the weights that it passes through."""
        self.optim = self.config.awd.averaging(self.config.optim)
        self.optimizer = self.optim.build(self.model.parameters())
        self.averaged = AveragedModel(self.model)

    def validate(self, stop: StopRequest) -> bool:
        """Judge the weights on the valid set, and keep them if they are the best; False if stopped on the way."""
        task, model = self.config.task, self.model if self.averaged is None else self.averaged.module
        state = map_state(lambda leaf: leaf[:1], self.state)
        score = evaluate(model, task, "valid", self.config.batch_size, lambda: stop.requested, state)
        if score is None:
            return False
        self.evaluation_due = False
        self.window["valid_loss"].append(score.loss)
        for name, value in score.metrics.items():
            self.window[f"valid_{name}"].append(value)
        name = task.metrics[0]
        merit = -score.metrics[name] if name in LOWER_IS_BETTER else score.metrics[name]
        rank = (-score.loss,) if isinstance(task, Stream) else (merit, -score.loss)
        if self.best is None or rank > self.best["rank"]:
            weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
            self.best = {"rank": rank, "updates": self.updates, "model": weights, "state": pack_state(state)}
        self.valid_losses.append(score.loss)
        if self.averaged is None and self.config.awd.average_due(self.updates, self.valid_losses):
            self._average()
        return True

    def state_dict(self) -> dict:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "valid_losses": self.valid_losses,
            "state": pack_state(self.state),
            "best": self.best,
            "vocabulary": list(self.config.task.vocabulary),
            "random": random_state(),
            "updates": self.updates,
            "steps_seen": self.steps_seen,
            "device": str(self.device),
            "evaluation_due": self.evaluation_due,
            "window": dict(self.window),
        }

    def load_state_dict(self, state: dict) -> None:
        check_vocabulary(self.config.task, state["vocabulary"])
        self.model.load_state_dict(state["model"])
        if state["averaged"] is not None:
            self._average()
            self.averaged.load_state_dict(state["averaged"])
        self.valid_losses, self.state = state["valid_losses"], unpack_state(self.model, state["state"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best = state["best"]
        set_random_state(state["random"])
        self.updates, self.steps_seen = state["updates"], state["steps_seen"]
        self.evaluation_due = state["evaluation_due"]
        self.window = defaultdict(list, state["window"])


def train(config: Config, run: Run, training: Training, stop: StopRequest) -> int:
    """Train to the end, or until `stop` is requested; returns the exit status."""
    if run.last_checkpoint is None:  # from its first moment a run can be resumed
        run.save_checkpoint(training.updates, training.state_dict())
    saved = time.monotonic()
    show = ("loss", *(f"valid_{name}" for name in config.task.metrics))
    with Progress(config.total_updates, training.updates, show) as progress:
        while True:
            if training.evaluation_due and not training.validate(stop):
                break  # a resumed run evaluates first
            ended = training.updates >= config.total_updates
            if training.window and (ended or training.updates % config.log_interval == 0):
                means = {name: sum(values) / len(values) for name, values in training.window.items()}
                run.log(training.updates, {"steps_seen": training.steps_seen, **means})
                progress.update(training.updates, means)
                training.window.clear()
            if ended or stop.requested:
                break
            if time.monotonic() - saved > 60 * config.save_minutes:
                run.save_checkpoint(training.updates, training.state_dict())
                saved = time.monotonic()
            training.update()
        run.save_checkpoint(training.updates, training.state_dict())
    command, folder = "python -m engram.supervised.train", shlex.quote(str(run.folder))
    if stop.requested:
        print(f"stopped; continue with: {command} --resume {folder}")
    else:
        print(f"done; judge it with: {command} --eval {folder}")
    return stop.exit_status


def start(config: Config | None, resumed: Resumed | None) -> tuple[Config, Run, Training]:
    """The run that the command line asks for, new or resumed."""
    if resumed is None:
        training = Training(config)
        return config, Run.create(config.new_folder(), to_json(config)), training
    run = Run.resume(resumed.folder)
    config = dataclasses.replace(from_json(run.config), **resumed.changes)
    training = Training(config)
    with fitting(resumed.folder):
        training.load_state_dict(run.load_checkpoint()[1])
    if "total_updates" in resumed.changes and config.total_updates <= training.updates:
        raise ConfigError(
            f"--total-updates {config.total_updates}, but {run.folder} has had {training.updates} already"
        )
    if resumed.changes:
        run.change(resumed.changes)
    return config, run, training


def run_task(argv: list[str]) -> int:
    """Train, judge or inspect, as the command line asks; returns the exit status."""
    inspection, argv = parse_inspection(argv)
    config, resumed, judged = parse(argv)
    if inspection is not None:
        if judged is None:
            raise ConfigError("--inspect looks into a trained model; add --eval RUN")
        from engram.supervised.inspection import inspect  # what draws is not there for training

        print(json.dumps(inspect(judged, *inspection)))
        return 0
    if judged is not None:
        print(json.dumps(judge(judged)))
        return 0
    with StopRequest() as stop:
        config, run, training = start(config, resumed)
        with run:
            try:
                for what, how in config.task.data().get("differs", {}).items():
                    print(f"warning: the data is not the published one: {what} has {how}", file=sys.stderr)
                print(f"run folder: {run.folder}", flush=True)
                return train(config, run, training, stop)
            except Diverged as error:
                raise RunError(f"{error}; the last good checkpoint is {run.last_checkpoint}") from error


def main(argv: list[str]) -> int:
    return exit_status(lambda: run_task(argv), ConfigError, RunError, ValueError, OSError)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
