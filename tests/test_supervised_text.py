"""Text: the bAbI simulator against an oracle, the parsers, and real files beside generated ones."""

import importlib.util
import zlib
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from engram.supervised.tasks import Babi, CatBabi, LanguageModelling
from engram.supervised.text import articles, babi, babi_simulator, language

SPLITS = ("train", "valid", "test")
DIGESTS = (0x4A38F805, 0xBE9BE4E2)
_spec = importlib.util.spec_from_file_location("babi_oracle", Path(__file__).with_name("babi_oracle.py"))
oracle = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracle)


def stories(task, split="train", size="tiny"):
    return list(babi.parse(babi_simulator.lines(task, split, size)))


def questions(story):
    """Statements so far by line number, the question and its sentence."""
    said = {}
    for number, sentence in enumerate(story, 1):
        text = " ".join(sentence.words[:-1])
        if sentence.answer is None:
            said[number] = text
        else:
            yield said.copy(), text, sentence


# bAbI


@pytest.mark.parametrize("task", babi.TASKS)
def test_the_oracle_answers_every_question(task):
    for split in SPLITS:
        asked = [question for story in stories(task, split) for question in questions(story)]
        assert 60 <= len(asked) < 70
        for said, question, sentence in asked:
            assert oracle.answer(task, list(said.values()), question) == sentence.answer
            assert set(sentence.supports) <= said.keys()


@pytest.mark.parametrize("task", [1, 4, 5, 6, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20])
def test_supporting_lines_are_all_that_it_takes(task):
    for story in stories(task):
        for said, question, sentence in questions(story):
            supports = [said[number] for number in sorted(sentence.supports)]
            assert oracle.answer(task, supports, question) == sentence.answer


@pytest.mark.parametrize("task", [1, 2])
def test_without_the_last_move_the_answer_is_another(task):
    for story in stories(task):
        for said, question, sentence in questions(story):
            del said[sentence.supports[-1]]
            try:
                answered = oracle.answer(task, list(said.values()), question)
            except KeyError:  # nothing is known
                continue
            assert answered != sentence.answer


def test_stories_are_as_long_as_the_real_ones():
    """Means over the test files of version 1.2, within a tenth."""
    real = {1: 15, 2: 27, 3: 78.5, 4: 3, 5: 31.4, 6: 15.2, 7: 17.4, 8: 18.6, 9: 15, 10: 15, 11: 15, 12: 15, 13: 15}
    real |= {14: 16.8, 15: 12, 16: 10, 17: 10, 18: 11.1, 19: 6, 20: 21.5}
    for task, length in real.items():
        lengths = [len(story) for story in stories(task, size="1k")]
        assert np.mean(lengths) == pytest.approx(length, rel=0.11), task


def test_simulated_files_are_always_the_same_and_splits_differ():
    for task in babi.TASKS:
        files = [list(babi_simulator.lines(task, split, "tiny")) for split in SPLITS]
        assert files[0] == list(babi_simulator.lines(task, "train", "tiny"))
        assert files[0] != files[1] != files[2] != files[0]


def test_generated_text_is_the_same_everywhere():
    """CRC-32 of all of it; other figures mean that results can no longer be compared with older ones."""
    told = "\n".join(line for task in babi.TASKS for line in babi_simulator.lines(task, "test", "tiny"))
    assert (zlib.crc32(told.encode()), zlib.crc32("".join(articles.lines("test", "tiny")).encode())) == DIGESTS


def test_parsing():
    lines = [
        "1 Mary got the milk.\n",
        "2 What is Mary carrying? \tmilk,apple\t1 3\n",
        "\n",
        "1 John left.",
        "2 Why?\tno\t",
    ]
    first, second = babi.parse(lines)
    assert first == (
        babi.Sentence(("mary", "got", "the", "milk", ".")),
        babi.Sentence(("what", "is", "mary", "carrying", "?"), "milk,apple", (1, 3)),
    )
    assert second[1] == babi.Sentence(("why", "?"), "no", ())
    with pytest.raises(ValueError, match=r"'Mary got the milk\.' is no line of a bAbI file"):
        list(babi.parse(["Mary got the milk.\n"]))


