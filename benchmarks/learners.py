"""Training speed by actors, agent and ranks: `python -m benchmarks.learners` from the root of a checkout.

Each row is a fresh train_rl.py on the CPU without evaluations. Steps/s are those between the first and the last line of
its metrics.jsonl: without the start, with all the rest. The last column is the speed over that of the row it names:

    Pong         nature encoder, LSTM 256 and IMPALA, by actors; over steps/s of the emulators alone, random actions
    graph-pomdp  FWM as the preset has it; IMPALA over A2C, and with two actors of Ray's, an extra, over inline
    ranks        two processes under torchrun, as many environments in each as in the one; over twice the one
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.report import Report
from engram.envs import make_vec

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = {"program": "", "steps/s": ",.0f", "over": "", "ratio": ".2f"}
SHARED = "--device cpu --log-interval 1 --eval-interval 1000000000000 --save-minutes 60"
PONG = "--env atari:Pong --core lstm --preset paper --policy.encoder nature"
GRAPHS = "--env graph-pomdp --core fwm"


def emulators(num_envs: int = 32, seconds: float = 5.0) -> float:
    """Steps/s of Pong alone."""
    envs = make_vec("atari:Pong", num_envs)
    envs.reset(seed=0)
    actions = [envs.action_space.sample() for _ in range(100)]
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        envs.step(actions[steps % 100])
        steps += 1
    return steps * num_envs / (time.perf_counter() - start)


def training(line: str, steps: int, ranks: int = 1) -> float:
    """Steps/s of a run of train_rl.py of about `steps`."""
    launcher = [] if ranks == 1 else ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    with tempfile.TemporaryDirectory() as folder:
        flags = f"{line} {SHARED} --total-steps {steps} --folder {folder}/run"
        command = [sys.executable, *launcher, "train_rl.py", *flags.split()]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        lines = [json.loads(entry) for entry in Path(folder, "run/metrics.jsonl").read_text().splitlines()]
    first, last = lines[0], lines[-1]
    return (last["step"] - first["step"]) / (last["wall_time"] - first["wall_time"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pong-steps", type=int, default=100_000, help="of each run")
    parser.add_argument("--graph-steps", type=int, default=1_000_000, help="of each run, and of each rank")
    parser.add_argument("--num-actors", type=int, default=1, help="of --actors threads")
    parser.add_argument("--threads", type=int, help="of torch in each process; its own choice if not given")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers there")
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)

    report = Report(torch.get_num_threads(), ("torch", "numpy", "numba", "gymnasium", "envpool"), COLUMNS)
    raw = emulators()
    report.add("Pong, emulators alone", raw, "", None)
    for actors in "inline", f"threads --num-actors {args.num_actors}":
        speed = training(f"{PONG} --actors {actors}", args.pong_steps)
        report.add(f"Pong, {actors}", speed, "emulators", speed / raw)
    speeds = {agent: training(f"{GRAPHS} --agent {agent}", args.graph_steps) for agent in ("a2c", "impala")}
    report.add("graph-pomdp, A2C", speeds["a2c"], "", None)
    report.add("graph-pomdp, IMPALA", speeds["impala"], "A2C", speeds["impala"] / speeds["a2c"])
    if find_spec("ray"):
        speed = training(f"{GRAPHS} --agent impala --actors ray --num-actors 2", args.graph_steps)
        report.add("graph-pomdp, IMPALA, two Ray actors", speed, "IMPALA", speed / speeds["impala"])
    both = training(f"{GRAPHS} --agent a2c", 2 * args.graph_steps, ranks=2)
    report.add("graph-pomdp, A2C, two ranks", both, "2 x A2C", both / (2 * speeds["a2c"]))
    if args.json:
        report.save(args.json)


if __name__ == "__main__":
    main()
