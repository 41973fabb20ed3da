"""Learning curves of RESULTS.md: `export RUN NAME` keeps a run's curve as JSON, `draw` redraws every figure from those.

python -m benchmarks.curves export runs/graph-pomdp-fwm-a2c-s0 graph-pomdp-fwm
python -m benchmarks.curves draw
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).resolve().parent.parent / "results"
POINTS = 400
"""points kept of a curve of training returns; each is the mean over its share of the run"""


class Figure(NamedTuple):
    """Curves of one environment, in results/PREFIX*.json, and what they are compared with."""

    title: str
    unit: int
    """steps that the horizontal axis counts in"""
    unit_name: str
    published: dict[str, tuple[list[float], list[float]]]
    """label -> units and returns of others"""
    levels: dict[str, float]
    """label -> a return to compare with"""


FIGURES = {
    "graph-pomdp": Figure(
        "GraphPOMDP",
        600 * 30,
        "updates of 600 episodes (18,000 steps)",
        {  # Schlag et al. 2021, Fig. 5, from the logs that the authors published with their program
            "FWM, authors' log, held out": ([0, 12_500, 25_000, 50_000], [45.5, 85.5, 99.9, 107.0]),
            "LSTM-1024, authors' log, held out": ([0, 12_500, 25_000, 50_000], [46, 53, 55, 80]),
        },
        {"explorer": 120.3, "random": 44.0},
    ),
    "maze": Figure(
        "GridMaze, 9 x 9, rules of 2018",
        250,
        "episodes of 250 steps",
        {},
        {"oracle": 533.4, "explorer": 462.2, "plastic nets, 1 M episodes": 175, "random": 9.5},
    ),
    "boxworld-easy": Figure("BoxWorld, 1 or 2 boxes, view 5", 1, "steps", {}, {"oracle": 11.5, "random": 0.1}),
    "mini-pacman": Figure("Mini-Pacman, regular, view 5", 1, "steps", {}, {"random": 9.8}),
    "atari-pong": Figure("Atari Pong", 1, "steps of 4 frames", {}, {"human": 14.6, "random": -20.7}),
}


def export(run: Path, name: str) -> Path:
    """Write the curve of a run folder to results/NAME.json: steps, training returns, held-out returns, seconds."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    played = [row for row in rows if "return" in row]  # where episodes are long, a line may have seen none end
    size = max(1, len(played) // POINTS)
    groups = [played[i : i + size] for i in range(0, len(played), size)]
    config = json.loads((run / "config.json").read_text()) | {"folder": None}  # the same run in any folder
    curve = {
        "config": config,
        "train": {
            "step": [group[-1]["step"] for group in groups],
            "seconds": [group[-1]["wall_time"] for group in groups],
            "return": [round(sum(row["return"] for row in group) / len(group), 2) for group in groups],
            "entropy": [round(sum(row["entropy"] for row in group) / len(group), 3) for group in groups],
        },
        "test": {
            "step": [row["step"] for row in rows if "test_return" in row],
            "return": [round(row["test_return"], 2) for row in rows if "test_return" in row],
        },
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(curve) + "\n")
    return path


def draw(prefix: str, figure: Figure) -> Path:
    """Draw results/PREFIX.png from every results/PREFIX*.json."""
    canvas, axes = plt.subplots(figsize=(11, 5), layout="constrained")
    for path, colour in zip(sorted(RESULTS.glob(f"{prefix}*.json")), plt.cm.tab20.colors, strict=False):
        curve, name = json.loads(path.read_text()), path.stem.removeprefix(prefix).lstrip("-")
        for kind, style in (("train", "-"), ("test", ":")):
            at = [step / figure.unit for step in curve[kind]["step"]]
            label = f"{name}, {'training' if kind == 'train' else 'evaluation'}"
            axes.plot(at, curve[kind]["return"], style, color=colour, label=label, linewidth=1.3)
    for (label, (at, returns)), marker in zip(figure.published.items(), "os", strict=False):
        axes.plot(at, returns, marker, color="black", fillstyle="none", label=label)
    for name, value in figure.levels.items():
        axes.axhline(value, color="grey", linewidth=0.8)
        axes.annotate(name, (0.995, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    axes.set(xlabel=figure.unit_name, ylabel="return of an episode", title=figure.title)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))  # beside the curves
    path = RESULTS / f"{prefix}.png"
    canvas.savefig(path, dpi=120)
    plt.close(canvas)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    exporting = commands.add_parser("export")
    exporting.add_argument("run", type=Path)
    exporting.add_argument("name")
    commands.add_parser("draw")
    args = parser.parse_args()
    if args.command == "export":
        print(export(args.run, args.name))
    else:
        print(*(draw(prefix, figure) for prefix, figure in FIGURES.items()), sep="\n")


if __name__ == "__main__":
    main()
