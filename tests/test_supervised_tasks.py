"""The generators of supervised tasks: what they ask is answered again by slow programs that know only the rules."""

import itertools
import operator
import zlib
from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
)

SPLITS = ("train", "valid", "test")
GENERATED = [name for name, task in TASKS.items() if not isinstance(task, Stream | Babi)]
"""tasks that are no text, whose tests are in test_supervised_text.py and test_supervised_streams.py"""


def examples(task, count, split="train", start=0):
    return task.batch(split, np.arange(start, start + count, dtype=np.uint64))


def rows(batch):
    """Each example without its padding: inputs, targets of the steps that count, and which those are."""
    for b, length in enumerate(batch.lengths):
        steps = batch.mask[:, b].nonzero()[0]
        yield batch.x[:length, b], batch.y[steps, b], steps.tolist()


def texts(task, x):
    """Tokens as text."""
    if isinstance(task, ListOps):
        words = [*"0123456789", "[MIN", "[MAX", "[FIRST", "]"]
    elif isinstance(task, CodeExecution):
        words = [*"0123456789", "=", ";", "++", "--", "print", "if", "<", ">", ":", "x", "y", "z", "a", "b"]
    else:
        words = [" ", *"0123456789+-*=()[]<>xefilors"]
    return [words[token] for token in x]


# Each answer again: the targets, in the order of their steps; the mask has to be the last steps, or all


def answer_associative_retrieval(task, x):
    *pairs, mark, same, query = x.tolist()
    keys, values = pairs[::2], pairs[1::2]
    assert mark == same == 36
    assert len(keys) == len(set(keys)) == task.num_pairs
    assert all(10 <= key < 36 for key in keys)
    return [dict(zip(keys, values, strict=True))[query]]


def answer_dictionary_inference(task, x):
    k, l = task.num_words, task.word_length
    x = x.tolist()
    support, (end, *rest) = x[: k * (2 * l + 2)], x[k * (2 * l + 2) :]
    meaning, words = {}, []
    for i in range(0, len(support), 2 * l + 2):
        word, translation = support[i : i + l], support[i + l + 1 : i + 2 * l + 1]
        assert (support[i + l], support[i + 2 * l + 1]) == (26, 27)
        for letter, translated in zip(word, translation, strict=True):
            assert meaning.setdefault(letter, translated) == translated
        words.append(word)
    assert len(set(meaning.values())) == len(meaning)
    assert not set(meaning) & set(meaning.values())
    query = rest[:l]
    assert (end, rest[l:]) == (28, [26] + l * [29])
    assert (query in words) == (l == 1)
    return [meaning[letter] for letter in query]


def answer_nth_farthest(task, x):
    N, D = task.num_vectors, task.vector_size
    vectors, labels = x[:, :D].astype(float), x[:, D : D + N].argmax(1)
    ((n, reference),) = {(row[D + N : D + 2 * N].argmax(), row[D + 2 * N :].argmax()) for row in x}
    assert sorted(labels) == list(range(N))
    assert (x[:, D:].sum(1) == 3).all()
    assert (abs(vectors) <= 1).all()
    (origin,) = vectors[labels == reference]
    order = sorted(range(N), key=lambda t: -sum((vectors[t] - origin) ** 2))
    return [labels[order[n]]]


def answer_listops(task, x):
    rest = iter(texts(task, x))

    def read(word):
        """Value and depth of the expression that begins with `word`."""
        if word.isdigit():
            return int(word), 0
        arguments = [read(word) for word in iter(lambda: next(rest), "]")]
        assert 2 <= len(arguments) <= 5
        values, depths = zip(*arguments, strict=True)
        return {"[MIN": min, "[MAX": max, "[FIRST": lambda values: values[0]}[word](values), 1 + max(depths)

    value, depth = read(next(rest))
    assert depth == task.depth
    assert next(rest, None) is None
    return [value]


