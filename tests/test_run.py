"""A run folder is resumable at every instant, and a resumed run is the run it would have been."""

import errno
import fcntl
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engram.run import Run, RunError, load_checkpoint, read_config
from engram.stop import StopRequest

STATE = {"weights": torch.arange(5000.0)}


@pytest.fixture
def run(tmp_path):
    with Run.create(tmp_path / "run", {"seed": 1}) as run:
        yield run


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# Damage


@pytest.mark.parametrize("length", [0, 100, 5000])
def test_a_torn_newest_checkpoint_is_passed_over_and_said_so(run, length, caplog):
    good = run.save_checkpoint(10, STATE)
    torn = run.save_checkpoint(20, STATE)
    run.close()
    os.truncate(torn, length)

    with caplog.at_level(logging.WARNING):
        step, state = load_checkpoint(run.folder)
    assert step == 10
    assert torch.equal(state["weights"], STATE["weights"])
    assert str(good) in caplog.text
    assert str(torn) in caplog.text
    assert torn.exists(), "reading changes nothing"

    with Run.resume(run.folder) as resumed:
        assert resumed.last_checkpoint == good
        resumed.save_checkpoint(15, STATE)
        resumed.save_checkpoint(20, STATE)
    assert load_checkpoint(run.folder)[0] == 20


def test_without_a_good_checkpoint_there_is_one_clear_line(run, tmp_path):
    run.close()
    with pytest.raises(RunError, match="has no usable checkpoint: none was saved"):
        Run.resume(run.folder)
    (run.folder / "checkpoints" / "step_000000000010.pt").write_bytes(b"torn")
    with pytest.raises(RunError, match=r"no usable checkpoint: .*step_000000000010.pt \(torn or corrupt\)"):
        Run.resume(run.folder)
    with pytest.raises(RunError, match=r"there is no run folder .*nowhere"):
        Run.resume(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"has no config\.json"):
        Run.resume(tmp_path)
    (run.folder / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"cannot read .*config\.json"):
        read_config(run.folder)


