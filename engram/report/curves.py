"""Learning curves of run folders as data to draw: a curve for each config, its seeds together as mean and range."""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engram.run import RunError, read_metrics

APART = ("folder", "seed")
"""fields of a config in which runs of one curve may differ"""
ABSENT = "absent"
"""in the place of a field that a config does not have"""


class Quantity(NamedTuple):
    """What is drawn over a run: its name with the unit, and the metrics it has in training and in evaluations."""

    name: str
    train: str | None
    test: str
    lower_is_better: bool = False


QUANTITIES = (
    Quantity("undiscounted return of an episode", "return", "test_return"),
    Quantity("share of successful episodes", None, "test_success_rate"),
)


def learning_curves(
    configs: Mapping[str, Mapping[str, Any]], quantities: Sequence[Quantity] = QUANTITIES
) -> tuple[list[dict[str, Any]], list[str]]:
    """Curves of run folders, and what is missing, in a line each.

    Args:    configs: folder -> its config.json.
             quantities: to draw; those that metrics have.
    Returns: curves, each with `env` (the `subject`), `label`, `runs`, `quantity`, `lower_is_better`, `kind` ("train" or
             "test") and, by "step" and by "seconds", arrays `x` and `mean`, of several seeds also `low` and `high`: the
             range of those that have come so far. A curve of one run has a point for every line of its metrics that has
             the quantity.
    """
    metrics, missing = {}, []
    for folder in configs:
        try:
            lines = read_metrics(folder)
        except RunError as error:
            missing.append(f"no learning curve: {error}")
            continue
        if lines:
            metrics[folder] = lines
        else:
            missing.append(f"no learning curve: {folder} has no metrics yet")
    groups = {}
    for folder in metrics:
        shared = {field: value for field, value in flat(configs[folder]).items() if field not in APART}
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(folder)
    curves = []
    for folders in groups.values():
        about = {
            "env": subject(configs[folders[0]]),
            "label": group_name(folders, list(configs)),
            "runs": folders,
        }
        for quantity in quantities:
            for kind, name in (("train", quantity.train), ("test", quantity.test)):
                lines = [[line for line in metrics[folder] if name in line] for folder in folders]
                if all(lines):
                    by = {axis: _together([_points(one, key, name) for one in lines]) for axis, key in AXES.items()}
                    of = {"quantity": quantity.name, "lower_is_better": quantity.lower_is_better, "kind": kind}
                    curves.append(about | of | {"by": by})
    return curves, missing


AXES = {"step": "step", "seconds": "wall_time"}
"""horizontal axis -> its name in metrics.jsonl"""


def subject(config: Mapping[str, Any]) -> str:
    """What a run is of: the name of its environment, or of its task."""
    return config["task_name"] if "task_name" in config else config["env"]["name"]


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config's fields by dotted name, as the flags of train_rl.py have them."""
    fields = {}
    for name, value in config.items():
        fields |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return fields


def differences(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Fields in which runs differ -> the value of each run, ABSENT where its config has no such field."""
    every = [flat(config) for config in configs.values()]
    names = dict.fromkeys(name for fields in every for name in fields if name != "folder")
    columns = {name: [fields.get(name, ABSENT) for fields in every] for name in names}
    return {name: values for name, values in columns.items() if any(value != values[0] for value in values)}


def run_name(folder: str, folders: Sequence[str]) -> str:
    """The last part of a folder's path, or all of it where another run has the same."""
    last = Path(folder).resolve().name
    return last if sum(Path(other).resolve().name == last for other in folders) == 1 else folder


def group_name(group: Sequence[str], folders: Sequence[str]) -> str:
    """What the names of the runs of one config have in common, and how many they are."""
    names = [run_name(folder, folders) for folder in group]
    if len(names) == 1:
        return names[0]
    same = sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False)))
    stem = re.sub(r"[-_]*(s|seed)?\d*[-_]*$", "", names[0][:same])  # without what counts the seeds
    return f"{stem or names[0]} ({len(names)} seeds)"


def _points(lines: list[dict[str, Any]], key: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    return np.array([line[key] for line in lines], float), np.array([float(line[name]) for line in lines])


def _together(seeds: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """Curves (x, y) as one, at the points of the longest; a seed takes part as far as it goes."""
    if len(seeds) == 1:
        return {"x": seeds[0][0], "mean": seeds[0][1]}
    x = max(seeds, key=lambda points: points[0][-1])[0]
    found = np.array([np.interp(x, *points, left=np.nan, right=np.nan) for points in seeds])
    there = ~np.isnan(found)
    mean = np.where(there, found, 0).sum(0) / np.maximum(there.sum(0), 1)
    low, high = np.where(there, found, np.inf).min(0), np.where(there, found, -np.inf).max(0)
    some = there.any(0)
    return {"x": x[some], "mean": mean[some], "low": low[some], "high": high[some]}
