"""What a core wrote, held and looked back at while it read one sequence, ready to draw."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from engram.policies.core import Core
from engram.policies.figures import Map, Report, memory_maps

WRITING = ("write_strength", "memory_norm")
"""reports that say over time how much is written and held"""
OF_STEPS = ("step", "past")
"""axes of a map that are steps of the sequence"""


@dataclass(frozen=True, eq=False, kw_only=True)
class Recollection:
    """The diagnostics of T steps."""

    traces: dict[str, np.ndarray]
    """reports by name, each [T, K]: one number a step, or K of as many memories"""
    maps: dict[str, Map] = field(default_factory=dict)
    missing: str | None = None
    """why there are no maps"""

    def last(self, steps: int) -> "Recollection":
        """That of the last so many steps: what they look back at before them is left out."""
        maps = {}
        for name, found in self.maps.items():
            kept = tuple(slice(-steps, None) if axis in OF_STEPS else slice(None) for axis in found.axes)
            maps[name] = Map(found.values[kept], found.axes, found.meaning, found.labels)
        return Recollection(
            traces={name: values[-steps:] for name, values in self.traces.items()}, maps=maps, missing=self.missing
        )

    def as_data(self) -> dict[str, Any]:
        """As a report draws it; of K memories, mean and range."""
        return {
            "traces": {name: _spread(values) for name, values in self.traces.items()},
            "maps": {name: vars(found) for name, found in self.maps.items()},
            "missing": self.missing,
        }


def recollect(core: Core, report: Report, episode_starts: Tensor | None = None) -> Recollection:
    """What a core did in row 0 of a batch.

    Args: report: of all its diagnostics, each [T, B, ...].
          episode_starts: bool [T, B] as the core got them, or None.
    """
    traces = {name: values for name, values in report.items() if values.dim() == 2 or name in WRITING}
    try:
        maps, missing = memory_maps(core, report, episode_starts), None
    except ValueError as error:
        maps, missing = {}, str(error)
    return Recollection(
        traces={name: _array(values[:, :1].flatten(1)) for name, values in traces.items()}, maps=maps, missing=missing
    )


def _spread(values: np.ndarray) -> dict[str, Any]:
    """K numbers at each step, [T, K], as mean and range."""
    return {"count": values.shape[1], "mean": values.mean(1), "low": values.min(1), "high": values.max(1)}


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()
