"""Training speed on graph-pomdp, beside RecurrentPPO: `python -m benchmarks.training` from the root of a checkout.

Every program trains in this process on the CPU, in turns; the table holds medians over the turns. Steps are those of
episodes, acting and learning included; the ratio is the first program's speed over that of the row. A turn of ours is
train_rl.py's own loop over one evaluation interval and the checkpoint after it, with the core as registered, of the
paper's size, and the last columns say where its wall time goes:

    acting       forward passes of the policy while a rollout is collected
    environment  steps of the vector environment meanwhile
    learning     updates: loss, gradient, optimiser
    evaluation   episodes on held-out levels
    rest         everything else: drawing actions, building rollouts, metrics, logging, the checkpoint

RecurrentPPO, of sb3-contrib, plays the same environment through make_vec_env and DummyVecEnv: once as close to ours as
it allows, one LSTM of 32 units shared by policy and value without further layers (shared_lstm, net_arch=[]), as many
environments, rollouts of whole episodes, and one epoch with the rollout as its one batch; and once with its defaults:
two LSTMs of 256 units, two layers of 64 behind each, 10 epochs over 128 steps of one environment in batches of 128.

Below the table: the peak resident memory of a fresh `python train_rl.py`, and the time of `import engram` alone.
"""

import argparse
import contextlib
import dataclasses
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env

import train_rl
from benchmarks.report import Report
from engram.agents.config import Config, make_config, to_json
from engram.agents.presets import preset
from engram.envs import ENVS, env_options
from engram.policies import CORES, LSTM
from engram.run import Run
from engram.stop import StopRequest

ENV, ROOT = "graph-pomdp", Path(__file__).resolve().parent.parent
SECTIONS = ("acting", "environment", "learning", "evaluation")
COLUMNS = {
    "program": "",
    "steps/s": ",.0f",
    "first / this": ".2f",
    **dict.fromkeys((*SECTIONS, "rest"), ".1%"),
}
PEAK = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
PEAK += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
IMPORT = "import sys, time; start = time.perf_counter(); import engram; "
IMPORT += "print(time.perf_counter() - start, 'torch' in sys.modules)"


class Engram:
    """A run of train_rl.py that is trained one turn after the other."""

    def __init__(self, config: Config, run: Run):
        self.config, self.run, self.training = config, run, train_rl.Training(config)
        self.seconds = defaultdict(float)
        self._inside = False
        envs, learner = self.training.actors.actor.stepper.envs, self.training.learner
        learner.policy.forward = self._timed("acting", learner.policy.forward)
        envs.step = self._timed("environment", envs.step)
        learner.update = self._timed("learning", learner.update)
        self.turn(1)  # compiles, allocates

    def turn(self, steps: int) -> dict[str, float]:
        """Train for at least `steps`: steps/s, and the shares of the wall time."""
        before, start = self.training.step, time.perf_counter()
        self.seconds.clear()
        config = dataclasses.replace(self.config, total_steps=before + steps)
        evaluate = self._timed("evaluation", train_rl.evaluate)
        with patch.object(train_rl, "evaluate", evaluate), contextlib.redirect_stdout(io.StringIO()):
            if train_rl.train(config, self.run, self.training, StopRequest()):
                raise KeyboardInterrupt
        wall = time.perf_counter() - start
        shares = {name: self.seconds[name] / wall for name in SECTIONS}
        return {"steps/s": (self.training.step - before) / wall, **shares, "rest": 1 - sum(shares.values())}

    def _timed(self, section: str, function: Callable) -> Callable:
        """`function`, its time counted as that of `section` unless it is called within another timed function."""

        def call(*args, **kwargs):
            if self._inside:
                return function(*args, **kwargs)
            self._inside, start = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False
                self.seconds[section] += time.perf_counter() - start

        return call


class SB3:
    """RecurrentPPO on the environment of `config`."""

    def __init__(self, config: Config, num_envs: int = 1, **choices):
        envs = make_vec_env(ENVS[config.env.name][0], num_envs, env_kwargs=config.env.options())
        self.model = RecurrentPPO("MlpLstmPolicy", envs, device="cpu", **choices)
        self.turn(1)

    def turn(self, steps: int) -> dict[str, float]:
        """Train for at least `steps`, in whole rollouts."""
        before, start = self.model.num_timesteps, time.perf_counter()
        self.model.learn(steps, reset_num_timesteps=False)
        return {"steps/s": (self.model.num_timesteps - before) / (time.perf_counter() - start)}


