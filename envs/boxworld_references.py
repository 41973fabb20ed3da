"""Hand-written policies for BoxWorld: how well one plays with a perfect memory, and with sight of everything.

Each is made as `policy(env, seed)` for a vector environment and called as
`policy(observation [N, ...], episode_starts bool [N]) -> actions int64 [N]`, once per step of that environment.
"""

import numpy as np
from gymnasium.vector import VectorEnv

from engram.envs.boxworld_levels import AGENT, FLOOR, GEM, KEY, WALL
from engram.envs.viewport import MOVES
from engram.kernels import njit

UNKNOWN = -1
"""A cell not seen yet. Other known cells are those of boxworld_levels.py, but a lock is the key that opens it."""


@njit(cache=True)
def _is_object(cell):
    return cell == GEM or cell >= KEY


@njit(cache=True)
def _find_content(known, content):
    """Place of a key or the gem, (-1, -1) if not known; locks and what may be one are left out."""
    for row in range(1, known.shape[0] - 1):
        for column in range(1, known.shape[1] - 1):
            if known[row, column] == content:
                left, right = known[row, column - 1], known[row, column + 1]
                if not _is_object(left) and (left != UNKNOWN or _is_object(right)):
                    return row, column
    return -1, -1


@njit(cache=True)
def _next_object(known, held):
    """Place of the key, lock or gem to walk to, found backwards from the gem; (-1, -1) if some link is not known."""
    content = GEM
    while True:
        row, column = _find_content(known, content)
        lock = UNKNOWN if row < 0 else known[row, column + 1]
        if lock == UNKNOWN:
            return -1, -1
        if not _is_object(lock):
            return row, column
        if lock == KEY + held:
            return row, column + 1
        content = lock


@njit(cache=True)
def _loose_key(known):
    """Place of a key that is in no box, (-1, -1) if none is known."""
    for row in range(1, known.shape[0] - 1):
        for column in range(1, known.shape[1] - 1):
            if known[row, column] >= KEY:
                left, right = known[row, column - 1], known[row, column + 1]
                if UNKNOWN not in (left, right) and not _is_object(left) and not _is_object(right):
                    return row, column
    return -1, -1


@njit(cache=True)
def _distances(known, row, column):
    """Steps over known floor from (row, column) to each cell of it, -1 where there is no way."""
    side = known.shape[0]
    distances = np.full((side, side), -1)
    rows, columns = np.empty(side * side, np.int64), np.empty(side * side, np.int64)  # cells to go on from
    rows[0], columns[0] = row, column
    distances[row, column] = 0
    head, tail = 0, 1
    while head < tail:
        row, column = rows[head], columns[head]
        head += 1
        for action in range(4):
            i, j = row + MOVES[action, 0], column + MOVES[action, 1]
            if known[i, j] == FLOOR and distances[i, j] < 0:
                distances[i, j] = distances[row, column] + 1
                rows[tail], columns[tail] = i, j
                tail += 1
    return distances


@njit(cache=True)
def _outlook(known, row, column, reach):
    """Place from which the most unknown cells are seen per step of the way there; what walls hide does not count."""
    side = known.shape[0]
    top, bottom, left, right = 0, side - 1, 0, side - 1
    for i in range(1, side - 1):
        for j in range(1, side - 1):
            if known[i, j] == WALL:
                top = i + 1 if known[i + 1, j] == FLOOR else top
                bottom = i - 1 if known[i - 1, j] == FLOOR else bottom
                left = j + 1 if known[i, j + 1] == FLOOR else left
                right = j - 1 if known[i, j - 1] == FLOOR else right
    distances = _distances(known, row, column)
    most, place = 0.0, (row, column)
    for i in range(side):
        for j in range(side):
            if distances[i, j] < 1:
                continue
            num_new = 0
            for k in range(max(i - reach, top), min(i + reach, bottom) + 1):
                for m in range(max(j - reach, left), min(j + reach, right) + 1):
                    num_new += known[k, m] == UNKNOWN
            if num_new > most * distances[i, j]:
                most, place = num_new / distances[i, j], (i, j)
    return place


@njit(cache=True)
def _towards(known, row, column, goal):
    """First action of a shortest walk over known floor to a goal, -1 if there is none."""
    if goal[0] < 0:
        return -1
    distances = _distances(known, goal[0], goal[1])
    choice, nearest = -1, known.size
    for action in range(4):
        distance = distances[row + MOVES[action, 0], column + MOVES[action, 1]]
        if 0 <= distance < nearest:
            choice, nearest = action, distance
    return choice


