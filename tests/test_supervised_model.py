"""The supervised model and its scores: what counts, what does not, and what trivial and perfect models get."""

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from engram.policies import CORES, Core, core_config
from engram.policies.convlstm import ConvLSTM
from engram.supervised.evaluate import Constant, evaluate
from engram.supervised.metrics import METRICS, Judged, answers, step_losses, task_loss
from engram.supervised.model import ModelConfig, SequenceModel, to_tensors
from engram.supervised.tasks import (
    TASKS,
    AssociativeRetrieval,
    Babi,
    CodeExecution,
    ConvexHull,
    Copy,
    DictionaryInference,
    DoubleCopy,
    LearningToExecute,
    ListOps,
    Memorisation,
    NthFarthest,
    PrioritySort,
    RelationalRecall,
    ShortestPath,
    SpanningTree,
    Stream,
    Tokens,
    TravellingSalesman,
    Vectors,
)

TINY = [
    AssociativeRetrieval(num_pairs=3),
    DictionaryInference(num_words=3, word_length=2),
    NthFarthest(num_vectors=3, vector_size=2),
    ListOps(depth=2),
    CodeExecution(num_statements=4),
    Copy(width=3, max_length=4),
    DoubleCopy(length=3),
    PrioritySort(width=3, num_vectors=4, num_answers=2),
    RelationalRecall(width=3, max_items=3),
    LearningToExecute(length=2),
    Memorisation(length=4),
    ConvexHull(max_points=6),
    TravellingSalesman(max_points=6),
    ShortestPath(max_nodes=6),
    SpanningTree(max_nodes=6),
    Babi((1, 4, 8), "tiny"),
]
every_task = pytest.mark.parametrize("task", TINY, ids=lambda task: type(task).__name__)


def tensors(task, count=6, split="valid"):
    return to_tensors(task.batch(split, np.arange(count, dtype=np.uint64)), torch.device("cpu"))


def small_core(name):
    config = core_config(name)
    sizes = {field: min(value, 4) for field, value in vars(config).items() if type(value) is int}
    if isinstance(config, ConvLSTM.Config):
        sizes |= {"channels": 4}
    return dataclasses.replace(config, **sizes)


def make_model(task, core="lstm", **choices):
    torch.manual_seed(0)
    return SequenceModel(task.inputs, task.outputs, small_core(core), ModelConfig(**{"embedding_size": 5} | choices))


def test_every_kind_of_task_is_here():
    assert {type(task) for task in TINY} == {type(task) for task in TASKS.values() if not isinstance(task, Stream)}


# What does not count


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("task", [ListOps(depth=2), Copy(width=3, max_length=4)], ids=["tokens", "vectors"])
def test_padding_changes_nothing(task, core):
    """Of a row alone, of the same among longer ones, and of one with much more padding."""
    model, batch = make_model(task, core).double(), tensors(task)
    x = batch.x if batch.x.dim() == 2 else batch.x.double()
    expected, _, reports, *_ = model(x, batch.mask, model.core.aux_losses)
    padding = torch.full_like(x, 1)
    longer, *_ = model(torch.cat([x, padding]), torch.cat([batch.mask, torch.zeros_like(batch.mask)]))
    torch.testing.assert_close(longer, expected)
    rows = batch.mask.nonzero()[:, 1]
    for b, length in enumerate(batch.lengths):
        alone, _, reported, *_ = model(x[:length, b : b + 1], batch.mask[:length, b : b + 1], model.core.aux_losses)
        torch.testing.assert_close(alone, expected[rows == b])
        for name in reports:
            torch.testing.assert_close(reported[name][:, 0], reports[name][:length, b])


@every_task
def test_targets_that_do_not_count_are_never_read(task):
    model, batch = make_model(task), tensors(task)
    poison = -(10**9) if isinstance(task.outputs, Tokens) else float("nan")
    mask = batch.mask if batch.y.dim() == 2 else batch.mask[..., None]
    poisoned = torch.where(mask, batch.y, torch.full_like(batch.y, poison))
    logits = model(batch.x, batch.mask).logits
    said = answers(task, logits)
    expected, targets = batch.y[batch.mask], poisoned[batch.mask]
    assert torch.equal(task_loss(task, logits, expected), task_loss(task, logits, targets))
    for name in task.metrics:
        judged = [Judged(said, step_losses(task, logits, y), y, batch.mask, batch.x) for y in (expected, targets)]
        for part, same in zip(*map(METRICS[name], judged), strict=True):
            assert torch.equal(part, same)


