"""Draw what an FWM agent looked back at in one episode on a graph, step by step (Schlag et al. 2021, Fig. 3).

python -m benchmarks.memory_map runs/graph-pomdp-fwm-a2c-s0 results/memory-map.png
"""

import argparse
import sys
from pathlib import Path

import matplotlib
import numpy as np

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
    """Draw the maps of all reads in held-out episode `number`: a row of panels is a chain, in which each read asks with
    what the one before found."""
    judged = eval_rl.Judged.load(run, "test")
    episode, memory = eval_rl.recall(judged, argparse.Namespace(episode=number, seed=0, greedy=False))
    if "query_key" not in memory.maps or not episode.scenes:
        raise RunError(f"{run} is of {judged.config.env.name} and {judged.config.title}, not of graph-pomdp and fwm")
    found = memory.maps["query_key"]
    _, num_chains, num_reads, _ = found.values.shape
    size = 2 + 5 * num_reads, 0.6 + 5.2 * num_chains
    canvas, panels = plt.subplots(
        num_chains, num_reads, figsize=size, layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    steps = range(len(episode))
    asks = [f"in {scene['agent']}, goal {scene['goal']}" for scene in episode.scenes[:-1]]
    for (chain, read), axes in np.ndenumerate(panels):
        cells = found.at(chain=chain, read=read).values
        most = abs(cells).max()
        image = axes.imshow(cells, cmap="PuOr", vmin=-most, vmax=most)
        axes.set_xticks(steps, [taught(episode, step) for step in steps], rotation=90, fontsize=7)
        axes.set_yticks(steps, asks, fontsize=7)
        axes.set_title(f"read {read + 1} of {num_reads}" + (f", chain {chain + 1}" if num_chains > 1 else ""))
        axes.spines[:].set_visible(False)
        canvas.colorbar(image, shrink=0.6)
    canvas.supxlabel("step that was written, and the edge it taught")
    canvas.supylabel("step that reads, and where the agent is")
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
