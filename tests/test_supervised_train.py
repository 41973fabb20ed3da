"""Supervised runs, end to end: every task trains, what is stopped goes on bit for bit, what fails says so in a line."""

import itertools
import json
import math
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from engram.command_line import ConfigError
from engram.policies import CORES
from engram.run import load_checkpoint, read_config
from engram.supervised import train as program
from engram.supervised.config import Config, from_json, make_config, parse, to_json
from engram.supervised.presets import PAPERS, SMALL
from engram.supervised.tasks import TASKS, ListOps, Stream
from engram.supervised.text import language

TEXT = {
    "babi": "--task.tasks 1 15 --task.size tiny",
    "catbabi-qa": "--task.tasks 1 15 --task.size tiny --task.window 20",
    "catbabi-lm": "--task.tasks 1 15 --task.size tiny --task.window 20",
    "penn-treebank": "--task.size tiny --task.window 10",
    "wikitext-2": "--task.size tiny --task.window 10",
    "wikitext-103": "--task.size tiny --task.window 10",
}
"""task -> flags that make its data small"""
FEW = "--batch-size 4 --total-updates 12 --eval-interval 5 --log-interval 3 --save-minutes 0"
LSTM = f"--task associative-retrieval --core lstm --core.hidden-size 8 {FEW}"
STREAM = f"--task catbabi-qa {TEXT['catbabi-qa']} --core fwm --core.hidden-size 8 --core.memory-size 4 {FEW}"
AWD = (
    f"--task penn-treebank {TEXT['penn-treebank']} --core lstm --core.hidden-size 6 --model.embedding-size 6 "
    "--model.tied --model.lstm-layers 2 --model.lstm-size 8 --awd.weight-dropout 0.5 --awd.word-dropout 0.1 "
    "--awd.input-dropout 0.2 --awd.layer-dropout 0.3 --awd.output-dropout 0.4 --awd.activation-cost 2 "
    f"--awd.slowness-cost 1 --awd.average-start 5 --awd.average-learning-rate 1 {FEW}"
)
MNM = f"--task listops --core mnm --core.hidden-size 4 --core.memory-size 4 --model.dropout 0.2 {FEW}"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """A run without --folder goes to tmp_path/runs, and evaluations are short."""
    monkeypatch.chdir(tmp_path)
    for task in {type(task) for task in TASKS.values() if not isinstance(task, Stream)}:
        monkeypatch.setattr(task, "valid_size", 10)
        monkeypatch.setattr(task, "test_size", 20)


def start(line, folder="run"):
    return program.main([*line.split(), "--folder", folder])


def metrics(folder):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["wall_time"]
    return lines


def error_line(capsys):
    errors = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", errors), errors
    return errors


def assert_same(value, other):
    """Compare nested states exactly."""
    assert type(value) is type(other)
    if isinstance(value, dict):
        assert value.keys() == other.keys()
        for key in value:
            assert_same(value[key], other[key])
    elif isinstance(value, list | tuple):
        for entry, same in zip(value, other, strict=True):
            assert_same(entry, same)
    elif isinstance(value, torch.Tensor):
        assert torch.equal(value, other)
    elif isinstance(value, np.ndarray):
        np.testing.assert_array_equal(value, other)
    else:
        assert value == other


def state(folder):
    """The newest checkpoint. Of the global generators a run draws from torch's alone."""
    step, state = load_checkpoint(folder)
    return step, state | {"random": state["random"]["torch"]}


@contextmanager
def interrupted(call, function="descend"):
    """Sends this process a SIGTERM in the midst of the n-th call of a function of the program."""
    original, count = getattr(program, function), iter(range(1, 1000))

    def interrupting(*args):
        if next(count) == call:
            signal.raise_signal(signal.SIGTERM)
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, function, interrupting)
        yield


# Runs


