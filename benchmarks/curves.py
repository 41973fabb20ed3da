"""Learning curves of RESULTS.md: `export RUN NAME` keeps a run's curve as JSON, `draw` redraws every figure from those.

python -m benchmarks.curves export runs/graph-pomdp-fwm-a2c-s0 graph-pomdp-fwm
python -m benchmarks.curves draw
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).resolve().parent.parent / "results"
POINTS = 400
"""points kept of a curve of training returns; each is the mean over its share of the run"""

BATCH = 600 * 30
"""steps of the 600 episodes that are one update in Schlag et al. 2021"""

PAPER = {
    "FWM, authors' log, held out": ([0, 12_500, 25_000, 50_000], [45.5, 85.5, 99.9, 107.0]),
    "LSTM-1024, authors' log, held out": ([0, 12_500, 25_000, 50_000], [46, 53, 55, 80]),
}
"""Fig. 5: updates and returns, from the logs that the authors published with their program"""

REFERENCES = {"explorer": 119.4, "random": 44.5}
"""mean returns of the reference policies on our graphs"""


def export(run: Path, name: str) -> Path:
    """Write the curve of a run folder to results/NAME.json: steps, training returns, held-out returns, seconds."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    size = max(1, len(rows) // POINTS)
    groups = [rows[i : i + size] for i in range(0, len(rows), size)]
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


def draw() -> Path:
    """Draw results/graph-pomdp.png from every results/graph-pomdp*.json."""
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    for path, colour in zip(sorted(RESULTS.glob("graph-pomdp*.json")), plt.cm.tab10.colors, strict=False):
        curve, name = json.loads(path.read_text()), path.stem.removeprefix("graph-pomdp-")
        for kind, style in (("train", "-"), ("test", ":")):
            updates = [step / BATCH for step in curve[kind]["step"]]
            label = f"{name}, {'training graphs' if kind == 'train' else 'held out'}"
            axes.plot(updates, curve[kind]["return"], style, color=colour, label=label, linewidth=1.3)
    for (label, (updates, returns)), marker in zip(PAPER.items(), "os", strict=True):
        axes.plot(updates, returns, marker, color="black", fillstyle="none", label=label)
    for name, value in REFERENCES.items():
        axes.axhline(value, color="grey", linewidth=0.8)
        axes.annotate(name, (1, value), xycoords=("axes fraction", "data"), xytext=(4, -3), textcoords="offset points")
    axes.set(xlabel="updates of 600 episodes (18,000 steps)", ylabel="return of an episode", title="GraphPOMDP")
    axes.legend(fontsize=8)
    path = RESULTS / "graph-pomdp.png"
    figure.savefig(path, dpi=120)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    exporting = commands.add_parser("export")
    exporting.add_argument("run", type=Path)
    exporting.add_argument("name")
    commands.add_parser("draw")
    args = parser.parse_args()
    print(export(args.run, args.name) if args.command == "export" else draw())


if __name__ == "__main__":
    main()
