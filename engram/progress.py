"""What a long run shows of itself: one live line on a terminal, a plain line now and then anywhere else."""

import math
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Self, SupportsFloat, TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as LiveLine
from rich.table import Column

LIVE_INTERVAL = 0.25
"""seconds between redraws of the live line"""

SPEED_WINDOW = 30.0
"""seconds over which steps/s are averaged: long enough to smooth over an evaluation, short enough to follow a change"""


class Progress:
    """Shows step, speed, the scalars named in `show`, and the time left; use it in a `with` statement.

        with Progress(total_steps, start_step, show=("return", "entropy")) as progress:
            for ...:
                progress.update(step, metrics)

    A scalar keeps its last value until `update` brings another.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        show: Sequence[str] = (),
        interval: float = 10.0,
        stream: TextIO | None = None,
    ):
        """
        Args:
            total_steps: the step at which training ends.
            start_step: the step it starts from, more than 0 after a resume.
            show: the scalars to show, in this order.
            interval: seconds between plain lines.
            stream: where to write; standard output by default.
        """
        self._total_steps, self._show = total_steps, tuple(show)
        self._stream = sys.stdout if stream is None else stream
        self._step, self._values = start_step, dict.fromkeys(show, None)
        self._samples = deque([(monotonic(), start_step)])
        self._shown_step = start_step
        console = Console(file=self._stream)
        self._live = None
        self._interval = interval
        if self._stream.isatty() and not console.is_dumb_terminal:
            text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=False))
            self._live = LiveLine(BarColumn(20), text, console=console, auto_refresh=False)  # no thread beside training
            self._task = self._live.add_task("", total=total_steps, completed=start_step)
            self._interval = LIVE_INTERVAL
        self._due = monotonic() + self._interval

    def update(self, step: int, scalars: Mapping[str, SupportsFloat] | None = None) -> None:
        """Training has come to `step`; `scalars` may hold more than is shown. Cheap enough to call at every update."""
        self._step = step
        for name in self._show:
            if scalars and name in scalars:
                self._values[name] = scalars[name]
        if monotonic() >= self._due:
            self._draw()

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._step != self._shown_step:
            self._draw()
        if self._live:
            self._live.stop()

    def _draw(self) -> None:
        now = monotonic()
        self._due = now + self._interval
        self._shown_step = self._step
        self._samples.append((now, self._step))
        while len(self._samples) > 2 and self._samples[1][0] < now - SPEED_WINDOW:
            self._samples.popleft()
        if self._live:
            self._live.update(self._task, description=self._text(), completed=self._step, refresh=True)
        else:
            print(self._text(), file=self._stream, flush=True)

    def _text(self) -> str:
        (then, from_step), (now, step) = self._samples[0], self._samples[-1]
        speed = (step - from_step) / (now - then) if now > then else 0.0
        fields = [
            f"step {step:,}/{self._total_steps:,}",
            f"{min(1.0, step / self._total_steps):.1%}",
            f"steps/s {speed:,.0f}",
            *(f"{name} {_short(float(value))}" for name, value in self._values.items() if value is not None),
            f"time left {_clock(max(0, self._total_steps - step) / speed) if speed else '?'}",
        ]
        return "  ".join(fields)


def _short(value: float) -> str:
    """Three digits or all before the point: 0.0123, 51.2, 1,234."""
    return f"{value:,.0f}" if 999.5 <= abs(value) < math.inf else f"{value:.3g}"


def _clock(seconds: float) -> str:
    """14:25, 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"