@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains_and_is_judged(task, capsys):
    assert start(f"--task {task} --core lstm --core.hidden-size 8 {FEW} {TEXT.get(task, '')}") == 0
    capsys.readouterr()
    lines = metrics("run")
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    valid = {f"valid_{name}" for name in ("loss", *TASKS[task].metrics)}
    assert [valid <= line.keys() for line in lines] == [False, True, False, True]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert program.main(["--eval", "run"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    report = json.loads(line)
    assert (report["task"], report["core"], report["data"], report["seed"]) == (task, "lstm", "generated", 0)
    assert report["updates"] == 12
    config = from_json(json.loads(Path("run/config.json").read_text()))
    batches = list(config.task.batches("test", 4))
    if not isinstance(config.task, Stream):
        assert (report["examples_seen"], report["test_examples"]) == (48, sum(len(batch.lengths) for batch in batches))
    assert report["test_steps"] == sum(batch.mask.sum() for batch in batches)
    assert report["options"] == json.loads(json.dumps(vars(config.task)))
    if task not in TEXT:
        assert config.task == SMALL[task]["task"]
        assert report["test_examples"] == 20
    assert bool(report["parts"]) == bool(config.task.parts)
    assert report["parts"].keys() <= set(config.task.parts)
    assert report["steps_seen"] == lines[-1]["steps_seen"] >= 48
    for name in TASKS[task].metrics:
        assert name in report
        assert name in report["constant"]
        assert name in report["standard_errors"]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_learned_from(task):
    """An LSTM of 64 units lowers the loss by a fifth, on the tiniest of each kind."""
    tiny = {
        "associative-retrieval": "--task.num-pairs 1",
        "dictionary-inference": "--task.num-words 2",
        "nth-farthest": "--task.num-vectors 2 --task.vector-size 1",
        "listops": "--task.depth 1",
        "code-execution": "--task.num-statements 4",
        "copy": "--task.width 1 --task.max-length 2",
        "reverse": "--task.width 1 --task.max-length 2",
        "double-copy": "--task.length 1",
        "priority-sort": "--task.width 1 --task.num-vectors 2 --task.num-answers 1",
        "relational-recall": "--task.width 1 --task.max-items 3",
        **TEXT,
        "convex-hull": "--task.max-points 5",
        "travelling-salesman": "--task.max-points 5",
        "shortest-path": "--task.max-nodes 5",
        "spanning-tree": "--task.max-nodes 5",
    }.get(task, "--task.length 1" + (" --task.nesting 1" if task.startswith("execute") else ""))
    rates = "--optim.learning-rate 0.02 --total-updates 300 --log-interval 10 --eval-interval 300 --batch-size 64"
    assert start(f"--task {task} --core lstm --core.hidden-size 64 {tiny} {rates}") == 0
    losses = [line["loss"] for line in metrics("run")]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(("line", "updates"), [(LSTM, 3), (LSTM, 5), (MNM, 7), (STREAM, 7), (AWD, 4), (AWD, 8)])
def test_a_run_that_is_stopped_and_resumed_is_the_same_run(line, updates, capsys):
    assert start(line, "whole") == 0
    with interrupted(updates):
        assert start(line, "cut") == 143
    assert "continue with: python -m engram.supervised.train --resume cut\n" in capsys.readouterr().out
    assert load_checkpoint("cut")[0] == updates
    assert program.main(["--resume", "cut"]) == 0
    assert "done; judge it with: python -m engram.supervised.train --eval cut\n" in capsys.readouterr().out
    assert metrics("whole") == metrics("cut")
    assert_same(state("whole"), state("cut"))


def test_a_run_that_is_made_longer_is_the_longer_run(capsys):
    """Where the learning rate is constant, and evaluations fall on the same updates."""
    line = f"{LSTM} --optim.schedule constant --eval-interval 3"
    assert start(f"{line} --total-updates 12", "long") == 0
    assert start(f"{line} --total-updates 6", "short") == 0
    config = json.loads(Path("short/config.json").read_text())
    assert program.main(["--resume", "short", "--total-updates", "12", "--device", "cpu"]) == 0
    assert json.loads(Path("short/config.json").read_text()) == config | {"total_updates": 12, "device": "cpu"}
    assert_same(state("long"), state("short"))
    capsys.readouterr()
    assert program.main(["--resume", "short", "--total-updates", "12"]) == 2
    assert "--total-updates 12, but short has had 12 already" in error_line(capsys)


def test_an_evaluation_that_is_stopped_is_made_up_for():
    assert start(LSTM, "whole") == 0
    with interrupted(2, "evaluate"):
        assert start(LSTM, "cut") == 143
    assert load_checkpoint("cut")[1]["evaluation_due"]
    assert program.main(["--resume", "cut"]) == 0
    assert metrics("whole") == metrics("cut")
    assert_same(state("whole"), state("cut"))


def test_the_best_weights_are_judged(monkeypatch):
    """They are those after the first evaluation, where the later ones are made out to be worse."""
    evaluate, scores = program.evaluate, iter([0.5, 0.9, 0.2])

    def claimed(*args):
        score = evaluate(*args)
        return score._replace(metrics={"accuracy": next(scores)})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "evaluate", claimed)
        assert start(LSTM) == 0
    state = load_checkpoint("run")[1]
    assert (state["best"]["updates"], state["updates"]) == (10, 12)
    judged = []
    monkeypatch.setattr(
        "engram.supervised.evaluate.evaluate",
        lambda model, *args, **options: judged.append(model) or evaluate(model, *args, **options),
    )
    report = program.judge("run")
    assert report["best_updates"] == 10
    for name, weight in judged[0].state_dict().items():
        assert torch.equal(weight, state["best"]["model"][name])
        assert not torch.equal(weight, state["model"][name])


def test_the_least_bit_error_is_the_best():
    line = f"--task copy --core lstm --core.hidden-size 8 --optim.learning-rate 0.05 {FEW} --total-updates 40"
    assert start(line) == 0
    errors = {line["step"]: line["valid_bit_error"] for line in metrics("run") if "valid_bit_error" in line}
    assert -load_checkpoint("run")[1]["best"]["rank"][0] == min(errors.values()) < max(errors.values())


def test_streams_keep_the_weights_with_the_least_loss_of_what_they_learn():
    """In catbabi-lm that is of all words, though answers alone are scored."""
    line = f"{STREAM.replace('-qa', '-lm')} --optim.learning-rate 0.05 --total-updates 40"
    assert start(line) == 0
    losses = [line["valid_loss"] for line in metrics("run") if "valid_loss" in line]
    assert -load_checkpoint("run")[1]["best"]["rank"][0] == min(losses) < max(losses)
    report = program.judge("run")
    words = sum(int(batch.mask.sum()) for batch in from_json(read_config("run")).task.batches("test", 4))
    assert report["test_steps"] == words
    assert report["test_loss"] != pytest.approx(math.log(report["perplexity"]))


def test_one_seed_one_run():
    for folder, seed in ("a", 1), ("b", 1), ("c", 2):
        assert start(f"{LSTM} --seed {seed}", folder) == 0
    assert metrics("a") == metrics("b") != metrics("c")


def test_the_losses_of_a_core_are_added(capsys):
    for folder, cost in ("with", 1.0), ("without", 0.0):
        assert start(f"{MNM} --aux-cost {cost}", folder) == 0
    with_cost, without = metrics("with"), metrics("without")
    assert with_cost[0]["meta_loss"] > 0
    assert with_cost[-1]["meta_loss"] != without[-1]["meta_loss"]


# Configs


@pytest.mark.parametrize("task", TASKS)
def test_every_choice_has_a_config(task):
    for core, preset in itertools.product(CORES, ("small", "paper")):
        config = make_config(task, core, preset)
        assert type(config.core) is type(CORES[core])
        assert type(config.task) is type(TASKS[task])
        assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_presets_are_of_tasks_and_cores():
    assert SMALL.keys() == TASKS.keys() == {task for task, core in PAPERS if core is None}
    assert all(core in CORES for _, core in PAPERS if core is not None)
    for task, entry in SMALL.items():
        assert type(entry["task"]) is type(TASKS[task])


def test_flags_change_the_preset():
    default, _, _ = parse(["--task", "listops", "--core", "fwm"])
    flags = "--task.depth 5 --task.train-size None --core.memory-size 7 --model.head-size 9 --optim.beta2 0.9 --seed 3"
    config, resumed, judged = parse(["--task", "listops", "--core", "fwm", *flags.split()])
    assert (resumed, judged) == (None, None)
    expected = to_json(default)
    expected["task"] |= {"depth": 5, "train_size": None}
    expected["core"]["memory_size"] = 7
    expected["model"]["head_size"] = 9
    expected["optim"]["beta2"] = 0.9
    expected["seed"] = 3
    assert to_json(config) == expected
    assert config.task == ListOps(depth=5, train_size=None)


def test_help_shows_every_choice(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(["--task", "nth-farthest", "--core", "rmc", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    flags = "--task.num-vectors", "--core.num-slots", "--optim.max-grad-value", "--resume", "--eval"
    for name in (*TASKS, *CORES, *flags):
        assert name in shown


# Faults


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(capsys):
    with pytest.MonkeyPatch.context() as patch:
        loss = program.task_loss
        losses = iter(range(1, 100))
        patch.setattr(program, "task_loss", lambda *args: loss(*args) * (math.nan if next(losses) == 8 else 1))
        assert start(LSTM) == 2
    errors = error_line(capsys)
    newest = max(Path("run/checkpoints").iterdir())
    assert re.search(rf"update 8: the loss is nan, .*--optim.*; the last good checkpoint is {newest}$", errors)
    step, state = load_checkpoint("run")
    assert step == 7
    assert all(weight.isfinite().all() for weight in state["model"].values())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--task nth-farthset", "no task is called 'nth-farthset', did you mean 'nth-farthest'?; choose from"),
        ("--core fwmm", "no core is called 'fwmm', did you mean 'fwm'?; choose from"),
        ("--preset papre", "there is no preset 'papre'; choose from small, paper"),
        ("--task listops --task.depht 3", "--task.depth"),
        ("--task listops --task.depth 0", "depth=0, but it must be in 1..18 (--task.depth)"),
        ("--task.num-pairs none", "--task.num-pairs"),
        ("--batch-size 0", "batch_size=0, but it must be at least 1 (--batch-size)"),
        ("--aux-cost -1", "aux_cost=-1.0, but it must be at least 0 (--aux-cost)"),
        ("--seed -1", "seed=-1, but it must be at least 0 and below 2**32 (--seed)"),
        ("--optim.max-grad-value 0", "max_grad_value=0.0, but it must be above 0, or None (--optim.max-grad-value)"),
        ("--core.memory-size 0", "memory_size"),
        ("--core lstm --core.hidden-size 10000000", "out of memory: "),
        ("--model.dropout 1", "dropout=1.0, but it must be at least 0 and below 1 (--model.dropout)"),
        ("--device foo", "there is no --device foo; choose auto, cpu, cuda or cuda:N"),
        ("--task copy --task.reverse", "--task copy is another task: choose --task reverse"),
        ("--task penn-treebank --task.corpus wikitext-2", "choose --task wikitext-2"),
        ("--task penn-treebank --batch-size 300000", "too few for 300000 rows"),
        ("--resume=", "is not a run folder"),
        ("--eval=", "is not a run folder"),
        ("--resume nowhere", "there is no run folder nowhere"),
        ("--eval nowhere", "there is no run folder nowhere"),
        ("--eval .", ". is not a run folder: it has no config.json"),
        (
            "--resume . --seed 1",
            "--resume . continues that run with its own config, but for --total-updates and --device; drop --seed 1",
        ),
        ("--eval . --task listops", "--eval . judges that run by its own config; drop --task listops"),
        ("--eval . --total-updates 9", "--eval . judges that run by its own config; drop --total-updates 9"),
    ],
)
def test_what_cannot_be_started_is_one_line(line, message, capsys):
    flags = [] if "--resume" in line or "--eval" in line else ["--folder", "run"]
    assert program.main([*line.split(), *flags]) == 2
    assert message in error_line(capsys)
    assert not list(Path().iterdir()), "nothing is left behind"


def test_a_config_of_another_version_is_one_line(capsys):
    assert start(LSTM) == 0
    path = Path("run/config.json")
    saved = json.loads(path.read_text())
    for change in ({"task_name": "sorting"}, {"task": {"depth": 3}}, {"core": {"width": 3}}, {"rate": 1}):
        path.write_text(json.dumps(saved | change))
        capsys.readouterr()
        for flag in ("--resume", "--eval"):
            assert program.main([flag, "run"]) == 2
            assert "this config.json is of another version: " in error_line(capsys)
    path.write_text(json.dumps(saved | {"core": saved["core"] | {"hidden_size": 3}}))
    for flag in ("--resume", "--eval"):
        assert program.main([flag, "run"]) == 2
        assert "the checkpoint of run does not fit its config.json" in error_line(capsys)
    with pytest.raises(ConfigError, match="another version"):
        from_json([])
    with pytest.raises(ConfigError, match=r"^this is a run of train_rl\.py"):
        from_json({"env": {}})


def write_words(text):
    for split in ("train", "valid", "test"):
        Path(f"{split}.txt").write_text(text)


def test_real_data_is_named_and_compared(capsys):
    write_words("the cat sat on the mat\n" * 400)
    text = "--task penn-treebank --core lstm --core.hidden-size 4 --task.window 10 --model.dropout 0"
    assert start(f"{text} {FEW} --data-dir .") == 0
    said = capsys.readouterr().err
    assert "warning: the data is not the published one: train has 2800, not 929589\n" in said
    assert program.main(["--eval", "run"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["data"], report["differs"]["vocabulary"]) == ("real", "6, not 10000")
    write_words("the dog sat on the mat\n" * 400)
    for flag in ("--resume", "--eval"):  # the words are read once for each folder in a process
        language.load.cache_clear()
        assert program.main([flag, "run"]) == 2
        assert "another vocabulary than that of the run: 6 words, not 6, 'dog' among them" in error_line(capsys)
    assert start(f"{text} --data-dir nowhere", "other") == 2
    assert f"--data-dir has no {Path.cwd()}/nowhere/ptb.{{train,valid,test}}.txt or " in error_line(capsys)


def test_a_run_never_writes_over_another(capsys):
    assert start(LSTM) == 0
    capsys.readouterr()
    assert start(LSTM) == 2
    assert "run exists: continue it with --resume run" in error_line(capsys)


def test_a_new_folder_is_one_that_does_not_exist():
    config = make_config("listops", "fwm", "small")
    assert isinstance(config, Config)
    names = []
    for _ in range(2):
        folder = config.new_folder()
        folder.mkdir(parents=True)
        names.append(folder.as_posix())
    assert names == ["runs/listops-fwm-s0", "runs/listops-fwm-s0-2"]


def test_the_status_of_the_process():
    command = [sys.executable, "-m", "engram.supervised.train", "--core", "fwmm"]
    root = Path(__file__).resolve().parent.parent
    result = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert result.returncode == 2
    assert result.stderr.startswith("error: no core is called 'fwmm'")
    assert (result.stderr.count("\n"), result.stdout) == (1, "")
