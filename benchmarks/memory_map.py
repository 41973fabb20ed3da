"""Draw what an FWM agent looked back at in one episode on a graph, step by step (Schlag et al. 2021, Fig. 3).

python -m benchmarks.memory_map runs/graph-pomdp-fwm-a2c-s0 results/memory-map.png
"""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import eval_rl
from engram.agents.episode import Episode
from engram.command_line import ConfigError, exit_status
from engram.run import RunError


def taught(episode: Episode, step: int) -> str:
    """The edge that an agent learned when it came to a step."""
    if step == 0:
        return "start"
    before, action = episode.scenes[step - 1], int(episode.action[step - 1])
    after = before["successors"][before["agent"], action]
    return f"{before['agent']} -{action}→ {after}" if after >= 0 else f"{before['agent']} -{action}✕"


def draw(run: str, path: Path, number: int) -> None:
    """Draw the maps of the chain's reads, each of which asks with what the one before found, in held-out episode
    `number`."""
    judged = eval_rl.Judged.load(run, "test")
    episode, memory = eval_rl.recall(judged, argparse.Namespace(episode=number, seed=0, greedy=False))
    if "query_key" not in memory.maps or not episode.scenes:
        raise RunError(f"{run} is of {judged.config.env.name} and {judged.config.title}, not of graph-pomdp and fwm")
    found = memory.maps["query_key"]
    num_reads = found.values.shape[1]
    canvas, panels = plt.subplots(
        1, num_reads, figsize=(2 + 5 * num_reads, 5.8), layout="constrained", sharey=True, squeeze=False
    )
    steps = range(len(episode))
    asks = [f"in {scene['agent']}, goal {scene['goal']}" for scene in episode.scenes[:-1]]
    for read, axes in enumerate(panels[0]):
        cells = found.at(read=read).values
        most = abs(cells).max()
        image = axes.imshow(cells, cmap="PuOr", vmin=-most, vmax=most)
        axes.set_xticks(steps, [taught(episode, step) for step in steps], rotation=90, fontsize=7)
        axes.set_yticks(steps, asks, fontsize=7)
        axes.set(title=f"read {read + 1} of {num_reads}", xlabel="step that was written, and the edge it taught")
        axes.spines[:].set_visible(False)
        canvas.colorbar(image, shrink=0.6)
    panels[0, 0].set_ylabel("step that reads, and where the agent is")
    canvas.suptitle(found.meaning)
    canvas.savefig(path, dpi=110)
    plt.close(canvas)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="of --env graph-pomdp --core fwm")
    parser.add_argument("path", type=Path)
    parser.add_argument("--episode", type=int, default=0, help="which of the held-out ones")
    args = parser.parse_args()
    return exit_status(lambda: draw(args.run, args.path, args.episode), ConfigError, RunError, ValueError, OSError)


if __name__ == "__main__":
    sys.exit(main())