def test_a_full_disk_leaves_the_last_checkpoint_and_one_clear_line(run):
    good = run.save_checkpoint(10, STATE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(RunError) as caught:
            run.save_checkpoint(20, STATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    message = str(caught.value)
    assert "step_000000000020.pt: File too large" in message
    assert f"last good checkpoint is {good}" in message
    assert list((run.folder / "checkpoints").iterdir()) == [good]
    assert torch.equal(run.load_checkpoint()[1]["weights"], STATE["weights"])


def test_metrics_and_events_on_a_full_disk(run):
    run.save_checkpoint(10, {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        run.log(11, {"return": 1.0})
        with pytest.raises(RunError, match=r"cannot write the metrics of .*File too large"):
            run.log(12, {f"return of level {level}": 1.0 for level in range(100)})
        run.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with Run.resume(run.folder) as resumed:
        resumed.log(11, {"return": 2.0})
    assert [(line["step"], line["return"]) for line in metrics(run.folder)] == [(11, 2.0)]


def test_a_full_disk_brings_no_traceback_of_the_thread_that_writes_events(run, monkeypatch):
    run.save_checkpoint(10, {})
    run.close()
    tracebacks = []
    monkeypatch.setattr(threading, "excepthook", tracebacks.append)
    hook = threading.excepthook
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(RunError, match=r"cannot write TensorBoard events in .*File too large"):
            Run.resume(run.folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert threading.excepthook is hook
    assert not tracebacks

    with Run.resume(run.folder):
        other = threading.Thread(target=os.stat, args=["nowhere"])
        other.start()
        other.join()
    assert [raised.thread for raised in tracebacks] == [other], "of other threads they are told"


def test_events_that_cannot_be_finished_do_not_hide_a_worse_error(run, monkeypatch, caplog):
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run._tensorboard, "close", full)
    with pytest.raises(RunError, match="the worse error"), run:
        raise RunError("the worse error")
    assert "No space left on device" in caplog.text


KILLED = """
import os, random, signal, sys, time
import torch
from engram.run import Run

folder, rounds = sys.argv[1], int(sys.argv[2])
state = lambda step: {"weights": torch.full((200_000,), float(step))}
with Run.create(folder, {}) as run:
    run.save_checkpoint(0, state(0))
last = 0
for _ in range(rounds):
    child = os.fork()
    if child == 0:
        run = Run.resume(folder)
        step, _ = run.load_checkpoint()
        while True:
            step += 1
            run.log(step, {"return": step})
            run.save_checkpoint(step, state(step))
    time.sleep(random.uniform(0.02, 0.25))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with Run.resume(folder) as run:
        step, loaded = run.load_checkpoint()
    assert step >= last, (step, last)
    assert torch.equal(loaded["weights"], state(step)["weights"])
    last = step
print(last)
"""


def test_a_kill_at_any_instant_leaves_a_complete_checkpoint(tmp_path):
    command = [sys.executable, "-c", KILLED, tmp_path / "run", "12"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    last = int(result.stdout)
    assert last > 0, "no child came to save"
    assert [line["return"] for line in metrics(tmp_path / "run")] == list(range(1, last + 1))
    assert not list((tmp_path / "run").glob("checkpoints/*.damaged")), "a kill tears no checkpoint"


# The folder


def test_a_new_run_never_writes_over_a_folder(run):
    run.log(1, {"return": 1.0})
    for folder in run.folder, run.folder.parent:
        with pytest.raises(RunError, match=f"{folder} exists: continue it with --resume {folder}"):
            Run.create(folder, {"seed": 2})
    assert read_config(run.folder) == {"seed": 1}
    assert len(metrics(run.folder)) == 1
    with pytest.raises(RunError, match=r"cannot make the run folder .*config\.json"):
        Run.create(run.folder / "config.json" / "run", {})


def test_what_is_left_of_a_run_that_never_saved_is_used_again(tmp_path):
    folder = tmp_path / "a run"
    with Run.create(folder, {"seed": 1}), pytest.raises(RunError, match="another process is writing"):
        Run.create(folder, {"seed": 2})
    with pytest.raises(RunError, match=r"none was saved; start it again with --folder '.*a run'$"):
        Run.resume(folder)
    (folder / "config.json").unlink()  # the kill came before it
    (folder / "checkpoints" / "step_000000000000.pt.tmp").touch()
    with Run.create(folder, {"seed": 3}) as run:
        run.save_checkpoint(0, STATE)
    with pytest.raises(RunError, match="exists: continue it"):
        Run.create(folder, {"seed": 4})
    assert read_config(folder) == {"seed": 3}


def test_the_config_is_the_same_after_a_resume(tmp_path):
    with Run.create(tmp_path / "run", {"core": {"sizes": (1, 2), "rate": 1e-3}, "env": None}) as run:
        run.save_checkpoint(1, {})
    with Run.resume(tmp_path / "run") as resumed:
        assert resumed.config == run.config == read_config(tmp_path / "run")


def test_the_newest_two_checkpoints_are_kept(run):
    paths = [run.save_checkpoint(step, {"at": step}) for step in (900, 1000, 1100)]
    assert sorted((run.folder / "checkpoints").iterdir()) == paths[1:]
    assert run.last_checkpoint == paths[-1]
    assert run.load_checkpoint() == (1100, {"at": 1100})


def test_one_process_writes_and_others_read(run):
    run.save_checkpoint(10, STATE)
    with pytest.raises(RunError, match=f"another process is writing {run.folder}"):
        Run.resume(run.folder)
    before = sorted(path.stat().st_mtime_ns for path in run.folder.rglob("*"))
    assert read_config(run.folder) == {"seed": 1}
    assert load_checkpoint(run.folder)[0] == 10
    assert sorted(path.stat().st_mtime_ns for path in run.folder.rglob("*")) == before
    run.close()
    Run.resume(run.folder).close()


def test_a_failed_resume_lets_go_of_the_folder(run):
    run.close()
    with pytest.raises(RunError) as caught:  # keeps the traceback, and what its frames hold, alive
        Run.resume(run.folder)
    with open(run.folder / "metrics.jsonl") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if it is locked
    assert "no usable checkpoint" in str(caught.value)


# Metrics


def test_metrics_are_json_with_nan_and_infinities_as_strings(run):
    run.log(1, {"return": torch.tensor(0.5), "loss": float("nan"), "low": float("-inf"), "count": np.int64(3)})
    (line,) = metrics(run.folder)
    assert list(line)[:2] == ["step", "wall_time"]
    assert {**line, "wall_time": 0} == {
        "step": 1, "wall_time": 0, "return": 0.5, "loss": "nan", "low": "-inf", "count": 3.0,
    }  # fmt: skip
    assert float(line["low"]) == -float("inf")
    with pytest.raises(ValueError, match="the scalar 'step'"):
        run.log(2, {"step": 1.0})


@pytest.mark.parametrize(
    ("stopped_at", "torn"), [(6, b""), (4, b"\n"), (4, b'{"step": 3}'), (6, b'{"step": 7, "wall_ti'), (5, b"\0\0\0")]
)
def test_a_resumed_run_has_the_metrics_of_an_uninterrupted_one(tmp_path, stopped_at, torn):
    def train(run, steps):
        for step in steps:
            run.log(step, {"return": step / 3})
            if step % 3 == 0:
                run.save_checkpoint(step, {})

    with Run.create(tmp_path / "whole", {}) as whole:
        train(whole, range(10))
    with Run.create(tmp_path / "cut", {}) as cut:
        train(cut, range(stopped_at))
        time.sleep(0.02)
        spent = cut.wall_time()
    with open(cut.folder / "metrics.jsonl", "ab") as file:
        file.write(torn)
    with Run.resume(cut.folder) as resumed:
        saved, _ = resumed.load_checkpoint()
        assert saved == 3
        assert [line["step"] for line in metrics(cut.folder)] == [0, 1, 2, 3]
        assert resumed.wall_time() < spent + 60
        train(resumed, range(4, 10))

    lines = metrics(cut.folder)
    assert [line["wall_time"] for line in lines] == sorted(line["wall_time"] for line in lines)
    for line in lines:
        del line["wall_time"]
    assert lines == [{"step": step, "return": step / 3} for step in range(10)]
    for folder in whole.folder, cut.folder:
        events = EventAccumulator(str(folder)).Reload().Scalars("return")
        assert [event.step for event in events] == list(range(10))


def test_wall_time_goes_on_over_resumes(run):
    run._started -= 1000.0
    run.save_checkpoint(1, {})
    run.close()
    with Run.resume(run.folder) as resumed:
        assert 1000.0 < resumed.wall_time() < 1100.0


# Signals


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_a_request_and_the_handlers_come_back(number, status):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.exit_status == status
        os.kill(os.getpid(), signal.SIGTERM)  # a second SIGTERM changes nothing
        assert stop.exit_status == status
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_in_another_thread_nothing_is_requested():
    seen = []

    def enter():
        with StopRequest() as stop:
            seen.append(stop.requested)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [False]
    assert signal.getsignal(signal.SIGTERM) == before


STOPPED = """
import itertools, sys, time
from engram.run import Run
from engram.stop import StopRequest

with Run.create(sys.argv[1], {}) as run, StopRequest() as stop:
    print("ready", flush=True)
    for step in itertools.count(1):
        time.sleep(0.01)
        if stop.requested:
            run.save_checkpoint(step, {"at": step})
            print(step)
            sys.exit(stop.exit_status)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_process_saves_and_can_be_resumed(tmp_path, number, status):
    command = [sys.executable, "-c", STOPPED, tmp_path / "run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == status
    with Run.resume(tmp_path / "run") as run:
        assert run.load_checkpoint() == (int(output), {"at": int(output)})
