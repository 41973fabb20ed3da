"""Hand-written policies for GridMaze: how well one plays with and without knowing where the goal and oneself are.

Each is made as `policy(env, seed)` for a vector environment and called as
`policy(observation [N, D], episode_starts bool [N]) -> actions int64 [N]`, once per step of that environment.
Both know the map.
"""

import numpy as np
from gymnasium.vector import VectorEnv

from engram.envs.references import new_plan, policy_streams
from engram.envs.streams import below
from engram.kernels import njit

UNKNOWN = -1
"""the goal before it has been found"""

_LOOK = 2.0 ** np.arange(9, dtype=np.float32)
"""makes a number of a view"""


@njit(cache=True)
def _distances(successors):
    """Steps of a shortest path from cell to cell, int32 [m, m]."""
    num_cells, num_actions = successors.shape
    distance = np.full((num_cells, num_cells), -1, np.int32)
    queue = np.empty(num_cells, np.int32)
    for end in range(num_cells):
        distance[end, end] = 0
        queue[0], first, last = end, 0, 1
        while first < last:
            cell = queue[first]
            first += 1
            for action in range(num_actions):  # every way can be walked back
                neighbour = successors[cell, action]
                if distance[neighbour, end] < 0:
                    distance[neighbour, end] = distance[cell, end] + 1
                    queue[last] = neighbour
                    last += 1
    return distance


@njit(cache=True)
def _best(stream, gains):
    """Action of the highest gain, ties broken at random."""
    most, num_best, choice = gains.max(), 0, 0
    for action in range(len(gains)):
        if gains[action] == most:
            num_best += 1
            if below(stream, num_best) == 0:
                choice = action
    return choice


@njit(cache=True)
def _search(stream, cell, tried, successors, closeness):
    """First action to the nearest cell that is not yet tried."""
    gains = np.zeros(successors.shape[1])
    for action in range(len(gains)):
        for end in range(len(tried)):
            if not tried[end]:
                gains[action] = max(gains[action], closeness[successors[cell, action], end])
    return _best(stream, gains)


@njit(cache=True)
def _return(stream, here, goal, successors, closeness):
    """Action that brings one closest to the goal on average over the cells one may be in."""
    gains = np.zeros(successors.shape[1])
    for cell in range(len(here)):
        if here[cell]:
            for action in range(len(gains)):
                gains[action] += closeness[successors[cell, action], goal]
    return _best(stream, gains)


@njit(cache=True)
def _move(here, action, successors):
    """Cells one may be in after an action."""
    arrived = np.zeros_like(here)
    for cell in range(len(here)):
        if here[cell]:
            arrived[successors[cell, action]] = True
    return arrived


@njit(cache=True)
def _learn(here, tried, goal, action, rewarded, look, looks, successors, start, may_land_on_goal):
    """Take in what was seen after `action`: update `here` and `tried`, and return the goal."""
    arrived = _move(here, action, successors)
    if goal == UNKNOWN:  # then `arrived` is one cell
        tried |= arrived
        if rewarded:
            goal = arrived.argmax()
        elif tried.all():
            goal = start
    if rewarded:
        arrived[:] = True
        arrived[goal] = may_land_on_goal
    elif goal != UNKNOWN:
        arrived[goal] = False
    for cell in range(len(here)):
        here[cell] = arrived[cell] and looks[cell] == look
    return goal


@njit(cache=True)
def _explore(knowledge, starts, rewarded, seen, looks, successors, start, may_land_on_goal, closeness, actions):
    """Update what each member knows, and choose its next action."""
    streams, here, tried, goals = knowledge
    for slot in range(len(actions)):
        own = here[slot], tried[slot]
        if starts[slot]:
            for cells in own:
                cells[:] = False
                cells[start] = True
            goals[slot] = UNKNOWN
        else:
            news = actions[slot], rewarded[slot], seen[slot]
            goals[slot] = _learn(*own, goals[slot], *news, looks, successors, start, may_land_on_goal)
        if goals[slot] == UNKNOWN:
            actions[slot] = _search(streams[slot], here[slot].argmax(), tried[slot], successors, closeness)
        else:
            actions[slot] = _return(streams[slot], here[slot], goals[slot], successors, closeness)


