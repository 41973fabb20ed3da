"""Random directed graphs with action-labelled edges (Schlag et al. 2021, appendix I, listing 1).

A graph is a successor table `int8 [num_states, num_actions]`: the state an action leads to, -1 where it is invalid.
Exactly 2 num_states (state, action) pairs are valid, at least one in every state; no action leads to the state it is
taken in; and from every state every state can be reached, in any number of steps that is large enough.
"""

from functools import lru_cache

import numpy as np

from engram.envs.levels import SPLITS, level_seed, split_of
from engram.envs.streams import STREAM, below, mix, other_than
from engram.kernels import njit

MAX_STATES = MAX_ACTIONS = 64
"""Sets of states are the bits of one word."""

_GAME = 1  # keeps the level streams of different games apart
_MAX_DRAWS = 100_000


@njit(cache=True)
def is_primitive(graph):
    """Whether some number of steps leads from every state to every state."""
    num_states = graph.shape[0]
    everything = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - num_states)
    reach = np.zeros(num_states, np.uint64)
    for state in range(num_states):
        for successor in graph[state]:
            if successor >= 0:
                reach[state] |= np.uint64(1) << np.uint64(successor)
    for _ in range(num_states):  # 2**num_states steps exceed Wielandt's bound (num_states - 1)**2 + 1
        further = np.zeros(num_states, np.uint64)
        for state in range(num_states):
            for middle in range(num_states):
                if reach[state] >> np.uint64(middle) & np.uint64(1):
                    further[state] |= reach[middle]
        reach = further
    return np.all(reach == everything)


@njit(cache=True)
def _draw_graph(stream, graph):
    """Fill `graph` with the next graph of the stream."""
    num_states, num_actions = graph.shape
    while True:
        graph[:] = -1
        for state in range(num_states):  # a way out of every state
            target = other_than(stream, num_states, state)
            graph[state, below(stream, num_actions)] = target
        possible = True
        for target in range(num_states):  # a way into every state, from a pair that is still free
            num_free = 0
            for state in range(num_states):
                for action in range(num_actions):
                    num_free += state != target and graph[state, action] < 0
            if num_free == 0:
                possible = False
                break
            choice = below(stream, num_free)
            for state in range(num_states):
                for action in range(num_actions):
                    if state != target and graph[state, action] < 0:
                        if choice == 0:
                            graph[state, action] = target
                        choice -= 1
        if possible and is_primitive(graph):
            return


@njit(cache=True)
def graph_hash(graph):
    """Hash that ignores how states and actions are numbered: relabelled graphs share it.

    Colour refinement on states and actions at once: sums over edges do not depend on the numbering.
    """
    num_states, num_actions = graph.shape
    states, actions = np.ones(num_states, np.uint64), np.ones(num_actions, np.uint64)
    for _ in range(num_states):
        out, into, labels = np.zeros_like(states), np.zeros_like(states), np.zeros_like(actions)
        for state in range(num_states):
            for action in range(num_actions):
                successor = graph[state, action]
                if successor >= 0:
                    out[state] += mix(states[successor] ^ mix(actions[action]))
                    into[successor] += mix(states[state] ^ mix(actions[action]))
                    labels[action] += mix(states[state] ^ mix(states[successor]))
        for state in range(num_states):
            states[state] = mix(states[state] ^ mix(out[state] ^ mix(into[state])))
        for action in range(num_actions):
            actions[action] = mix(actions[action] ^ mix(labels[action]))
    total = np.uint64(0)
    for state in range(num_states):
        total += mix(states[state])
    for action in range(num_actions):
        total ^= mix(actions[action])
    return total


@njit(cache=True)
def _generate(split, level_ids, base_seed, streams, graphs):
    stream = streams[0]  # the caller's: Numba would free an array made here while the record is still in use
    for index in range(graphs.shape[0]):
        stream.rng = level_seed(_GAME, split, level_ids[index], base_seed)
        for _ in range(_MAX_DRAWS):
            _draw_graph(stream, graphs[index])
            if split_of(graph_hash(graphs[index])) == split:
                break
        else:
            return False
    return True


def generate_graphs(split: str, level_ids: np.ndarray, num_states: int, num_actions: int, base_seed: int) -> np.ndarray:
    """Successor tables int8 [G, S, A] of the levels `level_ids` [G]; no two splits share a graph, however relabelled.

    Raises:
        ValueError: graphs of this size are so few that none belongs to the split.
    """
    graphs = np.empty((len(level_ids), num_states, num_actions), np.int8)
    if not _generate(SPLITS[split], level_ids, base_seed, np.zeros(1, STREAM), graphs):
        raise ValueError(f"num_states={num_states}, num_actions={num_actions} leave no graph for split {split!r}")
    return graphs


def _draw_listing_graph(random: np.random.RandomState, num_states: int, num_actions: int) -> np.ndarray:
    """The paper's listing, with the draws it makes from NumPy's legacy generator and in its order."""
    while True:
        graph = np.full((num_states, num_actions), -1, np.int8)
        for state in range(num_states):
            target = random.randint(0, num_states - 1)
            graph[state, random.randint(0, num_actions)] = target + (target >= state)
        for target in range(num_states):
            actions, states = np.nonzero(graph.T < 0)
            free = np.flatnonzero(states != target)
            if not len(free):
                break
            pair = free[random.randint(0, len(free))]
            graph[states[pair], actions[pair]] = target
        else:
            if is_primitive(graph):
                return graph


def _listing_graphs(split: str, num_levels: int, num_states: int, num_actions: int, seed: int) -> np.ndarray:
    """The split's graphs when test, train and valid graphs are drawn in turn, each new to the splits before it."""
    random = np.random.RandomState(seed)
    earlier: set[bytes] = set()
    for name in ("test", "train", "valid"):
        graphs = []
        while len(graphs) < num_levels:
            graph = _draw_listing_graph(random, num_states, num_actions)
            if graph.tobytes() not in earlier:
                graphs.append(graph)
        if name == split:
            break
        earlier |= {graph.tobytes() for graph in graphs}
    return np.stack(graphs)


@lru_cache(maxsize=16)
def graph_table(
    generator: str, split: str, num_levels: int, num_states: int, num_actions: int, base_seed: int
) -> np.ndarray:
    """All graphs of a finite level set, read-only int8 [num_levels, num_states, num_actions].

    `generator` is "engram" for `generate_graphs`, or "listing" for the random stream of the paper's released program.
    """
    if generator == "listing":
        graphs = _listing_graphs(split, num_levels, num_states, num_actions, base_seed)
    else:
        graphs = generate_graphs(split, np.arange(num_levels), num_states, num_actions, base_seed)
    graphs.setflags(write=False)
    return graphs
