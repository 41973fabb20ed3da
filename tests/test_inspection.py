"""Sentences and test examples that are looked into: what is read, what was answered, what cannot be inspected."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engram.policies import core_config
from engram.run import Run
from engram.supervised import inspection
from engram.supervised import train as program
from engram.supervised.config import make_config, to_json
from engram.supervised.evaluate import Trained
from engram.supervised.inspection import inspect, read
from engram.supervised.model import to_tensors
from engram.supervised.tasks import TASKS, Stream, Tokens, Vectors
from engram.supervised.tasks.task import UNKNOWN
from engram.supervised.train import Training

SMALL = {
    "babi": {"tasks": (1, 15), "size": "tiny", "data_dir": None},
    "catbabi-qa": {"tasks": (1, 15), "size": "tiny", "data_dir": None},
    "catbabi-lm": {"tasks": (1, 15), "size": "tiny", "data_dir": None},
    **{name: {"size": "tiny", "data_dir": None} for name in ("penn-treebank", "wikitext-2", "wikitext-103")},
}
"""task -> options that make its data small"""
SENTENCES = {
    "associative-retrieval": ("c 9 k 8 j 3 ? ? k", "c9k8j3??k"),
    "dictionary-inference": ("ab.cd;|ab._ _", "ab.cd;|ab.__"),
    "listops": ("[MAX 6 1 [FIRST 2 3 ] 0 ]", "[max 6 1 [first 2 3] 0]"),
    "code-execution": ("x = 7 ; print x ;", "x=7; print x;"),
    "double-copy": ("3 1 4 | _ _", "314|__"),
    "execute-addition": ("(12+34)+5 _ _", "(12+34)+5__"),
    "memorise-copy": ("12345 _", "12345"),
    "babi": ("mary went to the kitchen . where is mary ? -", "Mary went to the kitchen. Where is Mary?"),
    "catbabi-qa": ("mary went to the kitchen . where is mary ?", "Mary went to the kitchen. Where is Mary?"),
}
"""task -> the same sentence twice"""


def a_task(name):
    return replace(TASKS[name], **SMALL.get(name, {}))


def a_run(folder, task="associative-retrieval", core="fwm", **choices):
    """A run before its first update."""
    config = make_config(task, core, "small")
    config = replace(config, task=a_task(task), core=replace(core_config(core), **choices), device="cpu")
    with Run.create(folder, to_json(config)) as run:
        run.save_checkpoint(0, Training(config).state_dict())
    return str(folder)


FWM = {"hidden_size": 8, "memory_size": 4}


# --- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SENTENCES)
def test_a_sentence_is_its_words(name):
    task = a_task(name)
    first, second = (task.read(sentence) for sentence in SENTENCES[name])
    np.testing.assert_array_equal(first.x, second.x)
    words = task.captions(first.x[:, 0])
    start = ["<eos>"] if name == "catbabi-qa" else []
    spelt = "".join(start + SENTENCES[name][0].split())
    assert "".join(words) == spelt
    assert first.x.shape == first.y.shape == first.mask.shape == (len(words), 1)
    assert first.lengths.tolist() == [len(words)]
    if not isinstance(task, Stream):
        assert (first.y == UNKNOWN).all()


@pytest.mark.parametrize("name", [name for name in TASKS if isinstance(a_task(name).inputs, Tokens)])
def test_a_test_example_comes_back_as_a_sentence(name):
    """Its words, read again, are its tokens, and are answered at the same steps."""
    task = a_task(name)
    example = task.example(2)
    words = task.captions(example.x[:, 0])
    again = task.read(" ".join(words[1:] if name.startswith("catbabi") else words))
    np.testing.assert_array_equal(again.x, example.x)
    np.testing.assert_array_equal(again.mask, example.mask)
    assert again.continues == example.continues
    if isinstance(task, Stream):
        np.testing.assert_array_equal(again.y[:-1], example.y[:-1])
        assert again.y[-1] == UNKNOWN


@pytest.mark.parametrize("name", TASKS)
def test_an_example_is_that_of_the_test(name):
    task = a_task(name)
    example = task.example(2)
    if name.startswith("catbabi"):
        (eos,) = np.flatnonzero(example.x[:, 0] == 1)
        assert eos == 0, "one story, from its beginning"
        assert example.y[-1] == 1
    else:
        batch = next(task.batches("test", 3)) if not isinstance(task, Stream) else list(task.batches("test", 1))[2]
        row = -1
        length = int(batch.lengths[row])
        np.testing.assert_array_equal(example.x[:, 0], batch.x[:length, row])
        np.testing.assert_array_equal(example.y[example.mask], batch.y[:, row][batch.mask[:, row]])
    captions = task.captions(example.x[:, 0])
    assert len(captions) == len(example.x)
    assert all(isinstance(caption, str) and caption for caption in captions)
    for number in (-1, 10**7):
        with pytest.raises(ValueError, match=rf"no test example {number}; choose from 0 to \d+$"):
            task.example(number)


def test_names_are_as_many_as_tokens():
    for name in TASKS:
        task = a_task(name)
        for tokens in (task.inputs, task.outputs):
            if isinstance(tokens, Tokens):
                assert len(tokens.names) in (0, tokens.size)
                assert len({tokens.name(token) for token in range(tokens.size)}) == tokens.size


def test_vectors_are_called_by_their_labels():
    captions = a_task("nth-farthest").captions
    x = a_task("nth-farthest").example(0).x[:, 0]
    labels = x[:, 16:24].argmax(1)
    assert [caption.split(" · ")[0] for caption in captions(x)] == [f"vector {label}" for label in labels]
    x = a_task("copy").example(1).x[:, 0]
    count = (len(x) - 2) // 2
    expected = ["start", *(f"vector {i + 1}" for i in range(count)), "end", *["_"] * count]
    found = a_task("copy").captions(x)
    assert [a for a, b in zip(found, expected, strict=True) if a != b] in ([], ["_"] * (found.count("_") - count))
    points = a_task("convex-hull").captions(a_task("convex-hull").example(0).x[:, 0])
    assert sorted(points[:5]) == [f"point {i}" for i in range(1, 6)]
    assert set(points[5:]) == {"_"}


@pytest.mark.parametrize(
    ("task", "sentence", "error"),
    [
        ("babi", "mary went to paris .", "'paris' is no word of this task; its words are .* mary "),
        ("associative-retrieval", "c9k]", r"']' is no word of this task; its words are 0 1 2 .* z \?"),
        ("babi", " ", "no word in the sentence"),
        ("catbabi-qa", "", "no word in the sentence"),
        ("nth-farthest", "a b", "shows vectors, not words; choose a test example by its number"),
    ],
)
def test_what_is_no_sentence(task, sentence, error):
    with pytest.raises(ValueError, match=error):
        a_task(task).read(sentence)


# --- what was answered ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_any_task(name, tmp_path):
    """The answers are the model's, with their probabilities, beside the targets."""
    trained = Trained.load(a_run(tmp_path / "run", name, "rdn", hidden_size=8, num_layers=1))
    task, batch = trained.config.task, trained.config.task.example(1)
    found = read(trained, batch)
    assert found["steps"] == len(found["words"]) == int(batch.lengths[0]) - found["left_out"]
    state = trained.carried if batch.continues else None
    tensors = to_tensors(batch, torch.device("cpu"))
    with torch.no_grad():
        logits = trained.model(tensors.x, tensors.mask, (), state).logits.double()
    steps = np.flatnonzero(batch.mask[:, 0])
    kept = steps >= found["left_out"]
    assert [answer["step"] + found["left_out"] for answer in found["answers"]] == steps[kept].tolist()
    for answer, scores, target in zip(found["answers"], logits[kept], batch.y[batch.mask][kept], strict=True):
        if isinstance(task.outputs, Vectors):
            assert answer["right"] == "".join("01"[int(bit)] for bit in target)
            assert answer["said"] == "".join("01"[int(score > 0)] for score in scores)
            chances = scores.sigmoid()
            expected = np.prod([float(p if bit else 1 - p) for p, bit in zip(chances, target, strict=True)])
            assert answer["right_probability"] == pytest.approx(expected)
        else:
            chances = scores.softmax(0)
            assert answer["right"] == task.outputs.name(int(target))
            assert answer["said"] == task.outputs.name(int(scores.argmax()))
            assert answer["right_probability"] == pytest.approx(float(chances[int(target)]))
            assert answer["probability"] == pytest.approx(float(chances.max()))
    assert all(len(trace["mean"]) == found["steps"] for trace in found["traces"].values())
    assert found["maps"]["attention"]["values"].shape[::4] == (found["steps"], found["steps"])