def answer_code_execution(task, x):
    text = " ".join(texts(task, x))
    assert text.endswith(" ;")
    statements = [statement.split() for statement in text[:-2].split(" ; ")]
    assert len(statements) == task.num_statements
    assert statements[0][1] == "="
    assert statements[-1][0] == "print"
    values, targets = {}, []
    for statement in statements:
        output, holds, words = 0, True, statement
        if words[0] == "if":
            compared = {"<": operator.lt, ">": operator.gt}[words[2]]
            holds, words = compared(values[words[1]], int(words[3])), words[5:]
            assert statement[4] == ":"
        match words:
            case "print", name:
                output = values[name] + 9 if holds else 0
                assert name in values
            case name, "=", value:
                once_only = words is not statement and not task.reassign_in_condition and name in values
                if holds and not once_only:
                    values[name] = int(value)
            case name, ("++" | "--") as change:
                value = values[name] + (1 if change == "++" else -1)
                assert -8 <= value <= 16
                if holds:
                    values[name] = value
            case _:
                raise AssertionError(words)
        targets += [0] * len(statement) + [output]
    return targets


def answer_copy(task, x):
    W = task.width
    n = (len(x) - 2) // 2
    assert task.min_length <= n <= task.max_length
    flags = np.zeros((len(x), 2))
    flags[0, 0] = flags[n + 1, 1] = 1
    np.testing.assert_array_equal(x[:, W:], flags)
    assert not x[n + 2 :].any()
    vectors = x[1 : n + 1, :W].tolist()
    return vectors[::-1] if task.reverse else vectors


def answer_priority_sort(task, x):
    W = task.width
    shown, rest = x[: task.num_vectors], x[task.num_vectors :]
    assert not rest.any()
    assert not x[:, W + 1].any()
    assert (abs(shown[:, W]) <= 1).all()
    return [row[:W].tolist() for row in sorted(shown, key=lambda row: -row[W])][: task.num_answers]


def answer_relational_recall(task, x):
    W = task.width
    first, second = x[:, W + 1].nonzero()[0]
    L = second - first - 1
    starts = x[:, W].nonzero()[0].tolist()
    assert starts == list(range(0, first, L + 1))
    assert task.min_items <= len(starts) <= task.max_items
    assert task.min_length <= L <= task.max_length
    assert len(x) == second + 1 + L
    assert not x[second + 1 :].any()
    items = [x[start + 1 : start + 1 + L, :W].tolist() for start in starts]
    query = x[first + 1 : second, :W].tolist()
    asked = items.index(query)
    assert task.ask_for_last or asked < len(items) - 1
    others = items[:asked] + items[asked + 1 :]
    distances = [np.abs(np.subtract(item, query)).sum() for item in others]
    return others[(np.argmax if query[-1][-1] else np.argmin)(distances)]


def answer_double_copy(task, x):
    symbols, (end, *rest) = x[: task.length].tolist(), x[task.length :].tolist()
    assert end == 10
    assert rest == 2 * task.length * [11]
    return symbols + symbols


def answer_memorisation(task, x):
    number = "".join(texts(task, x)).rstrip()
    assert number[0] != "0"
    answered = {"copy": number, "reverse": number[::-1], "double": 2 * number}[task.answer]
    assert len(x) == len(number) + len(answered)
    return [int(digit) for digit in answered]


def answer_learning_to_execute(task, x):
    text = "".join(texts(task, x)).rstrip()
    rest, lengths = list(text), set()

    def take(expected):
        assert "".join(rest[: len(expected)]) == expected, text
        del rest[: len(expected)]

    def operand():
        if rest[0] == "(":
            take("(")
            value = program()
            take(")")
            return value
        digits = ""
        while rest and rest[0].isdigit():
            digits += rest.pop(0)
        assert digits[0] != "0"
        lengths.add(len(digits))
        return int(digits)

    def program():
        if rest[0] == "x":
            take("x=")
            value = operand()
            take("for[")
            rounds = int(rest.pop(0))
            take("]x+=")
            return value + rounds * operand()
        first = operand()
        if rest[0] == "i":
            take("if")
            left, less = operand(), rest.pop(0) == "<"
            right = operand()
            take("else")
            other = operand()
            return first if (left < right if less else left > right) else other
        compute = {"+": operator.add, "-": operator.sub, "*": operator.mul}[rest.pop(0)]
        return compute(first, operand())

    value = program()
    assert not rest
    assert text.count("(") < task.nesting
    allowed = {"addition": "+", "control": "+-i", "program": "+-i=", "program-multiply": "+-i=*"}[task.operations]
    assert not set(text.replace("+=", "")) & (set("+-i=*") - set(allowed))
    if task.nested_first:
        assert "(" not in text or text.startswith(("(", "x=("))
    (length,) = lengths
    assert length <= task.length
    answered = str(value % 10 ** (length + 1))
    assert len(x) == len(text) + len(answered)
    return [int(digit) for digit in answered]


