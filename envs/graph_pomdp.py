"""GraphPOMDP: walk to an announced goal in a directed graph that has to be learned within the episode.

Schlag, Munkhdalai & Schmidhuber 2021, "Learning associative inference using fast weight memory", section 4.2 and
appendix I.
"""

from typing import ClassVar, Literal

import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode

from engram.envs.batched import BatchedEnv
from engram.envs.graph_generators import MAX_ACTIONS, MAX_STATES, generate_graphs, graph_table
from engram.envs.graph_references import GraphExplorer, GraphGreedy, GraphOracle
from engram.envs.graph_rendering import describe_graph, draw_graph
from engram.envs.graph_rules import MEMBER, Rules, begin_members, play_members
from engram.envs.levels import LevelSet
from engram.envs.options import check_choice, check_integer, check_number
from engram.envs.single import SingleEnv

PRESETS = {
    "code": {
        "rules": "code",
        "reward_obs": "zero",
        "none_action_slot": "shared",
        "generator": "listing",
        "level_base_seed": 666,
    }
}
"""What the authors' released program did where it differs from the paper's text."""


class GraphPOMDPVector(BatchedEnv):
    """N agents, each in a directed graph whose edges it does not know.

    An action leads along an edge, or is invalid in the present state. Arriving at the goal pays `reward` and moves both
    goal and agent; so does, unpaid, the `reset_after`-th unsuccessful step. The episode terminates after
    `episode_length` steps.

    Observation, float32 [2 S + A + 4] for S states and A actions:

    | entries | content |
    |---|---|
    | 0 .. S-1 | goal, one-hot |
    | S .. 2S-1 | agent, one-hot |
    | 2S | 1 if there is no previous action (at the start and after a timeout) |
    | 2S+1 .. 2S+A | previous action, one-hot |
    | 2S+A+1 | 1 |
    | 2S+A+2 | steps played / episode_length |
    | 2S+A+3 | reward input |

    `info` holds for each member `level_id`, `num_goals` of the episode, and whether the last step had `goal_reached`,
    `invalid_action` or `timeout`.

    Args:
        num_envs: agents N.
        num_states: states S of each graph, 3 to 64.
        num_actions: actions A, 2 to 64.
        episode_length: steps of an episode.
        reset_after: unsuccessful steps until goal and agent are moved; None is num_states + 1.
        reward: for reaching the goal.
        penalty: for an invalid action, subtracted.
        rules: "paper" restarts the count of unsuccessful steps at a success; "code" goes on counting, as the authors'
            released program does.
        reward_obs: the reward input is the "sum" of the episode's rewards, the "last" reward, or "zero".
        reward_obs_scale: factor on the reward input; None is 1 / reward, so that a sum counts goals.
        none_action_slot: "shared" leaves the no-previous-action entry at 0, as the released program does.
        split: "train", "test" or "valid"; no graph of one split is a relabelled graph of another.
        num_levels: graphs in the split; None draws a new one for every episode.
        level_base_seed: names the family of level sets.
        generator: "engram", or "listing" for the random stream of the released program.
        level_sampling: "fixed" gives member i the graph i % num_levels in every episode, "uniform" draws one.
        preset: "code" sets rules, reward_obs, none_action_slot, generator and level_base_seed as the released program
            has them.
        render_mode: "rgb_array" or "ansi".
        autoreset_mode: `AutoresetMode.NEXT_STEP` or `AutoresetMode.DISABLED`.
        copy: False returns arrays that the next call overwrites.

    Raises:
        ValueError: an option is out of range.
    """

    reference_policies: ClassVar = {"explorer": GraphExplorer, "greedy": GraphGreedy, "oracle": GraphOracle}

    def __init__(
        self,
        num_envs: int = 1,
        *,
        num_states: int = 5,
        num_actions: int = 3,
        episode_length: int = 30,
        reset_after: int | None = None,
        reward: float = 10.0,
        penalty: float = 0.05,
        rules: Literal["paper", "code"] = "paper",
        reward_obs: Literal["sum", "last", "zero"] = "sum",
        reward_obs_scale: float | None = None,
        none_action_slot: Literal["separate", "shared"] = "separate",
        split: Literal["train", "test", "valid"] = "train",
        num_levels: int | None = 600,
        level_base_seed: int = 0,
        generator: Literal["engram", "listing"] = "engram",
        level_sampling: Literal["fixed", "uniform"] = "fixed",
        preset: Literal["code"] | None = None,
        render_mode: Literal["rgb_array", "ansi"] | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        copy: bool = True,
    ):
        check_choice("preset", preset, (None, *PRESETS))
        if preset is not None:
            chosen = PRESETS[preset]
            rules, reward_obs, none_action_slot = chosen["rules"], chosen["reward_obs"], chosen["none_action_slot"]
            generator, level_base_seed = chosen["generator"], chosen["level_base_seed"]
        check_integer("num_states", num_states, 3, MAX_STATES)
        check_integer("num_actions", num_actions, 2, MAX_ACTIONS)
        check_integer("episode_length", episode_length, 1)
        reset_after = num_states + 1 if reset_after is None else reset_after
        check_integer("reset_after", reset_after, 1)
        check_number("reward", reward, 0, above=True)
        check_number("penalty", penalty, 0)
        reward_obs_scale = 1 / reward if reward_obs_scale is None else reward_obs_scale
        check_number("reward_obs_scale", reward_obs_scale, 0, above=True)
        check_choice("rules", rules, ("paper", "code"))
        check_choice("reward_obs", reward_obs, ("sum", "last", "zero"))
        check_choice("none_action_slot", none_action_slot, ("separate", "shared"))
        check_choice("generator", generator, ("engram", "listing"))
        if generator == "listing" and num_levels is None:
            raise ValueError("generator='listing' draws its graphs in turn and needs a finite num_levels; got None")

        size = 2 * num_states + num_actions + 4
        low, high = np.zeros(size, np.float32), np.ones(size, np.float32)
        most = reward_obs_scale * (episode_length if reward_obs == "sum" else 1)
        low[-1], high[-1] = np.nextafter(np.float32([-penalty * most, reward * most]), np.float32([-np.inf, np.inf]))
        super().__init__(
            num_envs,
            MEMBER,
            ("goal_reached", "invalid_action", "timeout", "num_goals"),
            Box(low, high),
            Discrete(num_actions),
            levels=LevelSet(split, num_levels, level_base_seed, level_sampling),
            render_mode=render_mode,
            autoreset_mode=autoreset_mode,
            copy=copy,
        )
        self.rules = Rules(
            episode_length=int(episode_length),
            reset_after=int(reset_after),
            reward=float(reward),
            penalty=float(penalty),
            success_restarts_timer=rules == "paper",
            total_reward_scale=float(reward_obs_scale) if reward_obs == "sum" else 0.0,
            last_reward_scale=float(reward_obs_scale) if reward_obs == "last" else 0.0,
            separate_none_slot=none_action_slot == "separate",
        )
        self.graphs = np.full((num_envs, num_states, num_actions), -1, np.int8)
        """successor table of each member's present graph, int8 [N, S, A]"""
        self._generator = generator
        self._layouts(split, np.zeros(1, np.int64))  # a split without graphs is noticed here

    @property
    def members(self) -> np.ndarray:
        """State of all members, a structured array [N] of `MEMBER`."""
        return self._members

    def _layouts(self, split: str, level_ids: np.ndarray) -> np.ndarray:
        """Successor tables int8 [G, S, A] of the levels `level_ids` [G]."""
        num_states, num_actions = self.graphs.shape[1:]
        num_levels, base_seed = self._levels.num_levels, self._levels.base_seed
        if num_levels is None:
            return generate_graphs(split, level_ids, num_states, num_actions, base_seed)
        return graph_table(self._generator, split, num_levels, num_states, num_actions, base_seed)[level_ids]

    def _begin(self, mask, split):
        self.graphs[mask] = self._layouts(split, self._members["level_id"][mask])
        begin_members(self._members, self.graphs, self.rules, mask, self._observations)

    def _play(self, mask, actions):
        results = self._observations, self._rewards, self._terminated
        play_members(self._members, self.graphs, self.rules, mask, actions, *results)

    def _draw(self, slot):
        member = self._members[slot]
        return draw_graph(
            self.graphs[slot], member["agent"], member["goal"], member["time"] / self.rules.episode_length
        )

    def _describe(self, slot):
        member = self._members[slot]
        head = f"step {member['time']}/{self.rules.episode_length}, {member['num_goals']} goals"
        return f"{head}\n{describe_graph(self.graphs[slot], member['agent'], member['goal'])}"

    def scene(self, slot: int) -> dict[str, np.ndarray | int]:
        """A member as numbers, to draw: `successors` [S, A], -1 where an action is invalid, `agent` and `goal`."""
        member = self._members[slot]
        return {"successors": self.graphs[slot].copy(), "agent": int(member["agent"]), "goal": int(member["goal"])}

    def state_dict(self):
        """See `BatchedEnv.state_dict`."""
        return super().state_dict() | {"graphs": self.graphs.copy()}

    def load_state_dict(self, state):
        """See `BatchedEnv.load_state_dict`."""
        super().load_state_dict(state)
        self.graphs[:] = state["graphs"]


class GraphPOMDP(SingleEnv):
    """One agent in an unknown directed graph; rules, observation and options as in `GraphPOMDPVector`.

    With `level_sampling="fixed"` it plays graph 0 unless `reset(options={"level_id": k})` says otherwise.
    """

    vector_class: ClassVar = GraphPOMDPVector