def write_babi(folder, tasks, splits=SPLITS, name="qa{}_{}.txt"):
    folder.mkdir(parents=True)
    for task in tasks:
        for split in splits:
            lines = babi_simulator.lines(task, split, "tiny")
            (folder / name.format(task, split)).write_text("\n".join(lines) + "\n")


def assert_same_batches(one, other):
    for split in ("valid", "test"):
        for a, b in zip(one.batches(split, 7), other.batches(split, 7), strict=True):
            assert_same(a, b)
    for number in range(5):
        assert_same(one.train_batch(number, 7, 3), other.train_batch(number, 7, 3))


def assert_same(a, b):
    for leaf, same in zip(a[:4], b[:4], strict=True):
        np.testing.assert_array_equal(leaf, same)
        assert leaf.dtype == same.dtype
    assert (a.continues, a.rate) == (b.continues, b.rate)


@pytest.mark.parametrize("kind", [Babi, CatBabi])
def test_files_and_generated_lines_give_the_same_batches(kind, tmp_path):
    tasks = (1, 8, 19)
    write_babi(tmp_path / "tasks_1-20_v1-2" / "en-valid", tasks)
    generated, real = (
        kind(tasks=tasks, size=size, data_dir=place) for size, place in [("tiny", None), ("1k", str(tmp_path))]
    )
    assert (generated.data()["data"], real.data()["data"]) == ("generated", "real")
    assert generated.vocabulary == real.vocabulary
    assert_same_batches(generated, real)


def test_files_without_a_valid_set(tmp_path):
    write_babi(tmp_path / "en", (1,), ("train", "test"), "qa{}_single-supporting-fact_{}.txt")
    corpus = babi.load(str(tmp_path), "1k", (1,))
    every = stories(1)
    assert corpus.content["valid"][1] == every[9::10]
    assert [*corpus.content["valid"][1], *corpus.content["train"][1]] != every
    assert sorted(map(str, corpus.content["valid"][1] + corpus.content["train"][1])) == sorted(map(str, every))
    assert corpus.notes == {"valid_set": "every tenth training story"}


def test_a_file_may_be_partly_generated(tmp_path):
    write_babi(tmp_path / "babi" / "en-valid-10k", (3,))
    whole = tmp_path / "babi" / "en-valid-10k" / "qa3_train.txt"
    (tmp_path / "babi" / "generated").mkdir()
    (tmp_path / "babi" / "generated" / "qa3_train_fill.txt").write_text(
        "".join(f"{n}\n" for n in islice(babi_simulator.lines(3, "valid", "tiny"), 40))
    )
    whole.rename(whole.with_name("qa3_train.partial.txt"))
    corpus = babi.load(str(tmp_path), "10k", (3,))
    assert corpus.origin == "partly generated"
    assert corpus.content["train"][3][: len(stories(3))] == stories(3)
    assert len(corpus.content["train"][3]) > len(stories(3))


def test_other_counts_than_published_are_said(tmp_path):
    write_babi(tmp_path / "en-valid-10k", babi.TASKS)
    assert Babi(size="10k", data_dir=str(tmp_path)).data()["differs"]["train"].endswith("not 56396 with 179998")
    differs = CatBabi(size="10k", data_dir=str(tmp_path)).data()["differs"]
    assert differs.keys() == set(SPLITS)
    assert differs["train"].endswith("not 56376 with 179909")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"--data-dir has no .*en-valid/qa1_train.txt or .*tasks_1-20_v1-2.tar.gz"):
        babi.load(str(tmp_path), "1k", (1,))
    write_babi(tmp_path / "en-valid", (1,))
    with pytest.raises(ValueError, match=r"--data-dir has no .*qa2_train.txt; tasks_1-20_v1-2"):
        babi.load(str(tmp_path), "1k", (2,))
    with pytest.raises(ValueError, match="no real data of size tiny"):
        babi.load(str(tmp_path), "tiny", (1,))
    with pytest.raises(ValueError, match=r"no .*ptb.\{train,valid,test\}.txt or .*simple-examples.tgz"):
        language.load(str(tmp_path), "penn-treebank", "tiny")