def corners(task, names, points):
    (names,), sides = names, points[None] - points[:, None]
    left = sides[:, :, None, 0] * sides[:, None, :, 1] > sides[:, :, None, 1] * sides[:, None, :, 0]
    after = {int(i): int(j) for i, j in np.argwhere(left.sum(2) == len(points) - 2)}
    hull = [min(after)]
    while after[hull[-1]] != hull[0]:
        hull.append(after[hull[-1]])
    assert len(hull) == len(after) >= 3
    return [names[i] for i in hull]


@cache
def tours(count):
    """All tours of as many points, in one direction, [count, tours]."""
    rest = itertools.permutations(range(1, count))
    return np.array([(0, *tour) for tour in rest if tour[0] < tour[-1]]).T.copy()


def tour(task, names, points):
    (names,), every = names, tours(len(points))
    distances = np.sqrt(((points[None] - points[:, None]).astype(float) ** 2).sum(2)).ravel()
    lengths = sum(distances[len(points) * every[i - 1] + every[i]] for i in range(len(points)))
    return [names[i] for i in every[:, lengths.argmin()]]


def weighted_edges(task, names, weights):
    """Edges in both directions with their weights, of a graph that is as the task says."""
    edges, count = dict(zip(zip(*names, strict=True), weights, strict=True)), max(names[0] + names[1])
    assert len({frozenset(edge) for edge in edges}) == len(set(weights)) == len(weights)
    assert task.min_nodes <= count <= task.max_nodes
    assert count - 1 <= len(edges) <= 2 * count
    assert 0 < min(weights) <= max(weights) <= 2**24
    return edges | {(j, i): weight for (i, j), weight in edges.items()}


def path(task, names, weights):
    (*first, source), (*second, target) = names
    *weights, nothing = weights[:, 0].tolist()
    assert nothing == 0
    edges = weighted_edges(task, (first, second), weights)
    ways, paths = [(0, (source,))], []
    while ways:
        length, way = ways.pop()
        if way[-1] == target:
            paths.append((length, way))
        else:
            ways += [(length + w, (*way, j)) for (i, j), w in edges.items() if i == way[-1] and j not in way]
    lengths, (shortest, *_) = zip(*sorted(paths), strict=True)
    assert lengths.count(lengths[0]) == 1
    assert 2 <= len(shortest) - 1 <= 6
    return shortest


def tree(task, names, weights):
    weights = weights[:, 0].tolist()
    edges, reached, taken = weighted_edges(task, names, weights), {1}, []
    while len(reached) < max(names[0] + names[1]):
        weight, new = min((w, j) for (i, j), w in edges.items() if i in reached and j not in reached)
        reached.add(new)
        taken.append(weights.index(weight))
    return [nodes[edge] for edge in sorted(taken, key=weights.__getitem__) for nodes in names]


