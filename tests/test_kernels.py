"""What Numba keeps on disk, and for how long."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
INNER = """
from engram.kernels import njit

@njit(cache=True)
def inner(x):
    return {answer}

FACTOR = {factor}
"""
OUTER = """
from engram.kernels import njit
from inner import FACTOR, inner

@njit(cache=True)
def middle(x):
    return inner(x) if x < 2 else middle(x - 1)

@njit(cache=True)
def outer(x):
    return FACTOR * middle(x)

print(outer(3), len(outer.stats.cache_hits))
"""


def printed(folder):
    command, environment = [sys.executable, str(folder / "outer.py")], os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def ran(tmp_path):
    """Writes both files and runs the outer one: its answer, and whether that was compiled before."""

    def run(answer, factor):
        (tmp_path / "outer.py").write_text(OUTER)
        os.utime(tmp_path / "outer.py", (0, 0))  # it never changes
        (tmp_path / "inner.py").write_text(INNER.format(answer=answer, factor=factor))
        result, hits = map(int, printed(tmp_path).split())
        os.utime(tmp_path / "inner.py", (0, 0))
        return result, bool(hits)

    return run


def test_compiled_code_lasts_until_what_it_calls_changes(ran, tmp_path):
    assert ran("x", 10) == (10, False)
    (tmp_path / "inner.py").unlink()
    assert ran("x * 7", 10) == (70, False), "another file"
    assert ran("x * 7", 25) == (175, False), "another constant"


def test_compiled_code_is_kept(tmp_path):
    for name, text in (("inner.py", INNER.format(answer="x", factor=10)), ("outer.py", OUTER)):
        (tmp_path / name).write_text(text)
    assert [printed(tmp_path) for _ in range(2)] == ["10 0\n", "10 1\n"]