@pytest.mark.parametrize("kind", [Babi, CatBabi])
@pytest.mark.parametrize(("field", "value"), [("tasks", (0,)), ("tasks", (1, 1)), ("tasks", ()), ("size", "2k")])
def test_impossible_options_are_one_line(kind, field, value):
    with pytest.raises(ValueError, match=f"{field}=.*, but it must be .* \\(--task.{field}\\)"):
        kind(**{field: value})


# Articles, and files of words


def test_generated_text_has_its_size():
    for size, counts in articles.TOKENS.items():
        for split in SPLITS if size == "tiny" else ("valid", "test"):
            assert sum(1 for _ in language.words(articles.lines(split, size))) == counts[split]
            assert sum(1 for _ in language.recalled(split, size)) == counts[split]


def test_recalled_words_follow_from_introductions():
    """A reader who notes down what is said of each name when it comes first knows them all."""
    text = list(articles.sentences("train", "tiny"))
    share = sum(sum(s.recalled) for s in text) / articles.TOKENS["tiny"]["train"]
    assert 0.04 < share < 0.08
    notes = {}
    for words, recalled in text:
        for word, asked in zip(words, recalled, strict=True):
            if asked:
                name = next(w for w in words if w in notes)
                assert word in notes[name], words
        if not any(recalled) and any(w.endswith("ville") for w in words):
            about = {w for w in words if w in articles.NAMES or w in articles.ROLES or w.endswith("ville")}
            for name in about & set(articles.NAMES):
                notes[name] = notes.get(name, set()) | about


def test_no_article_is_in_two_splits():
    lines = {split: {line for line in articles.lines(split, "tiny") if line.count(" ") > 12} for split in SPLITS}
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert len(lines[one] & lines[other]) < 0.01 * len(lines[one])


def write_words(folder, pattern="ptb.{}.txt", size="tiny"):
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        (folder / pattern.format(split)).write_text("".join(articles.lines(split, size)))


@pytest.mark.parametrize(
    ("corpus", "place", "pattern"),
    [
        ("penn-treebank", "", "ptb.{}.txt"),
        ("penn-treebank", "simple-examples/data", "{}.txt"),
        ("wikitext-2", "wikitext-2", "wiki.{}.tokens"),
        ("wikitext-103", "", "wiki.{}.tokens"),
    ],
)
def test_files_and_generated_words_give_the_same_batches(corpus, place, pattern, tmp_path):
    write_words(tmp_path / place, pattern)
    generated = LanguageModelling(10, corpus, size="tiny", data_dir=None)
    real = LanguageModelling(10, corpus, data_dir=str(tmp_path))
    assert_same_batches(generated, real)
    assert generated.data()["data"] == "generated"
    assert real.data()["data"] == "real"
    expected = language.CORPORA[corpus].tokens["train"]
    assert real.data()["differs"]["train"] == f"20000, not {expected}"


def test_parsing_words():
    files = {"train": ["a b a\n", "\n"], "valid": ["b c\n"], "test": ["c d"]}
    text = language.parse(files.__getitem__)
    assert text.vocabulary == ("a", "b", "<eos>", "c", "d")
    assert text.train.tolist() == [0, 1, 0, 2, 2]
    assert text.valid.tolist() == [1, 3, 2]
    assert list(text.test()) == list(text.test()) == [3, 4, 2]
    assert text.counts == {"train": 5, "valid": 3, "test": 3}
