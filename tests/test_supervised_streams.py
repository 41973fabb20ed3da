"""Streams of text: consecutive chunks, carried states, the protocols of evaluation, and AWD regularisation."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
import torch

from engram.optim import OptimConfig
from engram.policies import CORES, FWM, LSTM
from engram.supervised.awd import (
    AWDConfig,
    activation_penalty,
    locked_dropout,
    run_with_weight_dropout,
    word_dropout,
)
from engram.supervised.config import make_config
from engram.supervised.evaluate import best_temperature, check_vocabulary, evaluate
from engram.supervised.metrics import task_loss
from engram.supervised.model import ModelConfig, SequenceModel, map_state, pack_state, to_tensors, unpack_state
from engram.supervised.tasks import CatBabi, LanguageModelling, Tokens
from engram.supervised.text import articles, babi
from engram.supervised.train import Training

QA = CatBabi(30, tasks=(1, 8), size="tiny", data_dir=None)
LM = LanguageModelling(10, size="tiny", data_dir=None)
FIXED = dataclasses.replace(LM, vary_window=False)
CPU = torch.device("cpu")


def make_model(task, core=FWM.Config(8, 4), config=ModelConfig(embedding_size=6), awd=AWDConfig()):  # noqa: B008
    torch.manual_seed(0)
    return SequenceModel(task.inputs, task.outputs, core, config, awd)


def told(task, split):
    """The stories of a split as sentences of words, each after the end-of-story word, as a set of texts."""
    content = babi.load(None, task.size, task.tasks).content[split]
    for number in task.tasks:
        for story in content[number][:-1]:
            yield " ".join(["<eos>"] + [w for s in story for w in (*s.words, *([s.answer] if s.answer else []))])


def texts(task, tokens):
    """Tokens cut before each end-of-story word."""
    text = " ".join(task.vocabulary[token] for token in tokens)
    return [f"<eos>{part}".strip() for part in text.split("<eos>")[1:]]


# Concatenated bAbI


@pytest.mark.parametrize(("split", "rows"), [("valid", 5), ("test", 1), ("valid", 128)])
def test_an_epoch_has_every_story_once(split, rows):
    columns = [[] for _ in range(rows)]
    for batch in QA.chunks(split, rows):
        assert batch.continues
        for b, length in enumerate(batch.lengths):
            columns[b] += batch.x[:length, b].tolist()
    seen = [text for column in columns for text in texts(QA, column)]
    assert sorted(seen) == sorted(told(QA, split))


def test_training_goes_through_epochs_in_new_orders():
    rows, count = 4, 400
    batches = [QA.train_batch(number, rows, 1) for number in range(count)]
    stories = sorted(told(QA, "train"))
    streams = [texts(QA, np.concatenate([batch.x[:, b] for batch in batches])) for b in range(rows)]
    whole = [text for stream in streams for text in stream[:-1]]  # the last is cut off
    often = [whole.count(text) for text in stories]
    assert set(whole) == set(stories)
    assert max(often) - min(often) <= 2 * max(map(stories.count, stories))
    assert streams[0][:20] != streams[1][:20]
    other = QA.train_batch(0, rows, 2)
    assert not np.array_equal(other.x, batches[0].x)
    again = dataclasses.replace(QA).train_batch(77, rows, 1)
    np.testing.assert_array_equal(again.x, batches[77].x)


def test_targets_are_the_next_words():
    columns = np.concatenate([QA.train_batch(number, 3, 0).x for number in range(9)])
    targets = np.concatenate([QA.train_batch(number, 3, 0).y for number in range(9)])
    np.testing.assert_array_equal(columns[1:], targets[:-1])
    for batch in QA.chunks("test", 1):
        np.testing.assert_array_equal(batch.x[1:], batch.y[:-1])


def test_modes_differ_in_what_counts_alone():
    words = dataclasses.replace(QA, mode="lm")
    mark = QA.vocabulary.index("?")
    for split, rows in ("valid", 7), ("test", 1):
        for qa, lm in zip(QA.chunks(split, rows), words.chunks(split, rows), strict=True):
            np.testing.assert_array_equal(qa.x, lm.x)
            np.testing.assert_array_equal(qa.part, lm.part)
            real = np.arange(len(qa.x))[:, None] < qa.lengths
            np.testing.assert_array_equal(lm.mask, real)
            np.testing.assert_array_equal(qa.mask, real & (qa.x == mark))
            np.testing.assert_array_equal(qa.part >= 0, qa.mask)


def test_answers_are_judged_by_task():
    by_part = {part: set() for part in range(2)}
    for batch in QA.chunks("test", 1):
        for part in by_part:
            by_part[part] |= {QA.vocabulary[word] for word in batch.y[batch.part == part]}
    assert by_part[0] <= {"bedroom", "kitchen", "garden", "hallway", "bathroom", "office"}
    assert {"nothing", "apple", "milk", "football"} <= by_part[1] | {"nothing"}
    score = evaluate(make_model(QA), QA, "test", 1)
    asked = {name: sum((b.part == i).sum() for b in QA.chunks("test", 1)) for i, name in enumerate(QA.parts)}
    assert score.steps == sum(asked.values()) == QA.data()["stories_and_questions"]["test"][1]
    mean = sum(score.parts[name]["accuracy"] * asked[name] for name in QA.parts) / score.steps
    assert score.metrics["accuracy"] == pytest.approx(mean)
    assert score.metrics["perplexity"] == pytest.approx(np.exp(score.loss), rel=1e-6)


@pytest.mark.parametrize("task", [QA, dataclasses.replace(QA, mode="lm"), LM], ids=["qa", "lm", "text"])
def test_a_score_does_not_depend_on_the_window(task):
    model = make_model(task).double()
    scores = [evaluate(model, dataclasses.replace(task, window=window), "test", 1) for window in (20, 90)]
    for score in scores[1:]:
        assert score.metrics == pytest.approx(scores[0].metrics, rel=1e-9)
        assert score.steps == scores[0].steps


def test_evaluation_goes_on_from_a_copy_of_the_state():
    """Of one row, for as many rows as the valid set has; text that has a beginning starts from the initial state."""
    model = make_model(QA)
    state = map_state(lambda leaf: torch.randn_like(leaf), model.initial_state(1))
    batch = to_tensors(next(QA.batches("valid", 1)), CPU)
    assert batch.x.shape[1] == CatBabi.valid_rows
    fresh, carried = evaluate(model, QA, "valid", 1), evaluate(model, QA, "valid", 1, state=state)
    assert fresh.loss != carried.loss
    short = next(batch for batch in QA.chunks("test", 1) if batch.mask.any())
    model.eval()
    logits = model(*map(torch.from_numpy, (short.x, short.mask)), (), state).logits.detach()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CatBabi, "chunks", lambda *_: iter([short]))
        score = evaluate(model, QA, "test", 1, state=state)
    assert score.loss == pytest.approx(float(task_loss(QA, logits, torch.from_numpy(short.y[short.mask]))), rel=1e-5)
    model = make_model(LM)
    state = map_state(lambda leaf: torch.randn_like(leaf), model.initial_state(1))
    assert evaluate(model, LM, "valid", 1, state=state) == evaluate(model, LM, "valid", 1)


# States


def training(task, core=FWM.Config(8, 4), **fields):  # noqa: B008
    config = dataclasses.replace(
        make_config("catbabi-qa", "fwm", "small"), task=task, core=core, model=ModelConfig(embedding_size=6), **fields
    )
    return Training(config)


@pytest.mark.parametrize("task", [QA, FIXED], ids=["qa", "text"])
def test_chunks_go_on_where_the_last_ended(task):
    """With a learning rate of next to nothing, two chunks end in the state of both read at once."""
    trained = training(task, batch_size=3, optim=OptimConfig(learning_rate=1e-12))
    batches = [to_tensors(task.train_batch(number, 3, 0), CPU) for number in range(2)]
    whole = torch.cat([batch.x for batch in batches])
    expected = trained.model(whole, torch.zeros_like(whole, dtype=torch.bool)).state
    for _ in batches:
        trained.update()
    for layer, same in zip(trained.state, expected, strict=True):
        for leaf, other in zip(layer, same, strict=True):
            torch.testing.assert_close(leaf, other, rtol=1e-4, atol=1e-5)
            assert not leaf.requires_grad


def test_an_epoch_of_text_starts_from_the_initial_state():
    trained, continues = training(FIXED, batch_size=400), []
    for number in range(12):
        batch = FIXED.train_batch(number, 400, 0)
        continues.append(batch.continues)
        before = trained.state
        trained.update()
        if number and not batch.continues:
            x = to_tensors(batch, CPU).x
            assert trained.model(x, x < 0, (), before).state[0].h.shape == (400, 8)
    assert continues == ([False] + [True] * 4) * 2 + [False, True]  # 20,000 words in 400 rows: 49 steps


def test_a_batch_without_answers_is_read_and_not_learned_from():
    task = dataclasses.replace(QA, window=2)
    trained = training(task, batch_size=1)
    number = next(n for n in range(1, 40) if not task.train_batch(n, 1, 0).mask.any())
    for _ in range(number):
        trained.update()
    weights = [p.clone() for p in trained.model.parameters()]
    before = trained.state[0].h
    trained.update()
    assert trained.updates == number + 1
    assert all(torch.equal(p, w) for p, w in zip(trained.model.parameters(), weights, strict=True))
    assert not torch.equal(trained.state[0].h, before)


def test_states_are_packed_for_checkpoints():
    model = make_model(LM, config=ModelConfig(embedding_size=6, lstm_layers=2, lstm_size=5))
    state = map_state(lambda leaf: torch.randn_like(leaf), model.initial_state(3))
    again = unpack_state(model, pack_state(state))
    for layer, same in zip(state, again, strict=True):
        assert type(layer) is type(same)
        assert all(torch.equal(a, b) for a, b in zip(layer, same, strict=True))
    assert unpack_state(model, pack_state(None)) is None


def test_another_vocabulary_is_one_line():
    words = list(QA.vocabulary)
    check_vocabulary(QA, words)
    with pytest.raises(Exception, match=f"another vocabulary.*: {len(words)} words, not {len(words) - 1}, '<task 20>'"):
        check_vocabulary(QA, words[:-1])


# Language modelling


def test_columns_are_the_text():
    ids = [token for batch in LM.chunks("test", 1) for token in batch.y[:, 0]]
    text = [word for line in articles.lines("test", "tiny") for word in (*line.split(), "<eos>")]
    assert [LM.vocabulary[token] for token in ids] == text[1:]
    columns = np.concatenate([batch.x for batch in LM.chunks("valid", 10)])
    valid = [word for line in articles.lines("valid", "tiny") for word in (*line.split(), "<eos>")]
    length = len(valid) // 10
    for b in range(10):
        assert [LM.vocabulary[token] for token in columns[:, b]] == valid[b * length : (b + 1) * length - 1]


def test_windows_of_an_epoch():
    """Of random lengths, with learning rates in proportion; together they are the text."""
    task = LanguageModelling(70, size="tiny", data_dir=None)
    batches, number = [task.train_batch(0, 4, 5)], 1
    while (batch := task.train_batch(number, 4, 5)).continues:
        batches.append(batch)
        number += 1
    x, y = (np.concatenate([getattr(batch, name) for batch in batches]) for name in "xy")
    assert x.shape == (20_000 // 4 - 1, 4)
    np.testing.assert_array_equal(x[1:], y[:-1])
    lengths = [len(batch.x) for batch in batches]
    assert [batch.rate for batch in batches] == [length / 70 for length in lengths]
    assert len(set(lengths)) > 5
    assert all(5 <= length <= 80 for length in lengths[:-1])
    assert 60 < np.mean(lengths) < 75
    second = task.train_batch(number, 4, 5)
    assert not second.continues
    assert len(second.x) != len(batches[0].x) or len(task.train_batch(number + 1, 4, 5).x) != lengths[1]


def test_recalled_words_are_judged_apart():
    score = evaluate(make_model(LM), LM, "test", 1)
    share = np.mean(np.concatenate([batch.part == 0 for batch in LM.chunks("test", 1)]))
    assert 0.03 < share < 0.09
    logs = {name: np.log(score.parts[name]["perplexity"]) for name in LM.parts}
    mean = share * logs["recalled words"] + (1 - share) * logs["other words"]
    assert score.loss == pytest.approx(mean, rel=1e-6)


def test_a_uniform_model_is_as_perplexed_as_it_has_words():
    model = make_model(LM)
    torch.nn.init.zeros_(model.head[-1].weight)
    torch.nn.init.zeros_(model.head[-1].bias)
    for split in "valid", "test":
        score = evaluate(model, LM, split, 3)
        assert score.metrics["perplexity"] == pytest.approx(len(LM.vocabulary), rel=1e-4)
        assert score.standard_errors["perplexity"] < 0.1


def test_memory_of_a_test_does_not_grow_with_it(tmp_path):
    peaks = []
    for times in (1, 10):
        folder = tmp_path / str(times)
        folder.mkdir()
        for split in ("train", "valid", "test"):
            lines = list(articles.lines(split, "tiny"))
            (folder / f"{split}.txt").write_text("".join(lines * (times if split == "test" else 1)))
        task = LanguageModelling(size="tiny", data_dir=str(folder))
        assert len(task.vocabulary) > 100  # it is read
        tracemalloc.start()
        steps = sum(len(batch.x) for batch in task.batches("test", 1))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert steps == times * 5_000 - 1
    assert peaks[1] < 1.2 * peaks[0]


def test_too_little_text_is_one_line():
    with pytest.raises(ValueError, match=r"20000 words are too few for 15000 rows \(--batch-size\)"):
        LM.train_batch(0, 15_000, 0)


@pytest.mark.parametrize(("field", "value"), [("corpus", "ptb"), ("size", "huge"), ("window", 0), ("window", 4)])
def test_impossible_text_is_one_line(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}, but it must be .* \\(--task.{field}\\)"):
        dataclasses.replace(LM, **{field: value})


# AWD


def test_sizes_of_the_papers_models():
    """Schlag et al. 2021: AWD-FWM on Penn Treebank and WikiText-2, and 694 k weights on catbAbI."""
    counts = []
    for words in (10_000, 33_278):
        awd = ModelConfig(400, lstm_layers=2, lstm_size=1150, tied=True)
        model = SequenceModel(Tokens(words), Tokens(words), CORES["fwm-lm"], awd)
        assert model.head[-1].weight is model.encoder.weight
        counts.append(sum(p.numel() for p in model.parameters()))
    assert counts == [24_325_025, 33_659_503]
    config = make_config("catbabi-qa", "fwm", "paper")
    model = SequenceModel(Tokens(200), Tokens(200), config.core, config.model)
    assert sum(p.numel() for p in model.parameters()) == 693_985 + 200  # the authors' last layer has no bias


def test_weights_cannot_be_tied_to_other_sizes():
    with pytest.raises(ValueError, match=r"tied=True, but it must be False: .*inputs have 6 units.*outputs 8"):
        make_model(LM, config=ModelConfig(6, tied=True))


def test_locked_dropout():
    xs = torch.ones(5, 40, 30)
    dropped = locked_dropout(xs, 0.4, training=True)
    assert torch.equal(dropped, dropped[:1].expand_as(dropped))
    assert set(dropped.unique().tolist()) == {0.0, float(torch.tensor(1.0) / 0.6)}
    assert (dropped == 0).float().mean().item() == pytest.approx(0.4, abs=0.06)
    assert locked_dropout(xs, 0.4, training=False) is xs


def test_word_dropout():
    x = torch.randint(50, (30, 20))
    dropped = word_dropout(torch.ones(30, 20, 3), x, 50, 0.3, training=True)
    for word in range(50):
        assert len(dropped[x == word].unique()) == 1
    assert set(dropped.unique().tolist()) == {0.0, float(torch.tensor(1.0) / 0.7)}
    assert torch.equal(word_dropout(torch.ones(30, 20, 3), x, 50, 0.3, training=False), torch.ones(30, 20, 3))


@pytest.mark.parametrize("core", [LSTM.Config(6), FWM.Config(6, 3)])
def test_weight_dropout(core):
    """The output is that of a core whose recurrent weights have some zeros, the others being larger."""
    layer = core.build(4)
    xs, state = torch.randn(7, 3, 4), layer.initial_state(3)
    weight = (layer if isinstance(core, LSTM.Config) else layer.lstm).weight_hh
    torch.manual_seed(1)
    dropped = run_with_weight_dropout(layer, 0.5, xs, state).ys
    torch.manual_seed(1)
    expected = torch.nn.functional.dropout(weight, 0.5)
    dropped.sum().backward()
    assert torch.equal(weight.grad != 0, expected != 0)
    with torch.no_grad():
        weight.copy_(expected)
    torch.testing.assert_close(layer(xs, state).ys, dropped)
    layer.eval()
    assert torch.equal(run_with_weight_dropout(layer, 0.5, xs, state).ys, layer(xs, state).ys)


def test_regularisation_is_for_training():
    awd = AWDConfig(0.5, 0.2, 0.3, 0.3, 0.3)
    model = make_model(LM, LSTM.Config(6), ModelConfig(6, lstm_layers=2, lstm_size=5, tied=True), awd)
    plain = make_model(LM, LSTM.Config(6), ModelConfig(6, lstm_layers=2, lstm_size=5, tied=True))
    x = torch.randint(50, (9, 4))
    mask = torch.ones_like(x, dtype=torch.bool)
    assert not torch.equal(model(x, mask).logits, model(x, mask).logits)
    assert torch.equal(model.eval()(x, mask).logits, plain(x, mask).logits)
    zeros = model.train()(x, mask).dropped == 0
    assert torch.equal(zeros, zeros[:1].expand_as(zeros))
    assert zeros.any()


def test_activation_penalty():
    hidden, dropped = torch.randn(5, 2, 3), torch.randn(5, 2, 3)
    config = AWDConfig(activation_cost=2.0, slowness_cost=3.0)
    slowness = sum((hidden[t + 1] - hidden[t]).square().sum() for t in range(4)) / (4 * 2 * 3)
    expected = 2 * dropped.square().mean() + 3 * slowness
    real = torch.ones(5, 2, dtype=torch.bool)
    torch.testing.assert_close(activation_penalty(config, hidden, dropped, real), expected)
    first = activation_penalty(config, hidden[:1], dropped[:1], real[:1])
    torch.testing.assert_close(first, 2 * dropped[:1].square().mean())
    padded = [torch.cat([x, torch.full_like(x, 9.0)]) for x in (hidden, dropped)]
    torch.testing.assert_close(activation_penalty(config, *padded, torch.cat([real, ~real])), expected)


def test_when_averaging_starts():
    patient = AWDConfig(average_patience=2)
    assert not patient.average_due(9, [5.0, 4.0])
    assert not patient.average_due(9, [5.0, 4.0, 4.5])
    assert not patient.average_due(9, [4.0, 5.0, 4.5]), "of the two before, none is older than two evaluations"
    assert patient.average_due(9, [4.0, 5.0, 5.0, 4.5])
    assert not patient.average_due(9, [4.0, 5.0, 5.0, 3.5])
    assert not AWDConfig().average_due(9, [1.0, 2.0, 3.0])
    assert [AWDConfig(average_start=5).average_due(updates, [1.0]) for updates in (4, 5)] == [False, True]


def test_the_mean_of_the_weights_is_judged(monkeypatch):
    awd = AWDConfig(average_start=2, average_learning_rate=0.5)
    trained = training(FIXED, LSTM.Config(5), batch_size=4, awd=awd, eval_interval=2)
    judged = []

    def watching(model, *_):
        judged.append(model)
        return evaluate(model, FIXED, "test", 4)

    monkeypatch.setattr("engram.supervised.train.evaluate", watching)
    stop = type("Stop", (), {"requested": False})()
    for _ in range(2):
        trained.update()
    trained.validate(stop)
    assert isinstance(trained.optimizer, torch.optim.SGD)
    weights = []
    for _ in range(3):
        trained.update()
        weights.append(trained.model.core.weight_hh.detach().clone())
    trained.validate(stop)
    assert judged[0] is trained.model
    torch.testing.assert_close(judged[1].core.weight_hh, torch.stack(weights).mean(0))
    assert trained.optimizer.param_groups[0]["lr"] == 0.5


def test_the_temperature_with_the_lowest_loss():
    model = make_model(FIXED, LSTM.Config(6), ModelConfig(6))
    with torch.no_grad():
        model.head[-1].weight.mul_(40)
    temperature = best_temperature(model, FIXED, 4)
    losses = {}
    for model.temperature in (0.8, 1.0, temperature, 1.3):
        losses[model.temperature] = evaluate(model, FIXED, "valid", 4).loss
    assert temperature > 1
    assert min(losses.values()) == losses[temperature]


@pytest.mark.parametrize(
    ("field", "value"),
    [("weight_dropout", 1.0), ("activation_cost", -1.0), ("average_patience", 0), ("average_learning_rate", 0.0)],
)
def test_impossible_regularisation_is_one_line(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}, but it must be .* \\(--awd.{field.replace('_', '-')}\\)"):
        AWDConfig(**{field: value})