def programs(core: str, folder: Path, stack: contextlib.ExitStack) -> dict[str, Callable[[], dict[str, float]]]:
    """Name -> a function that trains for a turn and measures it; the runs are closed by `stack`."""
    config = make_config(ENV, core, "a2c", "default", env_options, preset)
    config = dataclasses.replace(config, core=CORES[core], device="cpu", save_minutes=60)
    lstm = dataclasses.replace(config, core_name="lstm-32", core=LSTM.Config(32))
    ours, like = (Engram(c, stack.enter_context(Run.create(folder / c.core_name, to_json(c)))) for c in (config, lstm))
    n, episode = config.env.num_envs, config.env.options()["episode_length"]
    one_lstm = {"lstm_hidden_size": 32, "shared_lstm": True, "enable_critic_lstm": False, "net_arch": []}
    whole = {"n_steps": episode, "batch_size": episode * n, "n_epochs": 1, "policy_kwargs": one_lstm}
    theirs, defaults = SB3(config, n, **whole), SB3(config)
    return {
        f"engram A2C, {core}, {n} envs": lambda: ours.turn(config.eval_interval),
        f"engram A2C, LSTM 32, {n} envs": lambda: like.turn(config.eval_interval),
        f"RecurrentPPO, LSTM 32, {n} envs": lambda: theirs.turn(5 * episode * n),
        "RecurrentPPO, defaults, 1 env": lambda: defaults.turn(8 * defaults.model.n_steps),
    }


def peak_mebibytes(core: str, steps: int, folder: Path) -> float:
    """Peak resident memory of train_rl.py. Its parent is a small process, as a child's peak starts at its parent's."""
    command = ["train_rl.py", "--env", ENV, "--core", core, "--total-steps", str(steps), "--folder", str(folder)]
    peak = float(_python("-c", PEAK, sys.executable, *command))
    return peak / 2 ** (20 if sys.platform == "darwin" else 10)  # bytes there, kibibytes on Linux


def import_engram(repeats: int = 5) -> tuple[float, bool]:
    """Shortest seconds of `import engram` in a fresh interpreter, and whether that imported torch."""
    answers = [_python("-c", IMPORT).split() for _ in range(repeats)]
    return min(float(seconds) for seconds, _ in answers), answers[0][1] == "True"


def _python(*arguments: str) -> str:
    """What Python prints, run in the checkout with the threads of this process."""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, text=True, stdout=subprocess.PIPE).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", default="fwm", choices=CORES, help="of the first program and of the memory measured")
    parser.add_argument("--turns", type=int, default=3, help="of each program")
    parser.add_argument("--memory-steps", type=int, default=2_000_000, help="steps of the run whose memory is measured")
    parser.add_argument("--threads", type=int, help="of torch; its own choice if not given")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers there")
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)

    packages = ("torch", "numpy", "numba", "gymnasium", "stable-baselines3", "sb3-contrib")
    report = Report(torch.get_num_threads(), packages, COLUMNS)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        trained = programs(args.core, Path(folder), stack)
        turns = {name: [] for name in trained}
        for _ in range(args.turns):
            for name, turn in trained.items():
                turns[name].append(turn())
        medians = {name: _median(measured) for name, measured in turns.items()}
        first = medians[next(iter(medians))]["steps/s"]
        for name, median in medians.items():
            shares = (median.get(section) for section in (*SECTIONS, "rest"))
            report.add(name, median["steps/s"], first / median["steps/s"], *shares)
        peak = peak_mebibytes(args.core, args.memory_steps, Path(folder, "memory"))
    seconds, with_torch = import_engram()
    report.note(
        f"\npeak resident memory of train_rl.py over {args.memory_steps:,} steps: {peak:.0f} MiB", peak_mib=peak
    )
    report.note(
        f"import engram: {seconds:.3f} s, {'with' if with_torch else 'without'} torch",
        import_seconds=seconds,
        import_loads_torch=with_torch,
    )
    if args.json:
        report.save(args.json)


def _median(measured: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(turn[key] for turn in measured) for key in measured[0]}


if __name__ == "__main__":
    main()
