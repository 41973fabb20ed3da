"""Shortest path and minimum spanning tree of graphs shown edge by edge (Le et al. 2020, Section 3.3)."""

from dataclasses import dataclass

import numpy as np

from engram.envs.streams import below, other_than
from engram.kernels import njit
from engram.supervised.tasks.examples import between, draw_first
from engram.supervised.tasks.naming import END, LAST, MAX_ITEMS, NAME_SIZE, Drawn, NamingTask
from engram.supervised.tasks.task import Vectors

GRID = 2**24
"""Weights are multiples of 1 / GRID, which float32 holds, so that sums of them compare exactly as integers."""
SHORTEST, LONGEST = 2, 6
"""edges of a path that is asked for"""


@dataclass(frozen=True)
class GraphTask(NamingTask):
    """A connected graph of n named nodes and between n - 1 and 2 n edges, one a step: two one-hots and a weight.

    It is a random tree with random edges added. Edges come in random order and orientation, their weights are uniform
    in (0, 1] and all different. The last step of the input is flagged in both one-hots.
    """

    min_nodes: int = 5
    max_nodes: int = 10
    """n is uniform between min_nodes and max_nodes"""

    def __post_init__(self):
        super().__post_init__()
        self.require(self.min_nodes >= 5, "min_nodes", "at least 5")  # with 4 there are no 2 n edges
        self.require(self.min_nodes <= self.max_nodes <= MAX_ITEMS, "max_nodes", f"in min_nodes..{MAX_ITEMS}")

    @property
    def inputs(self) -> Vectors:
        return Vectors(2 * NAME_SIZE + 1)

    def caption(self, step: np.ndarray) -> str:
        first, second = 1 + step[1:NAME_SIZE].argmax(), 1 + step[NAME_SIZE + 1 : -1].argmax()
        weight = step[-1]
        return f"{first}-{second}: {weight:.2f}" if weight else f"{first} to {second}?"

    def blank(self, count: int, steps: int, answer_length: int) -> Drawn:
        """As many examples with room for such inputs and answers, before anything is drawn."""
        inputs, answers = np.zeros((steps, count, self.inputs.size), np.float32), np.full((count, answer_length), END)
        return Drawn(inputs, np.empty(count, np.int64), answers, np.empty(count, np.int64))


@dataclass(frozen=True)
class ShortestPath(GraphTask):
    """The nodes of the shortest way from one node to another, both included.

    These two are the one-hots of a step behind the edges, whose weight is 0. The path is the only shortest one and has
    2 to 6 edges; other graphs are drawn again, with as many nodes and edges.
    """

    def draw(self, streams: np.ndarray, split: str) -> Drawn:
        blank = self.blank(len(streams), 2 * self.max_nodes + 1, LONGEST + 2)
        _paths(streams, self.min_nodes, self.max_nodes, *blank)
        return blank


@dataclass(frozen=True)
class SpanningTree(GraphTask):
    """The edges of the minimum spanning tree, of least weight first, each as its two nodes in the order shown."""

    def draw(self, streams: np.ndarray, split: str) -> Drawn:
        blank = self.blank(len(streams), 2 * self.max_nodes, 2 * self.max_nodes - 1)
        _trees(streams, self.min_nodes, self.max_nodes, *blank)
        return blank


@njit(cache=True)
def _draw_graph(stream, n, edges, weights):
    """Edges, as n * node + node, and integer weights 1..GRID of a connected graph, into arrays of as many entries."""
    for i in range(1, n):
        edges[i - 1] = n * i + below(stream, i)
    for e in range(n - 1, len(edges)):
        drawn = False
        while not drawn:
            i = below(stream, n)
            j = other_than(stream, n, i)
            drawn = n * i + j not in edges[:e] and n * j + i not in edges[:e]
            edges[e] = n * i + j
    draw_first(stream, edges, len(edges))
    for e in range(len(edges)):
        i, j = divmod(edges[e], n)
        if below(stream, 2):
            edges[e] = n * j + i
        weights[e] = 1 + below(stream, GRID)
        while weights[e] in weights[:e]:
            weights[e] = 1 + below(stream, GRID)


