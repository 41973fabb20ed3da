"""Geometry and graph tasks: solvers on degenerate inputs, and what the examples are like as a whole."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engram.supervised.metrics import METRICS, Judged
from engram.supervised.tasks import ConvexHull, ShortestPath, SpanningTree, TravellingSalesman
from engram.supervised.tasks.geometry import convex_hull, shortest_tour
from engram.supervised.tasks.graphs import shortest_path, spanning_tree

END = 21


def examples(task, count, split="train"):
    return task.batch(split, np.arange(count, dtype=np.uint64))


def near(values, expected, errors=4.0):
    """Whether the mean of a sample is within some standard errors of what is expected."""
    values = np.asarray(values, float)
    return abs(values.mean() - expected) < errors * values.std(ddof=1) / np.sqrt(len(values))


# Solvers


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=3, max_size=9))
def test_hulls_of_points_in_a_line_or_in_one_place(points):
    """A corner is a point that no segment or triangle of other places holds; equal points count as one."""
    order = np.zeros(len(points), np.int64)
    count = convex_hull(np.array(points), order)
    corners = [points[i] for i in order[:count]]
    assert len(set(corners)) == count

    def turn(a, b, c):
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    def holds(a, b, c, p):
        turns = [turn(a, b, p), turn(b, c, p), turn(c, a, p)]
        inside = min(turns) >= 0 or max(turns) <= 0
        box = all(min(v) <= q <= max(v) for v, q in zip(zip(a, b, c, strict=True), p, strict=True))
        return inside and box

    places = set(points)
    expected = {p for p in places if not any(holds(*t, p) for t in itertools.product(places - {p}, repeat=3))}
    assert set(corners) == expected
    if count > 2:
        assert all(turn(corners[i - 2], corners[i - 1], corners[i]) > 0 for i in range(count))
    assert order[0] == min(points.index(corner) for corner in corners)


def test_the_tour_goes_round_a_circle():
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    circle = np.rint(1000 * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.int64)
    places, order = np.random.default_rng(0).permutation(12), np.zeros(12, np.int64)
    shortest_tour(circle[places], np.empty((2**11, 11)), order)
    assert order[0] == 0
    assert order[1] < order[-1]
    steps = np.diff(places[order], append=places[0]) % 12
    assert set(steps) in ({1}, {11})


def test_a_path_that_is_not_the_only_shortest_one_is_none():
    square = np.array([4 * 0 + 1, 4 * 3 + 1, 4 * 0 + 2, 4 * 2 + 3])  # 0-1-3 and 0-2-3
    path = np.zeros(4, np.int64)
    assert shortest_path(4, square, np.array([1, 4, 2, 3]), 0, 3, path) == 0
    assert shortest_path(4, square, np.array([1, 4, 2, 4]), 0, 3, path) == 3
    assert path[:3].tolist() == [0, 1, 3]
    assert shortest_path(4, square, np.array([9, 4, 2, 3]), 3, 1, path) == 2
    assert path[:2].tolist() == [3, 1]


def test_a_tree_leaves_out_the_heaviest_edge_of_a_circle():
    tree = np.zeros(3, np.int64)
    spanning_tree(4, np.array([4 * 0 + 1, 4 * 2 + 1, 4 * 2 + 3, 4 * 0 + 3]), np.array([3, 9, 1, 2]), tree)
    assert tree.tolist() == [2, 3, 0]


# Tours that are no solutions


def test_tours_of_any_length_and_with_any_names():
    """Against a loop over the points: names that no point has stand for the first one, and END is never visited."""
    batch, generator = examples(TravellingSalesman(max_points=7), 300), np.random.default_rng(0)
    targets = batch.y[batch.mask]
    rows = batch.mask.nonzero()[1]
    spoilt = generator.random(300) < 0.7
    said = np.where(spoilt[rows] & (generator.random(len(rows)) < 0.3), generator.integers(0, 22, len(rows)), targets)
    x, y, mask, answers = (torch.from_numpy(array) for array in (batch.x, targets, batch.mask, said))
    judged = Judged(answers, torch.zeros(len(rows)), y, mask, x)
    valid, lengths = (METRICS[name](judged)[0].numpy() for name in ("valid_tours", "tour_length"))
    for b in range(300):
        count = batch.mask[:, b].sum() - 1
        places = {1 + step[3:].argmax(): step[:2] for step in batch.x[:count, b]}
        tour = said[rows == b][:-1].tolist()
        assert valid[b] == (sorted(tour) == sorted(places))
        way = [places.get(name, batch.x[0, b, :2]) for name in tour]
        assert lengths[b] == pytest.approx(sum(np.linalg.norm(way[i] - way[i - 1]) for i in range(count)), rel=1e-5)
    assert valid[~spoilt].all()
    assert 0.05 < valid[spoilt].mean() < 0.6


# Statistics


@pytest.mark.parametrize(("N", "size"), [(5, 4.24), (10, 5.97), (20, 7.75)])
def test_corners_of_hulls(N, size):
    batch = examples(ConvexHull(test_points=N), 4_000, "test")
    assert abs((batch.mask.sum(0) - 1).mean() - size) < 0.06


@pytest.mark.parametrize(("N", "length"), [(5, 2.12), (10, 2.87)])
def test_lengths_of_tours(N, length):
    """Those of Vinyals et al. 2015, Table 3."""
    batch = examples(TravellingSalesman(test_points=N), 2_000, "test")
    places = batch.x[:N, :, :2][(batch.x[:N, :, 3:].argmax(2) + 1 == batch.y[N + 1 : -1, None]).argmax(1), range(2_000)]
    lengths = np.linalg.norm(places - np.roll(places, 1, axis=0), axis=2).sum(0)
    assert abs(lengths.mean() - length) < 0.03


def test_sizes_are_mixed_in_training_and_fixed_in_tests():
    task = ConvexHull(min_points=5, max_points=8, test_points=6)
    sizes = (examples(task, 4_000).x[..., 2:].sum((0, 2)) - 1).astype(int)
    for N in range(5, 9):
        assert near(sizes == N, 1 / 4)
    for split in ("valid", "test"):
        assert set(examples(task, 200, split).x[..., 2:].sum((0, 2))) == {6 + 1}


@pytest.mark.parametrize("kind", [ShortestPath, SpanningTree])
def test_graphs(kind):
    batch = examples(kind(), 6_000)
    weights = batch.x[..., 44]
    edges = (weights > 0).sum(0)
    nodes = batch.x[..., 1:22].argmax(2).max(0) + 1
    nodes = np.maximum(nodes, batch.x[..., 23:44].argmax(2).max(0) + 1)
    for n in range(5, 11):
        assert near(nodes == n, 1 / 6)
        for m in range(n - 1, 2 * n + 1):
            assert near(edges[nodes == n] == m, 1 / (n + 2))
    if kind is SpanningTree:
        assert near(weights[weights > 0], 1 / 2)
    else:
        steps = batch.mask.sum(0) - 2
        assert set(steps) == {2, 3, 4, 5, 6}
        assert 2.4 < steps.mean() < 3.2


@pytest.mark.parametrize("task", [ConvexHull(), TravellingSalesman(), ShortestPath(), SpanningTree()])
def test_names_say_nothing(task):
    """Any item may have any name: the first answer of an example of 5 items is each of 5 names equally often."""
    options = {"test_points": 5} if hasattr(task, "test_points") else {"max_nodes": 5}
    batch = examples(type(task)(**options), 4_000, "test")
    first = batch.y.T[np.arange(4_000), batch.mask.argmax(0)]
    for name in range(1, 6):
        assert near(first == name, 1 / 5)
    assert set(batch.y[batch.lengths - 1, range(4_000)]) == {END}


def test_any_tour_that_starts_and_ends_right_reaches_the_floor():
    task = TravellingSalesman(test_points=7)
    batch, generator = examples(task, 4_000, "test"), np.random.default_rng(0)
    first = batch.x[0, :, 2:].argmax(1)
    right = []
    for b, start in enumerate(first):
        others = [name for name in range(1, 8) if name != start]
        right.append(np.mean(batch.y[8:, b] == [start, *generator.permutation(others), END]))
    assert near(right, task.floors()["any tour"], errors=3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvexHull(min_points=2), r"min_points=2, but it must be at least 3 \(--task.min-points\)"),
        (lambda: ConvexHull(max_points=21), "max_points=21, but it must be in min_points..20"),
        (lambda: ConvexHull(min_points=9, max_points=8), "max_points=8, but it must be in min_points..20"),
        (lambda: ConvexHull(test_points=21), "test_points=21, but it must be in 3..20"),
        (lambda: TravellingSalesman(max_points=13), "max_points=13, but it must be in min_points..12"),
        (lambda: TravellingSalesman(test_points=13), "test_points=13, but it must be in 3..12"),
        (lambda: ShortestPath(min_nodes=4), "min_nodes=4, but it must be at least 5"),
        (lambda: ShortestPath(max_nodes=4), "max_nodes=4, but it must be in min_nodes..20"),
        (lambda: SpanningTree(max_nodes=21), "max_nodes=21, but it must be in min_nodes..20"),
    ],
)
def test_impossible_options_are_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