def test_blank_inputs_are_zero_vectors_and_stay_so():
    task = LearningToExecute(length=2)
    model, batch = make_model(task), tensors(task)
    logits = model(batch.x, batch.mask).logits
    task_loss(task, logits, batch.y[batch.mask]).backward()
    assert not model.encoder.weight[0].any()
    assert not model.encoder.weight.grad[0].any()
    assert model.encoder.weight.grad[1:].any()
    assert (batch.x[batch.mask] == 0).all()


def test_dropout_is_for_training():
    model, batch = make_model(TINY[0], dropout=0.5), tensors(TINY[0])
    assert not torch.equal(model(batch.x, batch.mask)[0], model(batch.x, batch.mask)[0])
    model.eval()
    assert torch.equal(model(batch.x, batch.mask)[0], model(batch.x, batch.mask)[0])


def test_dropout_is_not_for_evaluation(monkeypatch):
    monkeypatch.setattr(type(TINY[0]), "test_size", 40)
    model = make_model(TINY[0], dropout=0.5)
    assert evaluate(model, TINY[0], "test", 40) == evaluate(model, TINY[0], "test", 40)
    assert model.training
    assert evaluate(model.eval(), TINY[0], "test", 40)
    assert not model.training


def test_the_head():
    linear, deep = make_model(TINY[0]), make_model(TINY[0], head_layers=2, head_size=7)
    assert [type(layer) for layer in linear.head] == [nn.Linear]
    shapes = [(layer.in_features, layer.out_features) for layer in deep.head if isinstance(layer, nn.Linear)]
    assert shapes == [(4, 7), (7, 7), (7, 10)]
    assert [type(layer) for layer in deep.head].count(nn.ReLU) == 2


@pytest.mark.parametrize(
    ("field", "value"), [("embedding_size", 0), ("head_layers", -1), ("head_size", 0), ("dropout", 1.0)]
)
def test_impossible_models_are_one_line(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}, but it must be .* \\(--model.{field.replace('_', '-')}\\)"):
        ModelConfig(**{field: value})


# Scores


class Echo(Core):
    """Says what it reads."""

    class State(NamedTuple):
        pass

    def __init__(self, size):
        super().__init__()
        self.input_size = self.output_size = size

    def initial_state(self, batch_size):
        return self.State()

    def step(self, x, state, report=(), donate=False):
        raise NotImplementedError

    def forward(self, xs, state, episode_starts=None, report=(), donate=False):
        return xs, state, {}


class EchoConfig:
    def build(self, input_size):
        return Echo(input_size)


def oracle(task):
    """The task with its targets as inputs, and a model whose core is told them."""

    class Told(type(task)):
        metrics = tuple(name for name in task.metrics if name not in ("valid_tours", "tour_length"))  # they need inputs

        def batch(self, split, indices):
            batch = super().batch(split, indices)
            return batch._replace(x=batch.y)

    told = Told(**vars(task))
    width = task.outputs.size
    model = SequenceModel(task.outputs, task.outputs, EchoConfig(), ModelConfig(embedding_size=width))
    with torch.no_grad():
        if isinstance(task.outputs, Tokens):
            model.encoder.weight.copy_(torch.eye(width))
        model.head[0].weight.copy_(20 * torch.eye(width))
        model.head[0].bias.fill_(0 if isinstance(task.outputs, Tokens) else -10)
    return model, told


@every_task
def test_who_knows_everything_is_always_right(task, monkeypatch):
    for name in ("valid_size", "test_size"):
        monkeypatch.setattr(type(task), name, 40)
    model, told = oracle(task)
    score = evaluate(model, told, "test", 16)
    assert score.metrics == {name: 0.0 if name == "bit_error" else 1.0 for name in told.metrics}
    assert set(score.standard_errors.values()) == {0.0}
    assert score.loss < 1e-3
    assert score.examples == 40


