"""Hand-written policies for GraphPOMDP: how well one plays with and without knowing the graph.

Each is made as `policy(env, seed)` for a vector environment and called as
`policy(observation [N, D], episode_starts bool [N]) -> actions int64 [N]`, once per step of that environment.
"""

import numpy as np
from gymnasium.vector import VectorEnv

from engram.envs.references import new_plan, policy_streams
from engram.envs.streams import below
from engram.kernels import njit

INVALID, UNTRIED = -1, -2
"""What is known of a (state, action) pair where it is not a successor."""


@njit(cache=True)
def _plan(stream, known, agent, goal, untried_cost):
    """First action of a shortest path, ties broken at random.

    Known edges cost 1, a pair whose end is not known is assumed to reach the goal at `untried_cost`, and invalid pairs
    are left out. If nothing leads to the goal, any action will do.
    """
    num_states, num_actions = known.shape
    costs = np.full((num_states, num_actions), np.inf)
    distance = np.full(num_states, np.inf)
    distance[goal] = 0.0
    for _ in range(num_states):
        for state in range(num_states):
            for action in range(num_actions):
                successor = known[state, action]
                if successor >= 0:
                    costs[state, action] = 1.0 + distance[successor]
                elif successor != INVALID:
                    costs[state, action] = untried_cost
                if costs[state, action] < distance[state]:
                    distance[state] = costs[state, action]
    best, num_best, choice = np.min(costs[agent]), 0, 0
    for action in range(num_actions):
        if costs[agent, action] <= best:
            num_best += 1
            if below(stream, num_best) == 0:
                choice = action
    return choice


@njit(cache=True)
def _plan_all(streams, known, agents, goals, untried_cost, actions):
    for slot in range(agents.shape[0]):
        actions[slot] = _plan(streams[slot], known[slot], agents[slot], goals[slot], untried_cost)


@njit(cache=True)
def _remember(known, agents, goals, actions, new_agents, new_goals, timeouts, penalised, starts):
    """Write what the last step showed into `known` [N, S, A].

    A timeout hides where the last action led; that it was invalid still shows in the reward input, if there is one.
    """
    for slot in range(agents.shape[0]):
        if starts[slot]:
            known[slot] = UNTRIED
            continue
        pair = known[slot, agents[slot]]
        action = actions[slot]
        if timeouts[slot]:
            if penalised[slot]:
                pair[action] = INVALID
        elif new_goals[slot] != goals[slot]:
            pair[action] = goals[slot]
        elif new_agents[slot] == agents[slot]:
            pair[action] = INVALID
        else:
            pair[action] = new_agents[slot]


class GraphPolicy:
    """What the policies share: sizes, a random stream per member, and reading observations."""

    def __init__(self, env: VectorEnv, seed: int):
        self.env = env.unwrapped
        num_envs, self.num_states, self.num_actions = self.env.graphs.shape
        self.actions = np.zeros(num_envs, np.int64)
        self._streams = policy_streams(num_envs, seed)

    def places(self, observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Agents [N] and goals [N]."""
        states = self.num_states
        return observation[:, states : 2 * states].argmax(1), observation[:, :states].argmax(1)


class GraphExplorer(GraphPolicy):
    """Starts every episode knowing nothing, remembers every pair it tries, and takes the shortest optimistic path.

    It sees observations only. A pair it has not tried is assumed to reach the goal at a cost of 2.5 steps.
    """

    untried_cost = 2.5

    def __init__(self, env: VectorEnv, seed: int):
        super().__init__(env, seed)
        self._known = np.full(self.env.graphs.shape, UNTRIED, np.int8)
        self._places = np.zeros_like(self.actions), np.zeros_like(self.actions)
        self._reward_input = np.zeros(len(self.actions), np.float32)
        self._reward_is_sum = self.env.rules.total_reward_scale > 0

    def __call__(self, observation: np.ndarray, episode_starts: np.ndarray) -> np.ndarray:
        places = self.places(observation)
        first_action = 2 * self.num_states + 1
        timeouts = ~observation[:, first_action : first_action + self.num_actions].any(1)
        reward_input = observation[:, -1]
        penalised = reward_input < (self._reward_input if self._reward_is_sum else 0)
        self._reward_input = reward_input.copy()
        _remember(self._known, *self._places, self.actions, *places, timeouts, penalised, episode_starts)
        self._places = places
        _plan_all(self._streams, self._known, *places, self.untried_cost, self.actions)
        return self.actions.copy()


class GraphGreedy(GraphPolicy):
    """Knows the graph and takes a shortest path to the present goal."""

    def __call__(self, observation: np.ndarray, episode_starts: np.ndarray) -> np.ndarray:
        agents, goals = self.places(observation)
        _plan_all(self._streams, self.env.graphs, agents, goals, np.inf, self.actions)
        return self.actions.copy()


@njit(cache=True)
def _solve(graph, rules, best):
    """Fill in the optimal actions `best` [L + 1, goal, agent, timer] by the number of steps left.

    Returns the value [goal, agent] of an episode that starts there.
    """
    num_states, num_actions = graph.shape
    timers = rules.reset_after
    after = np.zeros((num_states, num_states, timers))  # optimal value with one step less
    for left in range(1, best.shape[0]):
        relocated = np.zeros((num_states, timers))  # mean value after goal and agent were moved
        for goal in range(num_states):
            for new_goal in range(num_states):
                for agent in range(num_states):
                    if new_goal != goal and agent != new_goal:
                        relocated[goal] += after[new_goal, agent] / (num_states - 1) ** 2
        values = np.zeros_like(after)
        for goal in range(num_states):
            for agent in range(num_states):
                for timer in range(timers):
                    values[goal, agent, timer] = -np.inf
                    for action in range(num_actions):
                        successor = graph[agent, action]
                        value = -rules.penalty if successor < 0 else 0.0
                        if successor == goal:
                            value = rules.reward + relocated[goal, 0 if rules.success_restarts_timer else timer]
                        elif timer + 1 >= rules.reset_after:
                            value += relocated[goal, 0]
                        else:
                            value += after[goal, agent if successor < 0 else successor, timer + 1]
                        if value > values[goal, agent, timer]:
                            values[goal, agent, timer] = value
                            best[left, goal, agent, timer] = action
        after = values
    return after[:, :, 0]


class GraphOracle(GraphPolicy):
    """Knows the graph, the timer and the clock, and plays optimally (finite-horizon dynamic programming).

    Holds N L S^2 reset_after bytes, and raises PlanTooLarge where those are too many. `values` [N, goal, agent] are the
    expected returns of an episode.
    """

    def __init__(self, env: VectorEnv, seed: int):
        super().__init__(env, seed)
        rules = self.env.rules
        num_envs, states = len(self.actions), self.num_states
        self._solved = np.zeros_like(self.env.graphs)
        self.values = np.zeros((num_envs, states, states))
        self._best = new_plan(num_envs, rules.episode_length + 1, states, states, rules.reset_after)

    def __call__(self, observation: np.ndarray, episode_starts: np.ndarray) -> np.ndarray:
        for slot in np.flatnonzero((self._solved != self.env.graphs).any((1, 2))):
            self.values[slot] = _solve(self.env.graphs[slot], self.env.rules, self._best[slot])
            self._solved[slot] = self.env.graphs[slot]
        members = self.env.members
        left = self.env.rules.episode_length - members["time"]
        slots = np.arange(len(members))
        return self._best[slots, left, members["goal"], members["agent"], members["timer"]].astype(np.int64)
