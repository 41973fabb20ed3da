"""What agents on graphs do with the edges they have seen: look them up, or plan over them.

python -m benchmarks.planning runs/graph-pomdp-fwm-a2c-s0

In the last third of held-out episodes, by how many edges that the agent has seen lead from its place to the goal: how
often it is there, and how often it takes the first edge of a shortest way; "untried" says how often it tries an action
that it has not tried here, where nothing it has seen leads to the goal. The explorer plays the same episodes.
"""

import argparse
import sys

import numpy as np
import torch

import eval_rl
from engram import envs
from engram.agents.evaluate import FIRST_SEED, Player, ReferencePlayer
from engram.agents.stepper import Stepper
from engram.command_line import ConfigError, exit_status
from engram.envs.graph_references import INVALID, UNTRIED
from engram.run import RunError

EPISODES = 1000
FAR = 1000
"""the distance of what cannot be reached"""


def distances(known: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Edges from each state to the goal [N] over known successors [N, S, A], negative where there is none: [N, S]."""
    slots, num_states = np.arange(len(goal)), known.shape[1]
    distance = np.full(known.shape[:2], FAR)
    distance[slots, goal] = 0
    for _ in range(num_states - 1):
        distance = np.minimum(distance, 1 + after(known, distance).min(2))
    return distance


def after(known: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """The distance [N, S, A] of where each pair leads."""
    return np.where(known >= 0, distance[np.arange(len(known))[:, None, None], known], FAR)


def habits(player: Player, played) -> tuple[float, dict[int, tuple[float, float]]]:
    """Mean return, and by known distance (FAR where no way is known) the share of late steps and of those well done."""
    stepper = Stepper(played, FIRST_SEED, options={"level_ids": np.arange(played.num_envs)})
    slots, length = np.arange(played.num_envs), played.unwrapped.rules.episode_length
    known = np.full(played.unwrapped.graphs.shape, UNTRIED)
    total, seen = 0.0, []
    for step in range(length):
        members = played.unwrapped.members
        agent, goal = members["agent"].copy(), members["goal"].copy()
        chosen = player(stepper.inputs)
        action, distance = chosen.cpu().numpy(), distances(known, goal)
        here = distance[slots, agent]
        first = after(known, distance)[slots, agent, action] == here - 1
        untried = known[slots, agent, action] == UNTRIED
        if step >= length - length // 3:
            seen.append((here, np.where(here < FAR, first, untried)))
        reward, _, _ = stepper.step(chosen)
        total += float(reward.mean())
        info, found = stepper.info, played.unwrapped.members["agent"]
        found = np.where(info["goal_reached"], goal, np.where(info["timeout"], UNTRIED, found))
        found = np.where(info["invalid_action"], INVALID, found)
        known[slots, agent, action] = np.where(found == UNTRIED, known[slots, agent, action], found)
    here, well = (np.concatenate(values) for values in zip(*seen, strict=True))
    rows = {d: (float((here == d).mean()), float(well[here == d].mean())) for d in np.unique(here).tolist()}
    return total, rows


def show(folders: list[str], greedy: bool) -> None:
    """Print each run's habits beside the explorer's."""
    for folder in folders:
        judged = eval_rl.Judged.load(folder, "test")
        if judged.config.env.name != "graph-pomdp":
            raise RunError(f"{folder} is of {judged.config.env.name}, not of graph-pomdp")
        played = envs.make_vec("graph-pomdp", EPISODES, **judged.options)
        explorer = envs.reference_policies("graph-pomdp")["explorer"]
        players = {
            judged.config.title: judged.player(played, 0, greedy, torch.device("cpu")),
            "explorer": ReferencePlayer(explorer(played, 0)),
        }
        print(f"{folder} after {judged.step:,} steps, the last third of {EPISODES} held-out episodes")
        for name, player in players.items():
            total, rows = habits(player, played)
            print(f"  {name}: return {total:.2f}")
            for distance, (share, well) in rows.items():
                way = "no known way, untried" if distance == FAR else f"known way of {distance}, first edge"
                print(f"    {share:5.1%} of steps: {way} {well:.1%}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="of --env graph-pomdp")
    parser.add_argument("--greedy", action="store_true", help="take the likeliest action instead of drawing one")
    args = parser.parse_args()
    return exit_status(lambda: show(args.runs, args.greedy), ConfigError, RunError, ValueError, OSError)


if __name__ == "__main__":
    sys.exit(main())