def answer_naming(task, x):
    """Names are one-hots of 1..20 from these channels on, of which the first flags the last step of the input."""
    channels = [2] if isinstance(task, ConvexHull | TravellingSalesman) else [0, 22]
    count = 1 + x[:, channels[0]].argmax()
    one_hots = [x[:count, channel : channel + 22] for channel in channels]
    for one_hot in one_hots:
        np.testing.assert_array_equal(one_hot[:, 0], np.arange(count) == count - 1)
        np.testing.assert_array_equal(one_hot[:, 1:].sum(1), 1)
    names = [(1 + one_hot[:, 1:].argmax(1)).tolist() for one_hot in one_hots]
    used = set().union(*names)
    assert used == set(range(1, 1 + max(used)))
    numbers = x[:count, :2] if channels == [2] else x[:count, 44:]
    assert ((numbers >= 0) & (numbers <= 1)).all()
    assert (numbers * 2**24 % 1 == 0).all()
    solve = {ConvexHull: corners, TravellingSalesman: tour, ShortestPath: path, SpanningTree: tree}[type(task)]
    answer = solve(task, names, (numbers * 2**24).astype(int))
    assert not x[count:].any()
    assert len(x) == count + 1 + len(answer) + 1
    return [*answer, 21]


ANSWERS = {
    AssociativeRetrieval: answer_associative_retrieval,
    DictionaryInference: answer_dictionary_inference,
    NthFarthest: answer_nth_farthest,
    ListOps: answer_listops,
    CodeExecution: answer_code_execution,
    Copy: answer_copy,
    DoubleCopy: answer_double_copy,
    PrioritySort: answer_priority_sort,
    RelationalRecall: answer_relational_recall,
    LearningToExecute: answer_learning_to_execute,
    Memorisation: answer_memorisation,
    **dict.fromkeys((ConvexHull, TravellingSalesman, ShortestPath, SpanningTree), answer_naming),
}


def check(task, batch):
    """The shapes of a batch, and every answer in it."""
    T, B = batch.mask.shape
    assert batch.lengths.max() == T
    assert (batch.mask.dtype, batch.lengths.dtype) == (np.bool_, np.int64)
    for array, kind in (batch.x, task.inputs), (batch.y, task.outputs):
        if isinstance(kind, Tokens):
            assert (array.dtype, array.shape) == (np.int64, (T, B))
            assert 0 <= array.min() <= array.max() < kind.size
        else:
            assert (array.dtype, array.shape) == (np.float32, (T, B, kind.size))
    assert not batch.mask[np.arange(T)[:, None] >= batch.lengths].any()
    for x, y, steps in rows(batch):
        expected = ANSWERS[type(task)](task, x)
        assert steps == list(range(len(x) - len(expected), len(x)))
        np.testing.assert_array_equal(y, expected)


sizes = st.tuples(st.integers(1, 5), st.integers(0, 4)).map(lambda drawn: (drawn[0], sum(drawn)))


def points(kind, most):
    sizes = st.tuples(*3 * [st.integers(3, most)])
    return sizes.map(lambda drawn: kind(None, min(drawn[:2]), max(drawn[:2]), test_points=drawn[2]))


def nodes(kind):
    return st.tuples(st.integers(5, 10), st.integers(5, 10)).map(lambda drawn: kind(None, min(drawn), max(drawn)))


OPTIONS = {
    AssociativeRetrieval: st.builds(AssociativeRetrieval, num_pairs=st.integers(1, 26)),
    DictionaryInference: st.tuples(st.integers(2, 9), st.integers(1, 5)).map(
        lambda drawn: DictionaryInference(num_words=drawn[0], word_length=drawn[1])
    ),
    NthFarthest: st.builds(NthFarthest, num_vectors=st.integers(2, 9), vector_size=st.integers(1, 16)),
    ListOps: st.builds(ListOps, depth=st.integers(1, 6)),
    CodeExecution: st.builds(
        CodeExecution,
        num_variables=st.integers(1, 5),
        num_statements=st.integers(2, 60),
        reassign_in_condition=st.booleans(),
    ),
    Copy: sizes.flatmap(
        lambda drawn: st.builds(Copy, st.none(), st.integers(1, 9), *map(st.just, drawn), reverse=st.booleans())
    ),
    DoubleCopy: st.builds(DoubleCopy, length=st.integers(1, 9)),
    PrioritySort: sizes.flatmap(
        lambda drawn: st.builds(
            PrioritySort, width=st.integers(1, 9), num_answers=st.just(drawn[0]), num_vectors=st.just(drawn[1])
        )
    ),
    RelationalRecall: st.tuples(sizes, sizes).map(
        lambda drawn: RelationalRecall(
            width=24,  # so that no two items are the same
            min_items=1 + drawn[0][0],
            max_items=1 + drawn[0][1],
            min_length=drawn[1][0],
            max_length=drawn[1][1],
            ask_for_last=drawn[0][0] % 2 == 0,
        )
    ),
    LearningToExecute: st.builds(
        LearningToExecute,
        operations=st.sampled_from(["addition", "control", "program", "program-multiply"]),
        length=st.integers(1, 4),
        nesting=st.integers(1, 3),
        nested_first=st.booleans(),
    ),
    Memorisation: st.builds(
        Memorisation, answer=st.sampled_from(["copy", "reverse", "double"]), length=st.integers(1, 24)
    ),
    ConvexHull: points(ConvexHull, 20),
    TravellingSalesman: points(TravellingSalesman, 8),
    ShortestPath: nodes(ShortestPath),
    SpanningTree: nodes(SpanningTree),
}


