"""Compiled kernels in slices of rows: the same bits from any number of threads, from several callers, after a fork."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from engram.policies import make_core, rows


@pytest.fixture
def threads(monkeypatch):
    """Sets how many threads share the rows of even the smallest arrays."""

    def use(number):
        monkeypatch.setattr(torch, "get_num_threads", lambda: number)

    monkeypatch.setattr(rows, "SHARE", 1)
    return use


def test_where_kernels_compute():
    x, wide = torch.zeros(2, requires_grad=True), torch.zeros(2).double()
    assert rows.compiles(x, None, x)
    assert rows.compiles(wide, wide)
    assert not rows.compiles(x, wide)
    assert not rows.compiles(x.half())
    assert not rows.compiles(x.to("meta"))
    assert not rows.acts(x)
    with torch.no_grad():
        assert rows.acts(x, None, x)
        assert not rows.acts(x, wide)
        assert not rows.acts(wide)


@pytest.mark.parametrize("number", [1, 2, 3, 8])
@pytest.mark.parametrize("num_rows", [0, 1, 2, 7])
def test_every_row_once(threads, number, num_rows):
    threads(number)
    counts, slices = np.zeros(num_rows, np.int64), []

    def kernel(begin, end, counts):
        slices.append((begin, end))
        counts[begin:end] += 1

    rows.run(kernel, num_rows, counts)
    assert counts.tolist() == [1] * num_rows
    assert len(slices) == max(1, min(number, num_rows))


def test_small_arrays_stay_in_the_thread_that_calls(threads, monkeypatch):
    threads(2)
    monkeypatch.setattr(rows, "SHARE", 100)
    seen = set()

    def kernel(begin, end, *_):
        seen.add(threading.get_ident())
        barrier.wait(10)

    for size, parties in ((99, 1), (199, 1), (200, 2)):
        barrier = threading.Barrier(parties)  # no thread takes both slices
        seen.clear()
        rows.run(kernel, 4, np.zeros(size, np.int8), "not an array")
        assert len(seen) == parties
        assert threading.get_ident() in seen


@pytest.mark.parametrize("fails", [0, 1])
def test_errors_wait_for_the_other_rows(threads, fails):
    threads(2)
    done = np.zeros(2, bool)

    def kernel(begin, end, done):
        if begin == fails:
            raise RuntimeError(f"row {begin}")
        done[begin] = True

    with pytest.raises(RuntimeError, match=f"row {fails}"):
        rows.run(kernel, 2, done)
    assert done[1 - fails]


def test_several_callers_at_once(threads):
    threads(3)

    def call(value):
        out = np.zeros(50)
        for _ in range(100):
            rows.run(add, len(out), out, value)
        return out

    def add(begin, end, out, value):
        out[begin:end] += value

    with ThreadPoolExecutor(4) as callers:
        for value, out in enumerate(callers.map(call, range(8))):
            assert (out == 100 * value).all()


def test_after_a_fork(threads):
    threads(2)
    out = np.zeros(10)

    def fill(begin, end, out):
        out[begin:end] = 1

    rows.run(fill, len(out), out)  # has made the threads that a fork does not have
    child = os.fork()
    if child == 0:
        out[:] = 0
        rows.run(fill, len(out), out)
        os._exit(0 if out.all() else 1)
    for _ in range(200):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        threading.Event().wait(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the fork hangs")
    assert os.waitstatus_to_exitcode(status) == 0


SMALL = {
    "fwm": {"hidden_size": 8, "memory_size": 5},
    "jbfw": {"hidden_size": 7},
    "plastic": {"hidden_size": 7},
    "plastic-modul": {"hidden_size": 7},
    "mnm-g": {"hidden_size": 8, "output_size": 5, "memory_size": 6},
    "mnm-p": {"hidden_size": 8, "output_size": 5, "memory_size": 6},
    "delta-net": {"hidden_size": 12, "num_heads": 2, "ff_size": 8},
    "linear-transformer": {"hidden_size": 12, "num_heads": 2, "ff_size": 8},
}
"""of each kernel one core"""


@pytest.mark.parametrize("name", SMALL)
def test_the_number_of_threads_changes_no_bit(name, threads):
    torch.manual_seed(0)
    core = make_core(name, 3, **SMALL[name])
    xs, starts = torch.randn(9, 7, 3), torch.rand(9, 7) < 0.1
    results = []
    for number in (1, 2, 3):
        threads(number)
        ys, last, _ = core(xs, core.initial_state(7), starts)
        loss = ys.square().sum() + last[-1].sin().sum()
        result = [ys, *last, *torch.autograd.grad(loss, list(core.parameters()), allow_unused=True)]
        state = core.initial_state(7)
        with torch.no_grad():
            for x, start in zip(xs, starts, strict=True):
                y, state, _ = core(x[None], state, start[None], donate=True)
                result.append(y)
        results.append([*result, *state])
    for other in results[1:]:
        for x, y in zip(results[0], other, strict=True):
            assert (x is None and y is None) or torch.equal(x, y)