@njit(cache=True)
def _choose_all(known, places, held, reach, actions):
    for slot in range(known.shape[0]):
        row, column = places[slot]
        goal = _next_object(known[slot], held[slot])
        if goal[0] < 0 and held[slot] < 0:
            goal = _loose_key(known[slot])
        action = _towards(known[slot], row, column, goal)
        if action < 0:  # not known, or known and the way to it is not
            action = _towards(known[slot], row, column, _outlook(known[slot], row, column, reach))
        actions[slot] = action


@njit(cache=True)
def _remember_all(known, places, seen, actions, starts):
    """Follow the agents to `places` [N, 2] and write what they see [N, V, V] into `known` [N, M, M].

    A map has its middle where the episode starts, so that nothing needs to be known of the room.
    """
    size = seen.shape[1]
    for slot in range(known.shape[0]):
        if starts[slot]:
            known[slot] = UNKNOWN
            places[slot] = known.shape[1] // 2
        else:  # a chosen move is never blocked
            places[slot, 0] += MOVES[actions[slot], 0]
            places[slot, 1] += MOVES[actions[slot], 1]
        top, left = places[slot]
        for i in range(size):
            for j in range(size):
                if seen[slot, i, j] == AGENT:
                    seen[slot, i, j] = FLOOR
                    top, left = top - i, left - j
        for i in range(size):
            for j in range(size):
                known[slot, top + i, left + j] = seen[slot, i, j]


class BoxWorldPlanner:
    """Walks to the next object of the path if all links back from the gem are known, and else to where it sees more.

    It opens no box before it knows the whole way from there, as a distractor's lock looks like any other. Only the
    loose key it takes at once: nothing else can be opened first.
    """

    def __init__(self, env: VectorEnv, seed: int):
        self.env = env.unwrapped
        self.actions = np.zeros(self.env.num_envs, np.int64)

    def choose(self, known: np.ndarray, places: np.ndarray, held: np.ndarray) -> np.ndarray:
        """Actions [N] from maps int8 [N, M, M], rows and columns of the agents [N, 2], colours of keys in hand [N]."""
        _choose_all(known, places, held, self.env.rules.view_size // 2, self.actions)
        return self.actions.copy()


class BoxWorldExplorer(BoxWorldPlanner):
    """Sees observations only, and remembers all it has seen in the episode."""

    def __init__(self, env: VectorEnv, seed: int):
        super().__init__(env, seed)
        num_envs, side, _ = self.env.cells.shape
        map_side = 2 * (side + self.env.rules.view_size) + 1
        self._known = np.zeros((num_envs, map_side, map_side), np.int8)
        self._places = np.zeros((num_envs, 2), np.int64)
        colours = _packed(self.env.palette[: KEY + self.env.rules.num_colours].T)
        self._order = colours.argsort().astype(np.int8)
        self._colours = colours[self._order]

    def _cells(self, planes: np.ndarray) -> np.ndarray:
        """Cells int8 [N, ...] with the colours [N, 3, ...]."""
        return self._order[np.searchsorted(self._colours, _packed(planes.swapaxes(0, 1)))]

    def __call__(self, observation: np.ndarray, episode_starts: np.ndarray) -> np.ndarray:
        seen = self._cells(observation[:, :3])
        held = self._cells(observation[:, -3:, 0, 0]) - KEY
        if not self.env.rules.view_size:
            seen[:, 0, 0] = WALL  # shows the key in hand
        _remember_all(self._known, self._places, seen, self.actions, episode_starts)
        return self.choose(self._known, self._places, held)


class BoxWorldOracle(BoxWorldPlanner):
    """Knows the room."""

    def __call__(self, observation: np.ndarray, episode_starts: np.ndarray) -> np.ndarray:
        cells, members = self.env.cells, self.env.members
        known = np.where(cells < KEY, cells, KEY + (cells - KEY) % self.env.rules.num_colours)
        known[cells == AGENT] = FLOOR
        return self.choose(known, np.stack([members["row"], members["column"]], 1).astype(np.int64), members["held"])


def _packed(planes: np.ndarray) -> np.ndarray:
    """Colours [3, ...] as one integer each, [...]."""
    red, green, blue = planes.astype(np.int32)
    return red << 16 | green << 8 | blue