class MazeExplorer:
    """Searches for the goal, and after each success finds out where it has been put, and returns.

    It knows the map and sees observations only. Until the goal is found it walks to the nearest cell not yet tried.
    Then it keeps in mind the cells that agree with all it has seen since it was put somewhere, and takes the action
    that would be best on average over these if it knew its cell from then on (QMDP, Littman et al. 1995); a goal n
    steps away counts 1 / 2^n. Counting steps instead would send it to and fro between cells that look alike.
    """

    def __init__(self, env: VectorEnv, seed: int):
        env = env.unwrapped
        num_envs, num_cells = env.num_envs, len(env.maze.cells)
        self._reward_entry = env.layout.reward
        self._map = env.maze.views @ _LOOK, env.maze.successors, env.maze.start, env.rules.may_land_on_goal
        self._closeness = 0.5 ** _distances(env.maze.successors)  # powers of two add up exactly, so that ties are ties
        here, tried = np.zeros((2, num_envs, num_cells), bool)
        self._knowledge = policy_streams(num_envs, seed), here, tried, np.zeros(num_envs, np.int64)
        self._actions = np.zeros(num_envs, np.int64)

    def __call__(self, observation: np.ndarray, episode_starts: np.ndarray) -> np.ndarray:
        seen = observation[:, self._reward_entry] > 0, observation[:, :9] @ _LOOK
        _explore(self._knowledge, episode_starts, *seen, *self._map, self._closeness, self._actions)
        return self._actions.copy()


@njit(cache=True)
def _solve(successors, goal, rules, best):
    """Fill in the optimal actions `best` [L + 1, cell] by the number of steps left.

    Returns the value [cell] of an episode that starts there.
    """
    num_cells, num_actions = successors.shape
    after = np.zeros(num_cells)  # optimal value with one step less
    values = np.zeros_like(after)
    for left in range(1, len(best)):
        relocated = after.sum() / num_cells  # mean value after a success
        if not rules.may_land_on_goal:
            relocated = (after.sum() - after[goal]) / (num_cells - 1)
        for cell in range(num_cells):
            values[cell] = -np.inf
            for action in range(num_actions):
                target = successors[cell, action]
                value = relocated + rules.reward if target == goal else after[target]
                if target == cell:
                    value -= rules.wall_penalty
                if value > values[cell]:
                    values[cell] = value
                    best[left, cell] = action
        after, values = values, after
    return after


class MazeOracle:
    """Knows the map, its own cell, the goal and the clock, and plays optimally (finite-horizon dynamic programming).

    Holds N L m bytes for the present goals of N members, L steps and m free cells, and raises PlanTooLarge where those
    are too many. `values` [N, cell] are the expected returns of an episode.
    """

    def __init__(self, env: VectorEnv, seed: int):
        self._env = env.unwrapped
        num_envs, num_cells = self._env.num_envs, len(self._env.maze.cells)
        self._solved = np.full(num_envs, UNKNOWN)
        self.values = np.zeros((num_envs, num_cells))
        self._best = new_plan(num_envs, self._env.rules.episode_length + 1, num_cells)

    def __call__(self, observation: np.ndarray, episode_starts: np.ndarray) -> np.ndarray:
        members, rules = self._env.members, self._env.rules
        for slot in np.flatnonzero(self._solved != members["goal"]):
            self._solved[slot] = members["goal"][slot]
            self.values[slot] = _solve(self._env.maze.successors, self._solved[slot], rules, self._best[slot])
        left = rules.episode_length - members["time"]
        return self._best[np.arange(len(members)), left, members["position"]].astype(np.int64)
