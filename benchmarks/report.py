"""How a benchmark hands over its numbers: the machine and a table on the terminal, the same as JSON."""

import json
import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version

NAME_WIDTH = 44
"""characters of a table's first column"""


class Report:
    """Prints where it runs, then a Markdown table row by row; `save` writes all of it."""

    def __init__(self, threads: int, packages: tuple[str, ...], columns: Mapping[str, str]):
        """
        Args:
            threads: that the measured programs may use.
            packages: distributions whose versions are shown.
            columns: heading -> format of its cells; the cells of the first are names.
        """
        self._columns, self._rows, self._notes = dict(columns), [], {}
        self._machine = {
            "cpu": cpu(),
            "cores": os.cpu_count(),
            "threads": threads,
            "load": round(os.getloadavg()[0], 2),  # above 0, other programs are running and times are worth little
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        }
        self._layout = [f"<{NAME_WIDTH}", *(f">{max(6, len(heading))}" for heading in list(columns)[1:])]
        machine = self._machine
        print(f"{machine['cpu']}; {machine['cores']} cores, threads {threads}, load {machine['load']} before the start")
        print(", ".join(f"{name} {machine[name]}" for name in ("python", *packages)) + "\n")
        self._print(columns)
        self._print(f"{'':-{cell}}" for cell in self._layout)

    def add(self, *cells: str | float | None) -> None:
        """Print a row of numbers behind its name; None leaves a cell empty."""
        self._rows.append(dict(zip(self._columns, cells, strict=True)))
        self._print("" if cell is None else format(cell, self._columns[h]) for h, cell in self._rows[-1].items())

    def note(self, text: str, **numbers: float) -> None:
        """Print a line that is no row of the table."""
        self._notes |= numbers
        print(text, flush=True)

    def save(self, path: str) -> None:
        """Write machine, rows and notes as JSON."""
        with open(path, "w") as file:
            json.dump({"machine": self._machine, "rows": self._rows, **self._notes}, file, indent=2)

    def _print(self, cells: Iterable[str]) -> None:
        print(f"| {' | '.join(map(format, cells, self._layout))} |", flush=True)


def cpu() -> str:
    """Name of the processor."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