@njit(cache=True)
def _show_graph(stream, n, edges, weights, names, inputs):
    """Name the nodes, and write an edge into each step of the inputs [S, D]."""
    names[:n] = np.arange(1, n + 1)
    draw_first(stream, names[:n], n)
    for e in range(len(edges)):
        i, j = divmod(edges[e], n)
        inputs[e, names[i]] = inputs[e, NAME_SIZE + names[j]] = 1
        inputs[e, 2 * NAME_SIZE] = weights[e] / GRID


@njit(cache=True)
def _flag(step):
    step[LAST] = step[NAME_SIZE + LAST] = 1


@njit(cache=True)
def shortest_path(n, edges, weights, source, target, path):
    """Nodes of the shortest path, into `path`; their number, or 0 if it is not the only one (Dijkstra 1959).

    Args: edges, weights: of a connected graph; edges as n * node + node, weights integers above 0.
    """
    unreached = weights.sum() + 1
    distances, ways, before = np.full(n, unreached), np.zeros(n, np.int64), np.zeros(n, np.int64)
    done = np.zeros(n, np.bool_)
    distances[source], ways[source] = 0, 1
    for _ in range(n):
        node = np.where(done, unreached + 1, distances).argmin()
        done[node] = True
        for e in range(len(edges)):
            i, j = divmod(edges[e], n)
            if node != i and node != j:
                continue
            other, length = i + j - node, distances[node] + weights[e]
            if length < distances[other]:
                distances[other], ways[other], before[other] = length, ways[node], node
            elif length == distances[other]:
                ways[other] += ways[node]
    if ways[target] != 1:
        return 0
    count, node = 1, target
    while node != source:
        node = before[node]
        count += 1
    node = target
    for place in range(count - 1, -1, -1):
        path[place] = node
        node = before[node]
    return count


@njit(cache=True)
def spanning_tree(n, edges, weights, tree):
    """Places of the n - 1 edges of the minimum spanning tree, of least weight first, into `tree` (Kruskal 1956).

    Args: edges, weights: of a connected graph; edges as n * node + node, weights all different.
    """
    part, count = np.arange(n), 0
    for e in np.argsort(weights):
        i, j = divmod(edges[e], n)
        if part[i] != part[j]:
            part[part == part[j]] = part[i]
            tree[count] = e
            count += 1


@njit(cache=True)
def _paths(streams, low, high, inputs, steps, answers, answer_lengths):
    edges, weights = np.empty(2 * high, np.int64), np.empty(2 * high, np.int64)
    names, path = np.empty(high, np.int64), np.empty(high, np.int64)
    for b in range(len(streams)):
        stream, n = streams[b], between(streams[b], low, high)
        m = between(stream, n - 1, 2 * n)
        length = 0
        while not SHORTEST <= length - 1 <= LONGEST:
            _draw_graph(stream, n, edges[:m], weights[:m])
            source = below(stream, n)
            target = other_than(stream, n, source)
            length = shortest_path(n, edges[:m], weights[:m], source, target, path)
        _show_graph(stream, n, edges[:m], weights[:m], names, inputs[:, b])
        inputs[m, b, names[source]] = inputs[m, b, NAME_SIZE + names[target]] = 1
        _flag(inputs[m, b])
        for i in range(length):
            answers[b, i] = names[path[i]]
        steps[b], answer_lengths[b] = m + 1, length + 1


@njit(cache=True)
def _trees(streams, low, high, inputs, steps, answers, answer_lengths):
    edges, weights = np.empty(2 * high, np.int64), np.empty(2 * high, np.int64)
    names, tree = np.empty(high, np.int64), np.empty(high, np.int64)
    for b in range(len(streams)):
        stream, n = streams[b], between(streams[b], low, high)
        m = between(stream, n - 1, 2 * n)
        _draw_graph(stream, n, edges[:m], weights[:m])
        _show_graph(stream, n, edges[:m], weights[:m], names, inputs[:, b])
        _flag(inputs[m - 1, b])
        spanning_tree(n, edges[:m], weights[:m], tree)
        for place in range(n - 1):
            i, j = divmod(edges[tree[place]], n)
            answers[b, 2 * place], answers[b, 2 * place + 1] = names[i], names[j]
        steps[b], answer_lengths[b] = m, 2 * n - 1