@pytest.mark.parametrize("name", GENERATED)
def test_a_thousand_answers(name):
    task = TASKS[name]
    check(task, examples(task, 1000))
    for split in ("valid", "test"):
        check(task, examples(task, 50, split))


@pytest.mark.parametrize("kind", OPTIONS, ids=lambda kind: kind.__name__)
def test_answers_whatever_the_options(kind):
    @settings(max_examples=15, deadline=None)
    @given(task=OPTIONS[kind], split=st.sampled_from(SPLITS), start=st.integers(0, 2**63))
    def checked(task, split, start):
        check(task, examples(task, 16, split, start))

    checked()


# Which examples


@pytest.mark.parametrize("name", GENERATED)
def test_an_example_is_a_function_of_its_split_and_index(name):
    task = TASKS[name]
    together = list(rows(examples(task, 12)))
    alone = [next(rows(examples(task, 1, start=i))) for i in range(12)]
    for whole, single in zip(together, alone, strict=True):
        for array, same in zip(whole, single, strict=True):
            np.testing.assert_array_equal(array, same)
    different = {row[0].tobytes() for split in SPLITS for row in rows(examples(task, 12, split))}
    assert len(different) > 30  # of 36; a short number to memorise may come twice


DIGESTS = {
    "associative-retrieval": 0x374D9214,
    "dictionary-inference": 0xC062F4B9,
    "nth-farthest": 0x6CA8E50D,
    "listops": 0x3F0F7186,
    "code-execution": 0x1648BEBD,
    "copy": 0x7B2CC73B,
    "reverse": 0x5BE2DD6C,
    "double-copy": 0xE3BFF80B,
    "priority-sort": 0xC2B68064,
    "relational-recall": 0x46C31961,
    "execute-addition": 0xF0615D6C,
    "execute-control": 0x8581E1E3,
    "execute-program": 0x4957EF65,
    "memorise-copy": 0x22CB6055,
    "memorise-reverse": 0xD958E595,
    "memorise-double": 0x1D71C2E0,
    "convex-hull": 0x1966D5CC,
    "travelling-salesman": 0xFE044897,
    "shortest-path": 0x6691019B,
    "spanning-tree": 0x75FD1703,
}
"""CRC-32 of the first 64 test examples; another figure means that results can no longer be compared with older ones"""


@pytest.mark.parametrize("name", GENERATED)
def test_examples_are_the_same_everywhere(name):
    batch = examples(TASKS[name], 64, "test")
    digest = 0
    for array in batch[:4]:
        digest = zlib.crc32(array.astype(array.dtype.newbyteorder("<")).tobytes(), digest)
    assert digest == DIGESTS[name]


def test_fresh_training_examples_of_two_seeds():
    task = AssociativeRetrieval()
    first, second, other = (task.train_batch(*which) for which in ((0, 64, 0), (1, 64, 0), (0, 64, 1)))
    columns = [batch.x[:, b].tobytes() for batch in (first, second, other) for b in range(64)]
    assert len(set(columns)) == 3 * 64
    np.testing.assert_array_equal(task.train_batch(0, 128, 0).x, np.concatenate([first.x, second.x], axis=1))