def test_a_long_sentence_keeps_its_end(tmp_path, monkeypatch):
    trained = Trained.load(a_run(tmp_path / "run", **FWM))
    batch = trained.config.task.example(3)
    whole = read(trained, batch)
    monkeypatch.setattr(inspection, "MAX_STEPS", 10)
    end = read(trained, batch)
    cut = len(batch.x) - 10
    assert (end["steps"], end["left_out"], end["words"]) == (10, cut, whole["words"][-10:])
    assert end["answers"] == [answer | {"step": answer["step"] - cut} for answer in whole["answers"]]
    for name, found in end["maps"].items():
        np.testing.assert_array_equal(found["values"], whole["maps"][name]["values"][-10:, ..., -10:])
    for name, found in end["traces"].items():
        np.testing.assert_array_equal(found["mean"], whole["traces"][name]["mean"][-10:])


def test_the_core_is_looked_into_not_the_layers_below(tmp_path):
    config = make_config("listops", "fwm", "small")
    config = replace(config, core=replace(config.core, **FWM), model=replace(config.model, lstm_layers=2), device="cpu")
    with Run.create(tmp_path / "run", to_json(config)) as run:
        run.save_checkpoint(0, Training(config).state_dict())
    trained = Trained.load(str(tmp_path / "run"))
    found = read(trained, trained.config.task.example(0))
    assert set(found["maps"]) == {"query_key", "surviving", "attention"}
    assert "beta" in found["traces"]


