"""The rules of GraphPOMDP on the record of one member, and the loops over members, all compiled.

Schlag, Munkhdalai & Schmidhuber 2021, "Learning associative inference using fast weight memory", appendix I.
"""

from typing import NamedTuple

import numpy as np

from engram.envs.batched import MEMBER_FIELDS
from engram.envs.streams import below, other_than
from engram.kernels import njit

MEMBER = np.dtype(
    [
        *MEMBER_FIELDS,
        ("goal", "i4"),
        ("agent", "i4"),
        ("timer", "i4"),  # unsuccessful steps since the last relocation
        ("time", "i4"),  # steps played in this episode
        ("last_action", "i4"),  # -1: none
        ("last_reward", "f8"),
        ("total_reward", "f8"),
        ("goal_reached", "?"),
        ("invalid_action", "?"),
        ("timeout", "?"),
        ("num_goals", "i8"),
    ],
    align=True,
)


class Rules(NamedTuple):
    """The options that the kernels need."""

    episode_length: int
    reset_after: int
    reward: float
    penalty: float
    success_restarts_timer: bool
    total_reward_scale: float
    """factor of the episode's reward so far in the reward input"""
    last_reward_scale: float
    """factor of the last reward in the reward input"""
    separate_none_slot: bool


@njit(cache=True)
def relocate(member, num_states):
    """New goal, other than the old one, and a new place for the agent, other than the goal."""
    member.goal = other_than(member, num_states, member.goal)
    member.agent = other_than(member, num_states, member.goal)


@njit(cache=True)
def begin(member, num_states):
    """Start an episode."""
    member.goal = below(member, num_states)
    member.agent = other_than(member, num_states, member.goal)
    member.timer = member.time = member.num_goals = 0
    member.last_action = -1
    member.last_reward = member.total_reward = 0.0
    member.goal_reached = member.invalid_action = member.timeout = member.done = False


@njit(cache=True)
def play(member, graph, action, rules):
    """One step of the game; the reward is left in `last_reward`."""
    successor = graph[member.agent, action]
    member.last_action = action
    member.invalid_action = successor < 0
    member.goal_reached = successor == member.goal
    member.last_reward = 0.0
    if member.goal_reached:
        member.last_reward = rules.reward
        member.num_goals += 1
        if rules.success_restarts_timer:
            member.timer = 0
    else:
        member.timer += 1
        if member.invalid_action:
            member.last_reward = -rules.penalty
        else:
            member.agent = successor
    member.timeout = member.timer >= rules.reset_after
    if member.timeout:
        member.timer = 0
        member.last_action = -1
    if member.goal_reached or member.timeout:
        relocate(member, graph.shape[0])
    member.time += 1
    member.total_reward += member.last_reward
    member.done = member.time >= rules.episode_length


@njit(cache=True)
def observe(member, num_states, num_actions, rules, row):
    """Write the observation; its layout is described at `GraphPOMDPVector`."""
    row[:] = 0
    row[member.goal] = 1
    row[num_states + member.agent] = 1
    if member.last_action >= 0:
        row[2 * num_states + 1 + member.last_action] = 1
    elif rules.separate_none_slot:
        row[2 * num_states] = 1
    row[2 * num_states + num_actions + 1] = 1
    row[2 * num_states + num_actions + 2] = member.time / rules.episode_length
    reward_input = member.total_reward * rules.total_reward_scale + member.last_reward * rules.last_reward_scale
    row[2 * num_states + num_actions + 3] = reward_input


@njit(cache=True)
def begin_members(members, graphs, rules, mask, observations):
    _, num_states, num_actions = graphs.shape
    for slot in range(members.shape[0]):
        if mask[slot]:
            begin(members[slot], num_states)
            observe(members[slot], num_states, num_actions, rules, observations[slot])


@njit(cache=True)
def play_members(members, graphs, rules, mask, actions, observations, rewards, terminated):
    _, num_states, num_actions = graphs.shape
    for slot in range(members.shape[0]):
        if mask[slot]:
            member = members[slot]
            play(member, graphs[slot], actions[slot], rules)
            observe(member, num_states, num_actions, rules, observations[slot])
            rewards[slot] = member.last_reward
            terminated[slot] = member.done
