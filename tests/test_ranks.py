"""Ranks that share updates are one learner; they stop, resume and fail together."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train_rl
from engram.policies.actions import Categorical
from engram.run import load_checkpoint

ROOT = Path(train_rl.__file__).parent
LINE = (
    "--env graph-pomdp --env.kwargs.episode-length 7 --core lstm --core.hidden-size 8 --env.num-envs {n}"
    " --agent {agent} --unroll-length 9 --minibatches 1 --log-interval 2 --eval-interval 200 --eval-episodes 4"
    " --total-steps 400 --save-minutes 100 --optim.max-grad-norm 0.5 --policy.normalize-observation"
    " --folder {folder}"
)
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
import train_rl
from engram.agents import actors
from engram.policies.actions import Categorical

collect = actors.collect

def disturb(trouble, rank):
    "In rank 1, before its fourth rollout."
    count = iter(range(1, 1000))

    def disturbed(*args):
        if next(count) == 4 and rank == 1:
            if trouble == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if trouble == "raise":
                raise actors.EnvError("a wall fell")
            signal.raise_signal(signal.SIGTERM)
        return collect(*args)

    if trouble == "greedy":
        Categorical.sample = lambda self, logits, generator: logits.argmax(-1)
    elif trouble:
        actors.collect = disturbed

def fork(name, flags, trouble, rank, port):
    child = os.fork()
    if child:
        return child
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sys.stdout, sys.stderr = (open(f"{name}.{rank}.{kind}", "w") for kind in ("out", "err"))
    disturb(trouble, rank)
    status = train_rl.main(flags.split())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

if "RANK" in os.environ:  # under torchrun
    disturb("kill", int(os.environ["RANK"]))
    sys.exit(train_rl.main(sys.argv[1:]))
ends = {}
for name, (flags, trouble, port) in json.loads(sys.argv[1]).items():
    children = [fork(name, flags, trouble, rank, port) for rank in range(2)]
    ends[name] = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
Path("ends.json").write_text(json.dumps(ends))
"""


def line(folder, agent="a2c", n=4):
    return LINE.format(folder=folder, agent=agent, n=n)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def program(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    Path("program.py").write_text(PROGRAM)
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with runs of two ranks each; their exit statuses."""
    folder = tmp_path_factory.mktemp("ranks")
    chosen = {
        "a2c": (line("a2c"), "greedy"),
        "impala": (line("impala", "impala"), "greedy"),
        "whole": (line("whole"), None),
        "cut": (line("cut"), "stop"),
        "resumed": ("--resume cut", None),
        "raised": (line("raised"), "raise"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = program("program.py", json.dumps({name: (*choice, free_port()) for name, choice in chosen.items()}))
    assert result.returncode == 0, result.stderr
    return folder, json.loads((folder / "ends.json").read_text())


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("agent", ["a2c", "impala"])
def test_two_ranks_are_one_process_with_twice_the_environments(agent, runs, monkeypatch):
    folder, ends = runs
    assert ends[agent] == [0, 0], (folder / f"{agent}.1.err").read_text()
    monkeypatch.setattr(Categorical, "sample", lambda self, logits, generator: logits.argmax(-1))
    assert train_rl.main(line("one", agent, 8).split()) == 0
    (steps, two), (expected_steps, one) = load_checkpoint(folder / agent), load_checkpoint("one")
    assert (steps, two["rollouts"]) == (expected_steps, one["rollouts"])
    assert one["learner"]["updates"] > 5
    for name, weight in one["learner"]["policy"].items():
        torch.testing.assert_close(two["learner"]["policy"][name], weight, rtol=1e-3, atol=1e-5)
    shown = [part["actors"][0]["stepper"]["inputs"]["observation"] for part in (*two["ranks"], *one["ranks"])]
    assert torch.equal(torch.cat(shown[:2]), shown[2])
    assert not torch.equal(*shown[:2])
    for name in ("policy_loss", "baseline_loss", "entropy", "grad_norm"):
        ours, theirs = ([entry[name] for entry in metrics(run)] for run in (folder / agent, Path("one")))
        assert ours == pytest.approx(theirs, rel=1e-2, abs=1e-4), name


def metrics(run):
    return [json.loads(entry) for entry in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same(value, other):
    if isinstance(value, dict):
        assert value.keys() == other.keys()
        value, other = list(value.values()), list(other.values())
    if isinstance(value, list | tuple):
        assert len(value) == len(other)
        for entry, same in zip(value, other, strict=True):
            assert_same(entry, same)
    elif isinstance(value, str | None):
        assert value == other
    else:
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(other))


def test_ranks_stop_together_and_go_on_exactly(runs, capsys, monkeypatch):
    folder, ends = runs
    assert ends["whole"] == ends["resumed"] == [0, 0]
    assert ends["cut"] == [0, 143], "rank 1 alone was told to stop"
    said = (folder / "cut.0.out").read_text()
    assert "stopped; continue with: torchrun --nproc-per-node 2 train_rl.py --resume cut\n" in said
    assert_same(*(load_checkpoint(folder / run)[1]["ranks"] for run in ("whole", "cut")))
    assert_same(load_checkpoint(folder / "whole"), load_checkpoint(folder / "cut"))
    assert [len(part["actors"]) for part in load_checkpoint(folder / "cut")[1]["ranks"]] == [1, 1]
    monkeypatch.chdir(folder)
    assert train_rl.main(["--resume", "cut"]) == 2
    assert "it has 2 ranks, not 1: use torchrun --nproc-per-node 2" in capsys.readouterr().err


def test_rank_0_alone_speaks(runs):
    folder, _ = runs
    assert [(folder / f"whole.{rank}.out").read_text().count("run folder: whole\n") for rank in range(2)] == [1, 0]
    assert [(folder / f"whole.{rank}.err").read_text() for rank in range(2)] == ["", ""]


def test_a_rank_that_raises_ends_all(runs):
    folder, ends = runs
    assert ends["raised"] == [2, 2]
    checkpoint = max((folder / "raised/checkpoints").iterdir()).relative_to(folder)
    first, second = ((folder / f"raised.{rank}.err").read_text() for rank in range(2))
    gone = r"error: rank 0: another rank has gone, or does not answer \(.*\); the last good checkpoint is (.*)\n"
    assert re.fullmatch(gone, first)[1] == str(checkpoint)
    assert second == "error: rank 1: a wall fell\n"
    assert load_checkpoint(folder / "raised")[0] == 0


def test_a_rank_that_is_killed_ends_all():
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()))
    result = program(*launcher, "program.py", *line("killed").split())
    assert result.returncode != 0
    (ours,) = re.findall(r"^error: .*$", result.stderr, re.MULTILINE)
    assert re.match(r"error: rank 0: another rank has gone, .*; the last good checkpoint is killed/checkpoints/", ours)
    assert load_checkpoint("killed")[0] == 0
