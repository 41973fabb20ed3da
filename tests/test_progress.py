"""A long run shows itself: plain lines in a file, one live line on a terminal."""

import io
import re

import pytest

from engram import progress
from engram.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until `clock[0]` is moved."""
    now = [100.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_come_at_a_bounded_rate_and_the_last_one_always(clock):
    stream = io.StringIO()
    with Progress(1000, show=("return", "entropy"), stream=stream) as shown:
        for step in range(1, 1001):
            clock[0] += 0.0255
            shown.update(step, {"return": step / 20, "hidden": 1.0} if step % 2 else None)
    lines = stream.getvalue().splitlines()
    assert lines == [
        "step 393/1,000  39.3%  steps/s 39  return 19.6  time left 0:15",
        "step 786/1,000  78.6%  steps/s 39  return 39.2  time left 0:05",
        "step 1,000/1,000  100.0%  steps/s 39  return 50  time left 0:00",
    ]


def test_a_resumed_run_counts_its_speed_from_where_it_starts(clock):
    stream = io.StringIO()
    with Progress(93_000_000, 1_000_000, show=("return", "test_return", "entropy"), stream=stream) as shown:
        clock[0] += 8.0
        shown.update(1_860_000, {"return": 51.24, "entropy": 0.8123, "test_return": float("nan")})
    assert stream.getvalue() == (
        "step 1,860,000/93,000,000  2.0%  steps/s 107,500  return 51.2  test_return nan  entropy 0.812"
        "  time left 14:08\n"
    )


def test_the_speed_follows_the_last_half_minute(clock):
    stream = io.StringIO()
    with Progress(10**6, stream=stream) as shown:
        for step, seconds in ((100, 10), (200, 10), (1200, 10), (2200, 10), (3200, 10), (4200, 10)):
            clock[0] += seconds
            shown.update(step)
    speeds = [int(speed) for speed in re.findall(r"steps/s (\d+)", stream.getvalue())]
    assert speeds[0] == 10
    assert speeds[-1] == 100


def test_a_line_that_is_shown_is_not_shown_again_at_the_end(clock):
    stream = io.StringIO()
    with Progress(10, stream=stream) as shown:
        clock[0] += 11
        shown.update(10)
    assert len(stream.getvalue().splitlines()) == 1


def test_without_a_terminal_there_is_no_control_character(clock, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    with Progress(10, show=("return",), stream=stream) as shown:
        clock[0] += 11
        shown.update(5, {"return": 1.0})
    assert stream.getvalue().startswith("step 5/10")
    assert all(character.isprintable() or character == "\n" for character in stream.getvalue())


def test_the_live_line_stays_one_line(clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    with Progress(10, show=("return",), stream=stream) as shown:
        clock[0] += 1
        shown.update(5, {"return": 1.0})
        clock[0] += 1
        shown.update(10, {"return": 2.0})
    screen = screen_after(stream.getvalue())
    assert "step 10/10  100.0%" in screen[0]
    assert "return 2" in screen[0]
    assert not any(screen[1:])


def test_a_dumb_terminal_gets_plain_lines(clock, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Progress(10, stream=stream) as shown:
        clock[0] += 1
        shown.update(5)
    assert stream.getvalue() == "step 5/10  50.0%  steps/s 5  time left 0:01\n"


def screen_after(output: str) -> list[str]:
    """The lines a terminal of endless width shows after `output`."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|[^\x1b]", output):
        if token == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif token == "\r":
            column = 0
        elif token.startswith("\x1b"):
            count = int(token[2:-1] or 1) if token[-1] in "AK" and "?" not in token else 0
            if token[-1] == "A":
                row -= count
            elif token[-1] == "K":
                lines[row] = ""  # rich erases whole lines only
        else:
            lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (865, "14:25"), (3723, "1:02:03"), (360_000, "100:00:00")]
)
def test_time_left_is_written_as_a_clock(seconds, text):
    assert progress._clock(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01234, "0.0123"), (51.23, "51.2"), (999.4, "999"), (999.6, "1,000"), (-12345.6, "-12,346"), (1e-7, "1e-07"),
     (float("inf"), "inf"), (0.0, "0")],
)  # fmt: skip
def test_scalars_have_three_digits(value, text):
    assert progress._short(value) == text
