"""A hand-written policy for Mini-Pacman: how well one plays who sees the whole map and looks one meal ahead."""

import numpy as np
from gymnasium.vector import VectorEnv

from engram.envs.mini_pacman_map import DISTANCES, FOOD, FREE, PILL, STEPS, WALLS
from engram.kernels import njit


@njit(cache=True)
def _ghost_distance(member, place):
    """Steps from a place to the nearest ghost."""
    nearest = FREE.size
    for ghost in range(member.ghosts_left):
        nearest = min(nearest, DISTANCES[place, member.ghosts[ghost]])
    return nearest


@njit(cache=True)
def _choose(member):
    """Action of the greedy policy, by breadth-first search from Pacman's place."""
    first_action = np.full(WALLS.size, -1)  # of the way to a place, -1: not reached
    queue, steps = np.empty(FREE.size, np.int64), np.empty(FREE.size, np.int64)
    queue[0], steps[0], first_action[member.pacman] = member.pacman, 0, 0
    head, tail, meal = 0, 1, -1
    while head < tail and (meal < 0 or steps[head] < member.power):
        place = queue[head]
        if steps[head] < member.power and _ghost_distance(member, place) == 0:
            return first_action[place]
        if meal < 0 and (member.ground[place] & FOOD or member.ground[place] >= PILL):
            meal = first_action[place]
        for action in range(1, 5):
            next_place, next_steps = place + STEPS[action - 1], steps[head] + 1
            safe = next_steps < member.power or next_steps < _ghost_distance(member, next_place)
            if not WALLS[next_place] and first_action[next_place] < 0 and safe:
                first_action[next_place] = action if head == 0 else first_action[place]
                queue[tail], steps[tail] = next_place, next_steps
                tail += 1
        head += 1
    return meal if meal >= 0 else _flee(member)


@njit(cache=True)
def _flee(member):
    """Action that leads furthest from the nearest ghost."""
    best, best_distance = 0, _ghost_distance(member, member.pacman)
    for action in range(1, 5):
        place = member.pacman + STEPS[action - 1]
        if not WALLS[place] and _ghost_distance(member, place) > best_distance:
            best, best_distance = action, _ghost_distance(member, place)
    return best


@njit(cache=True)
def _choose_all(members, actions):
    for slot in range(members.shape[0]):
        actions[slot] = _choose(members[slot])


class MiniPacmanGreedy:
    """Knows the whole map, the ghosts and the power, whatever the observation shows of them.

    It takes the shortest way to a ghost that can be reached while the power lasts, else to the nearest food or pill,
    through places that no ghost could reach as early. If there is no such way, it moves away from the nearest ghost.
    """

    def __init__(self, env: VectorEnv, seed: int):
        self.env = env.unwrapped

    def __call__(self, observation: np.ndarray, episode_starts: np.ndarray) -> np.ndarray:
        actions = np.empty(len(episode_starts), np.int64)
        _choose_all(self.env.members, actions)
        return actions