@every_task
def test_a_score_does_not_depend_on_the_batch_size(task, monkeypatch):
    monkeypatch.setattr(type(task), "test_size", 40)
    model = make_model(task)
    whole, parts = evaluate(model, task, "test", 40), evaluate(model, task, "test", 7)
    assert whole.metrics == pytest.approx(parts.metrics, rel=1e-12)
    assert whole.loss == pytest.approx(parts.loss, rel=1e-5)
    assert evaluate(model, task, "valid", 40).loss != whole.loss
    assert evaluate(model, task, "test", 7, stopped=lambda: True) is None


def test_a_constant_answer_gets_the_share_of_the_likeliest_target(monkeypatch):
    task = CodeExecution(num_statements=10)
    monkeypatch.setattr(CodeExecution, "test_size", 300)
    score = evaluate(Constant(task), task, "test", 100)
    batch = tensors(task, 300, "test")
    silent = (batch.y[batch.mask] == 0).float()
    assert score.metrics == {"sequence_accuracy": 0.0, "output_accuracy": 0.0, "no_output_accuracy": 1.0}
    assert score.loss > -silent.mean() * silent.mean().log()
    bits = Copy(width=3, max_length=4)
    monkeypatch.setattr(Copy, "test_size", 2_000)
    score = evaluate(Constant(bits), bits, "test", 1000)
    assert abs(score.metrics["bit_error"] - bits.floors()["coins"]) < 3 * score.standard_errors["bit_error"]
    assert score.loss == pytest.approx(np.log(2), abs=2e-3)


def test_metrics():
    """Three examples: right, half right, wrong at its only step."""
    mask = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    targets = torch.tensor([3, 0, 0, 2, 1])  # of steps (0, 0), (0, 1), (1, 0), (1, 1), (1, 2)
    said, losses = torch.tensor([3, 0, 0, 1, 0]), torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0])

    def parts(name, answers, targets):
        judged = Judged(answers, losses, targets, mask, torch.zeros(3, 3, dtype=torch.long))
        return [part.tolist() for part in METRICS[name](judged)]

    assert parts("accuracy", said, targets) == [[2, 1, 0], [2, 2, 1]]
    assert parts("sequence_accuracy", said, targets) == [[True, False, False], [1, 1, 1]]
    assert parts("output_accuracy", said, targets) == [[1, 0, 0], [1, 1, 1]]
    assert parts("no_output_accuracy", said, targets) == [[1, 1, 0], [1, 1, 0]]
    assert parts("perplexity", said, targets) == [[2.5, 5.0, 8.0], [2, 2, 1]]
    bits = torch.tensor([[0, 1], [1, 1], [1, 0], [1, 1], [0, 0]])
    wrong = bits.bool() ^ torch.tensor([[0, 0], [0, 0], [0, 0], [0, 1], [1, 1]]).bool()
    assert parts("bit_error", wrong, bits.float()) == [[0, 1, 2], [1, 1, 1]]
    assert parts("sequence_accuracy", wrong, bits.float()) == [[True, False, False], [1, 1, 1]]


def test_the_standard_error_is_that_of_resampling(monkeypatch):
    """Of the accuracy over steps, which examples have in different numbers."""
    task = Memorisation(length=4)
    monkeypatch.setattr(Memorisation, "test_size", 400)
    generate = Memorisation.generate
    monkeypatch.setattr(Memorisation, "generate", lambda self, streams, split: generate(self, streams, "train"))
    model = make_model(task)
    score = evaluate(model, task, "test", 400)
    batch = to_tensors(task.batch("test", np.arange(400, dtype=np.uint64)), torch.device("cpu"))
    model.eval()
    said = answers(task, model(batch.x, batch.mask)[0])
    targets = batch.y[batch.mask]
    judged = Judged(said, torch.zeros(len(said)), targets, batch.mask, batch.x)
    right, among = (part.numpy() for part in METRICS["accuracy"](judged))
    generator = np.random.default_rng(0)
    draws = generator.integers(400, size=(2_000, 400))
    resampled = right[draws].sum(1) / among[draws].sum(1)
    assert score.standard_errors["accuracy"] == pytest.approx(resampled.std(), rel=0.1)


def test_loss_of_bits_is_a_mean_over_bits():
    task = Copy(width=3)
    assert task.outputs == Vectors(3)
    logits, targets = torch.randn(5, 3), torch.randint(2, (5, 3)).float()
    right = torch.where(targets > 0, logits.sigmoid(), 1 - logits.sigmoid())
    torch.testing.assert_close(task_loss(task, logits, targets), -right.log().mean())