def test_a_training_set_is_reshuffled_every_epoch():
    task = NthFarthest(num_vectors=3, vector_size=2, train_size=10)

    def seen(seed):
        return [row[0].tobytes() for number in range(10) for row in rows(task.train_batch(number, 4, seed))]

    epochs = [seen(0)[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == sorted(epochs[0]) and len(set(epoch)) == 10 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert sorted(seen(1)) == sorted(seen(0))
    assert seen(1) != seen(0)
    assert seen(0)[:7] == [row[0].tobytes() for row in rows(task.train_batch(0, 7, 0))]


# Statistics


def near(values, expected, errors=4.0):
    """Whether the mean of a sample is within some standard errors of what is expected."""
    values = np.asarray(values, float)
    return abs(values.mean() - expected) < errors * values.std(ddof=1) / np.sqrt(len(values))


def test_associative_retrieval_statistics():
    batch = examples(AssociativeRetrieval(), 10_000)
    for digit in range(10):
        assert near((batch.x[1:28:2] == digit).ravel(), 0.1)
    asked = (batch.x[:28:2] == batch.x[-1]).argmax(0)
    for place in range(14):
        assert near(asked == place, 1 / 14)
    for letter in range(10, 36):
        assert near((batch.x == letter).any(0), 14 / 26)


def test_dictionary_statistics():
    batch = examples(DictionaryInference(num_words=8, word_length=4), 4_000)
    support, query = batch.x[:80].T.reshape(-1, 8, 10), batch.x[81:85].T
    assert np.mean([len(np.unique(words[:, :4])) >= 8 for words in support]) > 0.99
    for letter in range(26):
        assert near((support[:, :, :4] == letter).mean((1, 2)), 1 / 26)
        assert near((query == letter).mean(1), 1 / 26)


def test_nth_farthest_statistics():
    task = NthFarthest()
    batch = examples(task, 4_000)
    vectors, hot = batch.x[..., :16].astype(float), batch.x[..., 16:].reshape(8, -1, 3, 8)
    assert near(vectors.mean((0, 2)), 0)
    assert near((vectors**2).mean((0, 2)), 1 / 3)
    for which in range(3):
        for value in range(8):
            assert near(hot[0, :, which, value], 1 / 8), (which, value)
    is_last = hot[0, :, 1, 7] == 1
    np.testing.assert_array_equal(batch.y[-1, is_last], hot[0, is_last, 2].argmax(1))
    small = examples(NthFarthest(num_vectors=3, vector_size=1), 200)
    assert len({tuple(row) for row in small.x[:, :, 1:4].argmax(2).T}) == 6, "all orders of the labels"


def test_the_order_of_the_vectors_does_not_matter():
    task = NthFarthest()
    batch = examples(task, 200)
    for x, y, _ in rows(batch):
        assert answer_nth_farthest(task, x[np.random.default_rng(0).permutation(8)]) == y


@pytest.mark.parametrize(("depth", "length", "extreme"), [(3, 17, 0.163), (10, 98, 0.182), (15, 185, 0.182)])
def test_listops_statistics(depth, length, extreme):
    """Lengths are those of the paper (Irie et al. 2021, Section 4.3). 0 and 9 are the likeliest answers, equally so:
    taking every digit from 9 and swapping MIN with MAX turns one into the other."""
    batch = examples(ListOps(depth=depth), 2_000)
    answers = batch.y.max(0)
    assert abs(batch.lengths.mean() - length) < 0.04 * length
    assert near((answers == 9) * 1 - (answers == 0), 0)
    assert near((answers == 9) | (answers == 0), 2 * extreme)
    operators = np.isin(batch.x, (10, 11, 12))
    for which in (10, 11, 12):
        assert abs((batch.x == which).sum() / operators.sum() - 1 / 3) < 0.01


def test_code_execution_statistics():
    batch = examples(CodeExecution(), 1_000)
    assert abs(batch.lengths.mean() - 456) < 3
    assert 350 < batch.lengths.min() < batch.lengths.max() < 560
    outputs = (batch.y * batch.mask > 0).sum(0)
    assert abs(outputs.mean() - 29) < 1
    kinds = Counter()
    for x, _, _ in rows(batch):
        statements = " ".join(texts(CodeExecution(), x)).split(" ; ")[1:-1]
        kinds.update(next((kind for kind in ("if", "print", "=") if kind in text), "++") for text in statements)
    assert all(abs(count / kinds.total() - 0.25) < 0.01 for count in kinds.values())
    printed = batch.y[batch.mask & (batch.y > 0)] - 9
    shares = np.bincount(printed + 8, minlength=25) / len(printed)
    assert ((shares[8:18] > 0.07) & (shares[8:18] < 0.11)).all()
    assert 0.01 < 1 - shares[8:18].sum() < 0.07


def test_the_authors_conditional_assignment_changes_only_programs_that_have_one():
    tasks = (CodeExecution(num_statements=12, reassign_in_condition=flag) for flag in (True, False))
    ours, theirs = (examples(task, 300) for task in tasks)
    agree = [
        np.array_equal(x, same) and np.array_equal(y, answers)
        for (x, y, _), (same, answers, _) in zip(rows(ours), rows(theirs), strict=True)
    ]
    assert 0.3 < np.mean(agree) < 0.98
    for equal, (x, _, _) in zip(agree, rows(ours), strict=True):
        conditional = any(
            "if" in statement and "=" in statement for statement in " ".join(texts(CodeExecution(), x)).split(" ; ")
        )
        assert equal or conditional


def test_bits_and_lengths():
    copies = examples(Copy(), 2_000)
    answered = copies.mask.sum(0)
    for length in range(1, 21):
        assert near(answered == length, 1 / 20)
    assert near(copies.y[copies.mask].mean(1), 0.5)
    recall = examples(RelationalRecall(), 2_000)
    items = recall.x[..., 32].sum(0)
    for count in range(2, 7):
        assert near(items == count, 1 / 5)
    for length in range(2, 6):
        paper = RelationalRecall(min_items=3, max_items=3, min_length=2, max_length=5, ask_for_last=False)
        assert near(examples(paper, 1_000).mask.sum(0) == length, 1 / 4)


def test_the_nested_operand_has_any_place():
    sums = examples(LearningToExecute(), 2_000, "valid")
    assert near(sums.x[0] == 1 + "0123456789+-*=()[]<>xefilors".index("("), 0.5)


def test_sizes_are_mixed_in_training_and_the_largest_in_tests():
    task = TASKS["execute-program"]
    sizes = Counter()
    for x, _, _ in rows(examples(task, 4_000)):
        text = "".join(texts(task, x))
        literals = "".join(c if c.isdigit() else " " for c in text.replace("[", "[x")).split()
        sizes[max(map(len, literals)), "(" in text] += 1
    assert {size for size, _ in sizes} == {1, 2, 3, 4, 5}
    for size in range(1, 6):
        for nested in (False, True):
            assert abs(sizes[size, nested] / 4_000 - 0.1) < 0.02, sizes
    for split in ("valid", "test"):
        for x, _, _ in rows(examples(task, 100, split)):
            text = "".join(texts(task, x))
            assert text.count("(") == 1
            assert any(len(run) == 5 for run in "".join(c if c.isdigit() else " " for c in text).split())
    assert set(examples(TASKS["memorise-copy"], 500, "test").lengths) == {20}
    assert set(examples(TASKS["memorise-copy"], 500).lengths) == set(range(2, 21, 2))


# Floors: what is reached without solving a task


def shortcut(task, batch):
    """Whether each example is answered, in its last step, by a rule that does not solve the task."""
    answers = []
    for x, y, _ in rows(batch):
        if isinstance(task, AssociativeRetrieval):
            guess = Counter(x[1:-3:2].tolist()).most_common(1)[0][0]
        elif isinstance(task, DictionaryInference):
            guess = x[task.word_length + 1]  # a letter that was seen
        else:
            N = task.num_vectors
            n, reference = x[0, -2 * N : -N].argmax(), x[0, -N:].argmax()
            guess = reference if n == N - 1 else (reference + 1) % N
        answers.append(guess == y[-1])
    return answers


@pytest.mark.parametrize(
    ("task", "name", "figure"),
    [
        (AssociativeRetrieval(num_pairs=4), "digits without letters", 0.384),
        (AssociativeRetrieval(num_pairs=8), "digits without letters", 0.300),
        (AssociativeRetrieval(num_pairs=14), "digits without letters", 0.247),
        (AssociativeRetrieval(num_pairs=24), "digits without letters", 0.210),
        (DictionaryInference(num_words=4, word_length=1), "any letter seen", None),
        (DictionaryInference(num_words=8, word_length=1), "any letter seen", None),
        (NthFarthest(), "labels without vectors", 0.25),
        (NthFarthest(num_vectors=4, vector_size=2), "labels without vectors", 0.5),
    ],
)
def test_floors(task, name, figure):
    floor = task.floors()[name]
    assert figure is None or floor == pytest.approx(figure, abs=1e-3)
    assert near(shortcut(task, examples(task, 10_000)), floor, errors=3)


@pytest.mark.parametrize("task", [Copy(), PrioritySort(), PrioritySort(width=8), RelationalRecall()])
def test_coins_get_half_of_the_bits(task):
    batch = examples(task, 3_000)
    assert near((batch.y * batch.mask[..., None]).sum((0, 2)), task.floors()["coins"], errors=3)


# Impossible options


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AssociativeRetrieval(num_pairs=27), r"num_pairs=27, but it must be in 1..26 \(--task.num-pairs\)"),
        (lambda: AssociativeRetrieval(train_size=0), "train_size=0, but it must be at least 1, or None"),
        (lambda: DictionaryInference(num_words=169, word_length=2), "num_words=169, but it must be below 169"),
        (lambda: DictionaryInference(word_length=17), "word_length=17"),
        (lambda: DictionaryInference(num_words=0), "num_words=0"),
        (lambda: NthFarthest(num_vectors=1), "num_vectors=1"),
        (lambda: NthFarthest(vector_size=0), "vector_size=0"),
        (lambda: ListOps(depth=0), "depth=0"),
        (lambda: ListOps(depth=19), "depth=19"),
        (lambda: CodeExecution(num_variables=6), "num_variables=6"),
        (lambda: CodeExecution(num_statements=1), "num_statements=1"),
        (lambda: Copy(width=0), "width=0"),
        (lambda: Copy(min_length=0), "min_length=0"),
        (lambda: Copy(max_length=0), "max_length=0, but it must be at least min_length=1"),
        (lambda: PrioritySort(num_vectors=0), "num_vectors=0"),
        (lambda: PrioritySort(num_answers=21), "num_answers=21, but it must be in 1..num_vectors=20"),
        (lambda: RelationalRecall(min_items=1), "min_items=1"),
        (lambda: RelationalRecall(max_items=1), "max_items=1"),
        (lambda: RelationalRecall(min_length=0), "min_length=0"),
        (lambda: RelationalRecall(max_length=2), "max_length=2"),
        (lambda: DoubleCopy(length=0), "length=0"),
        (lambda: LearningToExecute(operations="subtraction"), "operations=subtraction"),
        (lambda: LearningToExecute(length=0), "length=0"),
        (lambda: LearningToExecute(nesting=0), "nesting=0"),
        (lambda: LearningToExecute(length=10, nesting=9), r"nesting=9, but it must be less for length=10"),
        (lambda: LearningToExecute(operations="program-multiply", length=6, nesting=3), "at most 18"),
        (lambda: Memorisation(answer="triple"), "answer=triple"),
        (lambda: Memorisation(length=0), "length=0"),
    ],
)
def test_impossible_options_are_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_largest_values_fit():
    for task in (
        LearningToExecute(operations="program", length=9, nesting=9),
        LearningToExecute(operations="program-multiply", length=6, nesting=2),
    ):
        check(task, examples(task, 200, "test"))