@pytest.mark.parametrize(("core", "reports"), [("mlp", set()), ("lstm", {"memory_norm"})])
def test_a_core_without_maps_says_so(core, reports, tmp_path):
    trained = Trained.load(a_run(tmp_path / "run", core=core))
    found = read(trained, trained.config.task.read("c9k8??c"))
    assert "has no maps of its memory" in found["missing"]
    assert (found["maps"], set(found["traces"])) == ({}, reports)
    assert found["answers"][0]["right"] is None


# --- the command line -----------------------------------------------------------------------------------------------


def answered(capsys, *argv):
    assert program.main([str(arg) for arg in argv]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_draws_and_prints(tmp_path, capsys):
    folder = a_run(tmp_path / "run", **FWM)
    found = answered(capsys, "--eval", folder, "--inspect", "c9k8??c")
    assert (found["example"], "".join(found["words"])) == (None, "c9k8??c")
    assert [answer["step"] for answer in found["answers"]] == [6]
    assert found["page"] == f"{folder}/inspect.html"
    page = Path(found["page"]).read_text()
    (content,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    data = json.loads(content)
    (memory,) = data["memories"]
    assert {name: memory[name] for name in found if name != "page"} == {k: v for k, v in found.items() if k != "page"}
    (said,) = data["missing"]["curves"]
    assert "no learning curve" in said
    other = answered(capsys, "--eval", folder, "--inspect", "17", "--report", tmp_path / "other.html")
    assert (other["example"], other["page"]) == (17, f"{tmp_path}/other.html")
    assert Path(other["page"]).is_file()
    assert other["answers"][0]["right"] in "0123456789"


def test_what_cannot_be_inspected_is_one_line(tmp_path, capsys):
    def failed(*argv):
        assert program.main([str(arg) for arg in argv]) == 2
        errors = capsys.readouterr().err
        assert re.fullmatch(r"error: [^\n]+\n", errors), errors
        return errors

    folder = a_run(tmp_path / "run", **FWM)
    assert "add --eval RUN" in failed("--inspect", "c9??c")
    assert "add --inspect" in failed("--eval", folder, "--report", "x.html")
    assert "expected one argument" in failed("--eval", folder, "--inspect")
    assert "--core fwm" in failed("--eval", folder, "--inspect", "c9??c", "--core", "fwm")
    assert "there is no run folder" in failed("--eval", tmp_path / "none", "--inspect", "1")
    assert "no test example 99999999; choose from 0 to 19999" in failed("--eval", folder, "--inspect", "99999999")
    assert "no test example -1" in failed("--eval", folder, "--inspect", "-1")
    assert "'!' is no word" in failed("--eval", folder, "--inspect", "c9!")
    assert "no word in the sentence" in failed("--eval", folder, "--inspect", "")
    nowhere = tmp_path / "nowhere" / "page.html"
    assert "there is no folder" in failed("--eval", folder, "--inspect", "1", "--report", nowhere)
    assert "a report is a page, .html" in failed("--eval", folder, "--inspect", "1", "--report", tmp_path / "page.txt")
    assert not list(Path(folder).glob("*.html"))
    (Path(folder) / "inspect.html").mkdir()
    assert "it is a folder" in failed("--eval", folder, "--inspect", "1")


def test_help_tells_of_it(capsys):
    with pytest.raises(SystemExit):
        program.main(["--help"])
    shown = " ".join(re.sub("[│╭╰─╮╯]", " ", capsys.readouterr().out).split())
    assert "--inspect 17" in shown
    assert "FOLDER/inspect.html or --report FILE" in shown


def test_without_metrics_there_is_no_curve(tmp_path):
    folder = a_run(tmp_path / "run", **FWM)
    (Path(folder) / "metrics.jsonl").unlink()
    assert inspect(folder, "1", None)["page"] == f"{folder}/inspect.html"
